"""What a Service of Kubernetes is to its pods: one address, behind which each connection goes to one process that is ready."""

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from ops import child

PROBE_EVERY_S, PROBE_TIMEOUT_S = 0.2, 5.0


@dataclass
class Backend:
    """One process behind an address."""

    url: str
    ready: bool = False
    connections: int = 0


class Balancer:
    """Addresses for functions, each with its backends. Of HTTP it knows the probe alone: what a client sees comes from a process."""

    def __init__(self) -> None:
        self._backends: dict[str, list[Backend]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="balancer")
        self._thread.start()
        self._probing = asyncio.run_coroutine_threadsafe(self._probe_all(), self._loop)

    def address(self, name: str) -> str:
        """A new address for `name`."""

        async def open_it() -> int:
            server = await asyncio.start_server(lambda reader, writer: self._serve(name, reader, writer), child.LOOPBACK, 0)
            self._servers.append(server)
            return int(server.sockets[0].getsockname()[1])

        return f"http://{child.LOOPBACK}:{asyncio.run_coroutine_threadsafe(open_it(), self._loop).result(10)}"

    def add(self, name: str, url: str) -> Backend:
        """A process more for `name`; it gets connections when it is ready."""
        found = Backend(url)
        self._loop.call_soon_threadsafe(self._backends[name].append, found)
        return found

    def remove(self, name: str, backend: Backend) -> None:
        """A process less."""
        self._loop.call_soon_threadsafe(self._backends[name].remove, backend)

    def close(self) -> None:
        """Let go of all connections."""

        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait([asyncio.create_task(asyncio.sleep(0)), *self._tasks])

        self._probing.cancel()
        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _probe_all(self) -> None:
        async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False) as client:
            while True:
                for backend in [backend for several in self._backends.values() for backend in several]:
                    backend.ready = await _ready(client, backend.url)
                await asyncio.sleep(PROBE_EVERY_S)

    async def _serve(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            backend = min((one for one in self._backends[name] if one.ready), key=lambda one: one.connections, default=None)
            if backend is not None:
                with _counted(backend), contextlib.suppress(OSError):
                    await _join(backend, reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()


@contextlib.contextmanager
def _counted(backend: Backend) -> Iterator[None]:
    backend.connections += 1
    try:
        yield
    finally:
        backend.connections -= 1


async def _join(backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host, _, port = backend.url.removeprefix("http://").partition(":")
    from_backend, to_backend = await asyncio.open_connection(host, int(port))
    try:
        await asyncio.gather(_pipe(reader, to_backend), _pipe(from_backend, writer))
    finally:
        to_backend.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/ready")).status_code == 200
    except httpx.HTTPError:
        return False
