"""A function, or a dead-letter sink, as a source meets it: a small real HTTP server whose answers a test scripts."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

BATCH = "application/cloudevents-batch+json"
STRUCTURED = "application/cloudevents+json"


@dataclass(frozen=True)
class Event:
    """One CloudEvent of a request; `data` is None where there was none, not even an empty one."""

    attributes: Mapping[str, str]
    data: bytes | None

    @property
    def offset(self) -> int:
        return int(self.attributes["knativekafkaoffset"])

    @property
    def json(self) -> Any:
        return json.loads(self.data or b"null")


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def batch(self) -> bool:
        return self.headers.get("content-type") == BATCH

    @property
    def events(self) -> list[Event]:
        if self.batch:
            return [_structured(element) for element in json.loads(self.body)]
        if self.headers.get("content-type") == STRUCTURED:
            return [_structured(json.loads(self.body))]
        attributes = {name[3:]: text for name, text in self.headers.items() if name.startswith("ce-")}
        return [Event(attributes, self.body if "content-length" in self.headers else None)]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _at_once() -> bool:
    return True


@dataclass(frozen=True)
class Reply:
    """An answer; status 0 closes the connection without one. It is held back for `after_s`, and as long as `until` is not true."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    until: Callable[[], bool] = _at_once


CLOSE = Reply(0)
OK = Reply(200, {"outcome": "done"})
Script = Callable[[Request], Reply]


def refuse(code: str = "invalid_event") -> Reply:
    return Reply(422, {"code": code, "detail": f"{code}: is refused"})


def away(retry_after: str | None = None) -> Reply:
    return Reply(503, {"code": "unavailable", "detail": "the database is away"}, {"retry-after": retry_after} if retry_after else {})


def each(answer: Callable[[Event], Reply]) -> Script:
    """A function's answer, single or batch, from what it would say of each event. A reply of status 0 ends the whole request."""

    def script(request: Request) -> Reply:
        replies = [answer(event) for event in request.events]
        after_s = max((reply.after_s for reply in replies), default=0.0)
        if CLOSE in replies:
            return CLOSE
        if not request.batch:
            return replies[0]
        results = [{"status": reply.status, **(reply.body or {"outcome": "done"})} for reply in replies]
        status = 200 if all(reply.status == 200 for reply in replies) else 207
        return Reply(status, {"results": results}, after_s=after_s, until=lambda: all(reply.until() for reply in replies))

    return script


class Sink:
    """The server, in a thread of its own. `script` may be replaced at any time; `healthy` is what GET /health says."""

    def __init__(self) -> None:
        self.script: Script = each(lambda _: OK)
        self.healthy = True
        self.requests: list[Request] = []
        self.health_checks: list[float] = []
        self.open: list[Request] = []
        self.in_flight_max = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def in_flight(self) -> int:
        return len(self.open)

    @property
    def events(self) -> list[Event]:
        """Every event of every request, in the order of their arrival."""
        return [event for request in list(self.requests) for event in request.events]

    @property
    def offsets(self) -> list[int]:
        return [event.offset for event in self.events]

    def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self._server = self._in_loop(asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=1 << 24))
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Refuse connections and cut those that are open, as a killed process does."""
        self._in_loop(self._stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _in_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await asyncio.sleep(0)  # so that what was just accepted is among them
        for writer in list(self._writers):
            writer.transport.abort()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # so that what was cut has gone

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)  # now: a task that is cancelled before it has begun would close nothing
        self._serving.add(task := self._loop.create_task(self._serve(reader, writer)))
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                reply = await self._reply(Request(method, path, headers, body))
                if not reply.status:
                    return
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                lines = [f"HTTP/1.1 {reply.status} X", f"content-length: {len(content)}", *(f"{k}: {v}" for k, v in reply.headers.items())]
                writer.write("\r\n".join([*lines, "", ""]).encode() + content)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _reply(self, request: Request) -> Reply:
        if request.method == "GET":
            self.health_checks.append(time.monotonic())
            return OK if self.healthy else away()
        self.requests.append(request)
        self.open.append(request)
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        try:
            reply = self.script(request)
            await asyncio.sleep(reply.after_s)
            while not reply.until():  # noqa: ASYNC110  what it waits for is of another thread
                await asyncio.sleep(0.005)
            return reply
        finally:
            self.open.remove(request)


def _structured(element: dict[str, Any]) -> Event:
    data: bytes | None = None
    if "data" in element:
        data = json.dumps(element.pop("data")).encode()
    elif "data_base64" in element:
        data = base64.b64decode(element.pop("data_base64"))
    return Event(element, data)
