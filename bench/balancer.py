"""`python -m bench.balancer PORT URL …`: each connection goes to the process with the fewest, as behind a Service of Kubernetes.

Only there so that two function processes can share one address on one machine; its CPU is measured beside theirs.
"""

import asyncio
import sys
from typing import cast
from urllib.parse import urlsplit

import uvloop


class _End(asyncio.Protocol):
    """One end of a connection: what it reads goes to the other."""

    transport: asyncio.Transport
    other: "_End | None" = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.other is not None:
            self.other.transport.close()


class _Front(_End):
    """The end towards the client. What it reads before the other end is there is kept: a pause in reading did not hold in uvloop."""

    def __init__(self, backends: "dict[tuple[str, int], int]") -> None:
        self._backends = backends
        self._backend: tuple[str, int] | None = None
        self._joining: asyncio.Task[None] | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._backend = min(self._backends, key=self._backends.__getitem__)
        self._backends[self._backend] += 1
        self._joining = asyncio.get_running_loop().create_task(self._join(self._backend))

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    async def _join(self, backend: tuple[str, int]) -> None:
        try:
            _, other = await asyncio.get_running_loop().create_connection(_End, *backend)
        except OSError:
            self.transport.close()
            return
        if self.transport.is_closing():
            other.transport.close()
            return
        self.other, other.other = other, self
        other.transport.write(b"".join(self._early))
        self._early.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._backend is not None:
            self._backends[self._backend] -= 1


async def _serve(port: int, urls: list[str]) -> None:
    parts = [urlsplit(url) for url in urls]
    backends = {(part.hostname or "", part.port or 80): 0 for part in parts}
    server = await asyncio.get_running_loop().create_server(lambda: _Front(backends), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2:]))
