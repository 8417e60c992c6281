"""TCP between a client and a server that cuts the connection exactly when an answer of the server is on its way, or before it is asked."""

import asyncio
import contextlib
import struct
import threading
from typing import Any, Literal, Self

BEGIN, COMMIT = b"BEGIN\x00", b"Q\x00\x00\x00\x0bCOMMIT\x00"
PRODUCE, OFFSET_COMMIT = 0, 8  # api keys of Kafka's requests


class Link:
    """One connection through a proxy, and what its proxy remembers of it."""

    def __init__(self) -> None:
        self.said = b""  # by the client: what the proxy has still to look at
        self.told = b""  # by the server, likewise
        self.ends: bytes | None = None  # the answer that is not to arrive


class Proxy:
    """On a free loopback port until the end of the block, in a thread of its own. What passes is for a kind of proxy to say."""

    def __init__(self, port: int, own_port: int = 0) -> None:
        self.port, self.cuts = own_port, 0
        self._server_port = port
        self._gate = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._accepted: list[tuple[asyncio.StreamWriter, asyncio.Task[None]]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._in_loop(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._in_loop(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def said(self, link: Link, data: bytes) -> bool:
        """The client has said `data`: whether the server hears it; else the connection is cut."""
        raise NotImplementedError

    def told(self, link: Link, data: bytes) -> bool:
        """The server has told `data`: whether the client hears it; else the connection is cut."""
        raise NotImplementedError

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Now: a task that is cancelled before it has begun would close nothing.
        self._accepted.append((writer, self._loop.create_task(self._serve(reader, writer))))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        link = Link()
        ways = [
            asyncio.create_task(self._carry(reader, to_server, lambda data: self.said(link, data))),
            asyncio.create_task(self._carry(from_server, writer, lambda data: self.told(link, data))),
        ]
        with contextlib.suppress(asyncio.CancelledError):  # the end of the proxy
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, to_server):
            end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Any) -> None:
        while data := await reader.read(1 << 16):
            with self._gate:
                if not passes(data):
                    self.cuts += 1
                    return
            writer.write(data)
            await writer.drain()

    async def _end(self) -> None:
        self._server.close()
        await asyncio.sleep(0)  # so that what was just accepted is among them
        for writer, _ in self._accepted:
            writer.transport.abort()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # so that what was cut has gone

    def _in_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


class CommitCut(Proxy):
    """PostgreSQL, as long as it lasts: cuts at the COMMIT of a transaction, before the server has it or before its answer comes."""

    _when: Literal["before", "after"] | None = None

    def order(self, needle: str, when: Literal["before", "after"], nth: int = 1) -> None:
        """At the `nth` COMMIT, from now on, of a transaction in which `needle` was said."""
        with self._gate:
            self._needle, self._when, self._left = needle.encode(), when, nth

    def said(self, link: Link, data: bytes) -> bool:
        link.said = data if BEGIN in data else link.said + data
        if not self._when or self._needle not in link.said or not link.said.endswith(COMMIT):
            return True
        self._left -= 1
        if self._left:
            return True
        when, self._when = self._when, None
        link.ends = COMMIT
        return when == "after"

    def told(self, link: Link, data: bytes) -> bool:
        del data
        return link.ends is None  # PostgreSQL answers when it has committed


class AnswerCut(Proxy):
    """Kafka, as long as it lasts: cuts when the answer to a request of a kind comes, which is then done and nobody knows."""

    _kind: int | None = None

    def order(self, kind: int) -> None:
        """At the answer to the next request of `kind`."""
        with self._gate:
            self._kind = kind

    def said(self, link: Link, data: bytes) -> bool:
        link.said += data
        while (frame := _frame(link.said)) is not None:
            link.said = link.said[4 + len(frame) :]
            kind, _version, correlation = struct.unpack(">hhi", frame[:8])
            if kind == self._kind:
                self._kind, link.ends = None, struct.pack(">i", correlation)
        return True

    def told(self, link: Link, data: bytes) -> bool:
        link.told += data
        while (frame := _frame(link.told)) is not None:
            link.told = link.told[4 + len(frame) :]
            if frame[:4] == link.ends:
                return False
        return True


def _frame(data: bytes) -> bytes | None:
    """The first whole request or answer in `data`, without its length."""
    if len(data) < 4:
        return None
    (size,) = struct.unpack(">i", data[:4])
    return data[4 : 4 + size] if len(data) >= 4 + size else None
