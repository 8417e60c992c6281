"""The source's own HTTP client, against a server that answers byte by byte as a test says."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest

from connectors.kafka_source import http1

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEADERS = [(b"ce-id", b"1")]


@contextlib.asynccontextmanager
async def _client(*pieces: bytes, end: bool = False) -> AsyncIterator[tuple[http1.Client, list[bytes]]]:
    """A client of a server that answers every request with `pieces`; and the requests, each after the number of its connection."""
    seen: list[bytes] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        mine = connections
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next((int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: ")), 0)
                seen.append(b"%d " % mine + head + await reader.readexactly(size))
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if end:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await _close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://user:p%40ss@127.0.0.1:{port}/a%20b"
    client = http1.Client(url, {"user-agent": "x"}, ssl.create_default_context(), connect_s=5, keep_s=60, keep_max=1)
    try:
        yield client, seen
    finally:
        client.close()
        server.close()
        await _others()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _others() -> None:
    """Wait until every connection of the server has ended, and the client's."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    await asyncio.sleep(0)


def _twice(*pieces: bytes, end: bool = False) -> tuple[list[http1.Response], list[bytes]]:
    async def ask() -> tuple[list[http1.Response], list[bytes]]:
        async with _client(*pieces, end=end) as (client, seen):
            async with asyncio.timeout(10):
                return [await client.post(HEADERS, b"one"), await client.post(HEADERS, b"two")], seen

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "pieces",
    [
        (OK,),
        tuple(bytes([byte]) for byte in OK),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", OK),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n", b"1\r\nk\r\n0\r\n\r\n"),
    ],
    ids=["whole", "bytes", "early-hints", "chunked"],
)
def test_a_connection_is_kept_after_a_whole_answer(pieces: tuple[bytes, ...]) -> None:
    """However an answer is cut and framed, it is read whole, and the next request goes over the same connection."""
    answers, seen = _twice(*pieces)
    assert [(200, b"ok")] * 2 == [(answer.status_code, answer.content) for answer in answers]
    assert [b"1", b"1"] == [request[:1] for request in seen]


@pytest.mark.parametrize(
    ("pieces", "end"),
    [
        ((b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",), True),
        ((b"HTTP/1.1 200 OK\r\n\r\no", b"k"), True),
        ((OK + OK,), False),
    ],
    ids=["close", "until-the-end", "more-than-asked"],
)
def test_a_connection_is_not_used_again_when_it_is_over_or_out_of_step(pieces: tuple[bytes, ...], end: bool) -> None:
    """One that the server closes, or on which there is more than was asked for, carries no second request."""
    answers, seen = _twice(*pieces, end=end)
    assert [(200, b"ok")] * 2 == [(answer.status_code, answer.content) for answer in answers]
    assert [b"1", b"2"] == [request[:1] for request in seen]


@pytest.mark.parametrize(
    "pieces",
    [(), (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",), (b"SSH-2.0-OpenSSH\r\n",), (b"HTTP/1.1 103 Early Hints\r\n\r\n",)],
    ids=["nothing", "cut", "no-http", "hints-only"],
)
def test_half_an_answer_is_none(pieces: tuple[bytes, ...]) -> None:
    """A connection that ends before the answer is whole, or brings something else, gave no answer."""
    with pytest.raises(http1.NoAnswer):
        _twice(*pieces, end=True)


def test_what_could_not_be_sent_is_told_apart() -> None:
    """Where nobody listens, the request surely was not sent."""

    async def ask() -> None:
        async with _client(OK) as (client, _):
            pass
        await client.post(HEADERS, b"")

    with pytest.raises(http1.NotSent):
        asyncio.run(ask())


def test_a_request_says_all_that_it_should() -> None:
    """Path, host and credentials of the address, the headers given, and a length unless there is no body at all."""

    async def ask() -> list[bytes]:
        async with _client(OK) as (client, seen):
            await client.post(HEADERS, b"")
            await client.post(HEADERS, None)
        return seen

    empty, null = asyncio.run(ask())
    lines = empty[2:].split(b"\r\n")
    assert lines[0] == b"POST /a%20b HTTP/1.1"
    assert lines[1].startswith(b"host: 127.0.0.1:")
    assert [b"user-agent: x", b"authorization: Basic dXNlcjpwQHNz", b"ce-id: 1", b"content-length: 0", b"", b""] == lines[2:]
    assert empty.replace(b"content-length: 0\r\n", b"") == null


def test_a_cancelled_request_leaves_no_answer_for_the_next() -> None:
    """What answers a request that was given up is never taken for the answer to another."""

    async def ask() -> list[bytes]:
        go = asyncio.Event()
        count = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            count += 1
            mine = count
            await reader.readuntil(b"\r\n\r\n")
            if mine == 1:
                await go.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % mine)
            await _close(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = http1.Client(url, {}, ssl.create_default_context(), connect_s=5, keep_s=60, keep_max=1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await client.post([], None)
        go.set()
        answer = await client.post([], None)
        client.close()
        server.close()
        await _others()
        return [answer.content]

    assert asyncio.run(ask()) == [b"2"]
