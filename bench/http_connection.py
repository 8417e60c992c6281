"""One HTTP connection of a load: a request, its answer, the next request; a few lines, which take little of the machine."""

import asyncio
from typing import Protocol, cast


class Load(Protocol):
    """Who sends, and is told what came of it."""

    def answered(self, connection: "Connection", head: bytes, body: bytes) -> None:
        """The answer is whole; of its head all letters are small."""

    def lost(self, connection: "Connection", exc: Exception | None) -> None:
        """The connection has ended."""


class Connection(asyncio.Protocol):
    """One connection; `number` and `sent_at` are of the request on it, the second as its load says."""

    _transport: asyncio.Transport  # from connection_made on, which comes before all else

    def __init__(self, load: Load) -> None:
        self._load, self._heard = load, b""
        self.number, self.sent_at = -1, 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, sent_at: float, number: int = -1) -> None:
        """Send a request; the one before has its answer."""
        self.number, self.sent_at = number, sent_at
        self._transport.write(request)

    def close(self) -> None:
        """End it."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        heard = self._heard = self._heard + data if self._heard else data
        end = heard.find(b"\r\n\r\n")
        if end < 0:
            return
        head = heard[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(heard) >= end + 4 + length:
            self._heard = b""
            self._load.answered(self, head, heard[end + 4 :])

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self, exc)
