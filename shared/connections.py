"""What one connection to a process may cost: bytes, time, and its place among the others.

uvicorn alone reads a head of any size for any length of time, keeps a connection on which nothing ever comes, and waits for ever for
somebody to take an answer. Here a head ends within HEAD_BYTES_MAX, a request within REQUEST_READ_TIMEOUT, an answer is taken within
ANSWER_WRITE_TIMEOUT; beyond CONNECTIONS_MAX the one whose time to send a request ends first makes room; and what requests have brought
and is not yet answered is at most REQUEST_BYTES_MAX over all of them. What ends so is counted in `orderflow_connections_cut_total`.
"""

import asyncio
from typing import Any, Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http import httptools_impl

from shared import errors, problem, telemetry
from shared.config import Settings

KEEP_ALIVE_S = 75  # longer than a client's or proxy's pool keeps a connection, so that it is never the server that closes first
HEAD_BYTES_MAX = (1 << 20) + (64 << 10)  # a KafkaSource sends a record's headers in it, and what it goes through takes no more than 1 MiB
PIPELINED_MAX = 64  # requests that wait on a connection for the answers to those before
LOOK_S = 0.25
_NEVER = float("inf")


class MalformedRequest(errors.OrderflowError):
    """What came is no HTTP/1.1 request."""

    status = 400
    code = "malformed_request"


class RequestTimeout(errors.OrderflowError):
    """The request did not arrive whole in time."""

    status = 408
    code = "request_timeout"


class HeadTooLarge(errors.OrderflowError):
    """The request's line and headers are larger than is taken here."""

    status = 431
    code = "head_too_large"


class Limits:
    """The limits of one process, what its connections hold of them, and the look at each of them now and then."""

    def __init__(self, settings: Settings) -> None:
        self.read_s, self.write_s = settings.request_read_timeout, settings.answer_write_timeout
        self.connections_max, self.bytes_max = settings.connections_max, settings.request_bytes_max
        self.bytes = 0
        self._looking: asyncio.TimerHandle | None = None

    def protocol(self, *arguments: Any, **named: Any) -> "Connection":
        """What uvicorn makes of each connection."""
        return Connection(*arguments, limits=self, **named)

    def around(self, app: ASGIApp) -> ASGIApp:
        """`app`, so that what its requests bring counts until they have ended."""

        async def counting(scope: Scope, receive: Receive, send: Send) -> None:
            with _Body(receive, self) as counted:
                await app(scope, counted, send)

        return counting

    def look_on(self, connections: "set[Connection]", loop: asyncio.AbstractEventLoop) -> None:
        """Look after `connections` for as long as there are any."""
        if self._looking is None:
            self._looking = loop.call_later(LOOK_S, self._look, connections, loop)

    def _look(self, connections: "set[Connection]", loop: asyncio.AbstractEventLoop) -> None:
        self._looking = None
        now = loop.time()
        for connection in list(connections):
            connection.look(now)
        if connections:
            self.look_on(connections, loop)


class _Body:
    """A request's `receive` that counts what it brings. Raises Overloaded where there is no room for it."""

    __slots__ = ("_bytes", "_limits", "_receive")

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits, self._bytes = receive, limits, 0

    async def __call__(self) -> Message:
        """The next message of the request."""
        message = await self._receive()
        size = len(message.get("body", b""))
        self._bytes += size
        self._limits.bytes += size
        if size and self._limits.bytes > self._limits.bytes_max:
            raise errors.Overloaded("the requests that are worked on hold as much as is taken here", code="requests_too_large")
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._limits.bytes -= self._bytes


class Connection(httptools_impl.HttpToolsProtocol):
    """One connection. `_due` is when what is waited for must be there: a request, the rest of it, or (infinity) our own answer."""

    connections: "set[Connection]"  # type: ignore[assignment]  # of this process, and all of this class

    def __init__(self, *arguments: Any, limits: Limits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._due = self._taken_by = self._late = _NEVER
        self._in_head = self._in_request = self._deaf = False
        self._running: httptools_impl.RequestResponseCycle | None = None
        self._unread = 0  # bytes since the last that said something: a head, or a piece of a body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._due = self.loop.time() + self._limits.read_s
        self._limits.look_on(self.connections, self.loop)
        if len(self.connections) > self._limits.connections_max:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._said_something()
        self.pipeline.clear()
        if self._running is not None:  # uvicorn tells only the newest request, and an earlier one would write where nothing can be written
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unread += len(data)
        self._limits.bytes += len(data)
        super().data_received(data)
        if self._unread > HEAD_BYTES_MAX:
            self._refuse(HeadTooLarge(f"the request's line and headers have more than {HEAD_BYTES_MAX} bytes"), "head")
        elif self._in_head and self._limits.bytes > self._limits.bytes_max:
            self._refuse(errors.Overloaded("more requests arrive than can be read", code="requests_too_large"), "bytes")

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn says None
        if self._in_request or self.cycle is None or self.cycle.response_complete:
            return None
        self.cycle.keep_alive = False  # who has said all may still wait for an answer
        return True

    def pause_writing(self) -> None:
        self._taken_by = self.loop.time() + self._limits.write_s
        super().pause_writing()

    def resume_writing(self) -> None:
        self._taken_by = _NEVER
        super().resume_writing()

    def on_message_begin(self) -> None:
        self._in_head = self._in_request = True
        self._due = self.loop.time() + self._limits.read_s
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._said_something()
        if len(self.pipeline) >= PIPELINED_MAX:
            raise MalformedRequest  # uvicorn itself reads on with each answer, and each read holds thousands of small requests
        super().on_headers_complete()
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        self._said_something()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_request = False
        super().on_message_complete()
        self._due = self.loop.time() + KEEP_ALIVE_S if self.cycle.response_complete else _NEVER

    def on_response_complete(self) -> None:
        if not self._in_request and not self.pipeline:
            self._due = self.loop.time() + KEEP_ALIVE_S
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(MalformedRequest(msg), "malformed")

    def _start_asgi_task(self, cycle: httptools_impl.RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def look(self, now: float) -> None:
        """Cut it if its time is over."""
        if now > self._taken_by or (self.transport.is_closing() and now > self._due + self._limits.write_s):
            telemetry.connections_cut("unread").inc()
            self.transport.abort()
        elif now <= self._due or self.transport.is_closing():
            return
        elif self._late != self._due:
            self._late = self._due  # one look more: what the loop had no time to read may be there by now
        elif self._in_request:
            self._refuse(RequestTimeout(f"the request was not whole within {self._limits.read_s:g} s"), "slow")
        else:
            telemetry.connections_cut("idle").inc()
            self._close()

    def _make_room(self) -> None:
        """Close the connection that has waited longest for a request. Where all are at work, this one is not taken."""
        others = [each for each in self.connections if each is not self and not each.transport.is_closing()]
        waiting = [each for each in others if each._in_head or (each._due < _NEVER and not each._in_request)]
        if len(others) < self._limits.connections_max:
            return
        if waiting:
            telemetry.connections_cut("room").inc()
            min(waiting, key=lambda each: each._due)._close()
        else:
            self._refuse(errors.Unavailable("there are more connections than are taken here", code="too_many_connections"), "full")

    def _said_something(self) -> None:
        self._limits.bytes -= self._unread
        self._unread = 0

    def _refuse(self, error: errors.OrderflowError, why: str) -> None:
        """Answer with `error` where the next answer on this connection is that of the request in question, and end it in any case."""
        self._said_something()
        if self.transport.is_closing():
            return
        telemetry.connections_cut(why).inc()
        cycle = self.cycle
        first = cycle is None or (cycle.response_complete and self._in_head)
        if first or (self._in_request and not (self._in_head or cycle.response_started or self.pipeline)):
            self.transport.write(_raw(error))
            self._close()
        elif cycle.response_complete:
            self._close()
        else:  # behind a request that is worked on: that one gets its answer, which is the last
            cycle.keep_alive = False
            self._deaf = True
            self.flow.pause_reading()

    def _close(self) -> None:
        self._due = min(self._due, self.loop.time())
        self.transport.close()


def _raw(error: errors.OrderflowError) -> bytes:
    response = problem.response(error, headers={"Connection": "close"})
    lines = b"".join([b"%b: %b\r\n" % header for header in response.raw_headers])
    return b"%b%b\r\n%b" % (httptools_impl.STATUS_LINE[error.status], lines, bytes(response.body))
