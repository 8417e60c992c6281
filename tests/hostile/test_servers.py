"""Servers that answer a source slowly, without end, or with anything but HTTP: no answer, in time, within the source's own memory."""

import asyncio
import contextlib
import dataclasses
import gzip
import os
from collections.abc import AsyncIterator

import pytest

from connectors.kafka_source import answers, http1, letter, record, sink
from fuzz import targets
from tests import stack
from tests.hostile import wire
from tests.serving import Behaviour, serving

# Twice what an answer may have, for a server writes ahead of the client, in the same process here.
GROWTH_MIB_MAX = 2 * http1.ANSWER_BYTES_MAX // wire.MIB + 32


@contextlib.asynccontextmanager
async def source_of(url: str, timeout_s: float = stack.PATIENCE_S) -> AsyncIterator[tuple[sink.Sink, letter.Letters]]:
    """A source's own clients for `url`, as function, health and dead-letter sink."""
    source = dataclasses.replace(targets.SOURCE, sink=url, health=url, letters=url, timeout_s=timeout_s)
    function, http = sink.clients(source, {})
    try:
        yield sink.Sink(source, function, http), letter.Letters(source, http, lambda _: None)
    finally:
        function.close()
        await http.aclose()


def one() -> record.Record:
    return targets.a_record(b"{}")


def without_end(head: bytes, piece: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        while True:
            writer.write(piece * (65536 // len(piece)))
            await writer.drain()

    return behave


ENDLESS = {
    "line": (b"HTTP/1.1 200 ", b"O"),
    "header": (b"HTTP/1.1 200 OK\r\nx: ", b"y"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
    "hints": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "length": (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", b"x"),
    "chunks": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "extension": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"x"),
    "trailers": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"x: y\r\n"),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_answer_without_end_is_none(kind: str) -> None:
    before = wire.memory_mib(os.getpid())
    async with serving(without_end(*ENDLESS[kind])) as url, source_of(url) as (to, _):
        answer = await to.deliver([one()], [])
    assert isinstance(answer, answers.Answer)
    assert (answers.Kind.LOST, "no_answer") == (answer.kind, answer.code)
    assert wire.memory_mib(os.getpid()) < before + GROWTH_MIB_MAX


async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    while True:
        writer.write(b"H")
        await asyncio.sleep(0.02)


async def never(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write_eof()
    await reader.read()


@pytest.mark.parametrize("behave", [slowly, never, half])
async def test_a_server_that_answers_slowly_never_or_after_closing_its_half_is_given_up(behave: Behaviour) -> None:
    async with serving(behave) as url, source_of(url, timeout_s=0.3) as (to, letters):
        answer = await to.deliver([one()], [])
        problem, _ = await letters._post(url, b"{}")
        assert behave is slowly or not await to.healthy()
    assert isinstance(answer, answers.Answer)
    assert answer.kind is answers.Kind.LOST
    assert problem


async def bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    packed = gzip.compress(bytes(256 * wire.MIB), 1)
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 500 X\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(packed), packed))
    await writer.drain()


async def test_an_answer_that_is_compressed_is_not_unpacked() -> None:
    """256 MiB of zeros, to a letter and to the question for its health."""
    before = wire.memory_mib(os.getpid())
    async with serving(bomb) as url, source_of(url) as (to, letters):
        problem, _ = await letters._post(url, b"{}")
        assert not await to.healthy()
    assert problem is not None
    assert problem.startswith("500: ")
    assert wire.memory_mib(os.getpid()) < before + 64


async def test_a_dead_letter_sink_that_answers_without_end_is_believed_and_let_go() -> None:
    behave = without_end(b"HTTP/1.1 200 OK\r\n\r\n", b"x")
    before = wire.memory_mib(os.getpid())
    async with serving(behave) as url, source_of(url) as (to, letters):
        assert (None, None) == await letters._post(url, b"{}")
        assert await to.healthy()
    assert wire.memory_mib(os.getpid()) < before + 64
