"""The process a function runs in: its routes for probes and metrics, errors as answers, start, drain and end.

The only module that knows functions-framework. A function answers the same under its command line and under `main` here; `main` is what
production runs, for it drains: after SIGTERM it goes on listening for DRAIN_DELAY with /ready at 503 and `Connection: close` on every
answer, then finishes what is in flight within SHUTDOWN_TIMEOUT, and exits 0. What takes longer is answered 503, and not cut off: a source
takes a lost connection for one more try of the event, and a 503 for nobody's fault.
"""

import argparse
import asyncio
import contextlib
import functools
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import FrameType
from typing import Any, ClassVar

import functions_framework.aio
import functions_framework.exceptions
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import application, bearer, config, connections, errors, logs, problem, telemetry

log = logging.getLogger(__name__)

Handle = Callable[[Request], Awaitable[ASGIApp]]


class _Process:
    """What this process knows of its own beginning and end."""

    draining = False
    at_start: ClassVar[list[Callable[[config.Settings], None]]] = []
    at_end: ClassVar[list[Callable[[], Awaitable[None]]]] = []


def function(
    name: str,
    *,
    ready: Callable[[], Awaitable[None]],
    check: Callable[[config.Settings], None] | None = None,
    measure: Callable[[], Awaitable[None]] | None = None,
    end: Callable[[], Awaitable[None]] | None = None,
    token: bool = True,
) -> Callable[[Handle], Handle]:
    """Make `handle(request) -> Response` (or any ASGI application) the function `name` that functions-framework runs.

    Beside what `handle` answers there are GET /health (the process works), /ready (`ready` did not raise) and /metrics. An
    OrderflowError becomes its problem+json, any other exception a 500 without its text. With `token`, requests that are not reads
    need DELIVERY_TOKEN where one is set. `measure` runs before each answer of /metrics, to set what is read from elsewhere: it keeps what
    it read for a while, and takes a gauge away when it cannot tell. `check` runs before the process listens, and raises ConfigError where
    it must not start; `end` when it stops.
    """
    if check is not None:
        _Process.at_start.append(check)
    if end is not None:
        _Process.at_end.append(end)

    def decorate(handle: Handle) -> Handle:
        @functools.wraps(handle)
        async def answer(request: Request) -> Any:
            _start()
            if request.method in {"GET", "HEAD"}:
                own = await _own_route(request.url.path, ready, measure)
                if own is not None:
                    return own
            response = await _answered(request, handle, token=token)
            if not isinstance(response, Response) or _Process.draining:
                return _Answer(name, response)
            telemetry.requests(name, response.status_code).inc()
            return response

        return functions_framework.aio.http(answer)  # type: ignore[return-value]  # it gives back what it got, typed more widely

    return decorate


class _Answer:
    """An answer on its way out: counted, and the last on its connection when the process is about to end."""

    def __init__(self, name: str, response: ASGIApp) -> None:
        self._name, self._response = name, response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                telemetry.requests(self._name, message["status"]).inc()
                if _Process.draining:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._response(scope, receive, counted)


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The request's body. Raises TooLarge as soon as it is known to be longer than `bytes_max`."""
    announced = next((value for name, value in request.scope["headers"] if name == b"content-length"), b"")
    if announced.isdigit() and int(announced) > bytes_max:
        raise _too_large(bytes_max)
    parts, size, more = [], 0, True
    while more:
        message = await request.receive()  # as Starlette's own stream does it, which for a small body costs twice as much
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > bytes_max:
            raise _too_large(bytes_max)
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large(bytes_max: int) -> errors.TooLarge:
    return errors.TooLarge(f"the body is larger than {bytes_max} bytes")


@functools.cache
def _start() -> config.Settings:
    """Check the settings and set up the log, once: in `main`, or at the first request under functions-framework's own command line."""
    settings = config.settings()
    logs.set_up(settings.log_level, settings.log_format)
    return settings


async def _own_route(path: str, ready: Callable[[], Awaitable[None]], measure: Callable[[], Awaitable[None]] | None) -> Response | None:
    if path == "/health":
        return JSONResponse({"status": "ok"})
    if path == "/metrics":
        if measure is not None:
            await measure()
        return telemetry.exposition()
    if path == "/ready":
        try:
            if _Process.draining:
                raise errors.Unavailable("the process is about to end", code="draining")
            await ready()
        except errors.OrderflowError as exc:
            return problem.response(exc)
        return JSONResponse({"status": "ready"})
    return None


async def _answered(request: Request, handle: Handle, *, token: bool) -> ASGIApp:
    try:
        if token and request.method not in {"GET", "HEAD"}:
            _authorize(request)
        return await handle(request)
    except errors.OrderflowError as exc:
        return problem.response(exc)
    except asyncio.CancelledError:  # SHUTDOWN_TIMEOUT has passed; what is committed by then, or later, the inbox knows
        if not _Process.draining:
            raise
        return problem.response(errors.Unavailable("the process ended before the request was done", code="draining"))
    except ClientDisconnect:
        return problem.response(errors.NotACloudEvent("the client went away before its request was read"))  # nobody reads this
    except Exception:
        log.exception("a request failed in a way nobody foresaw", extra={"path": request.url.path})
        return problem.response(errors.Bug("this is a fault of the function; its log has more"))


def _authorize(request: Request) -> None:
    tokens = config.settings().delivery_token
    if tokens and not bearer.lets_in(request.headers.get("authorization", ""), tokens):
        raise errors.Unauthorized


def main(arguments: list[str] | None = None) -> int:
    """Run one function until SIGTERM. The exit code: 0 after a drain, 2 when a setting or the source is wrong, 3 when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m shared.server", description="Run one function, and drain it on SIGTERM.")
    parser.add_argument("--source", default=os.environ.get("FUNCTION_SOURCE", "main.py"), help="the function's main.py")
    parser.add_argument("--target", default=os.environ.get("FUNCTION_TARGET", "handle"), help="the name of the function in it")
    parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8080")))
    parser.add_argument("--uds", default=None, help="listen on this Unix socket instead")
    options = parser.parse_args(arguments)
    try:
        settings = _start()
        app = functions_framework.aio.create_asgi_app(  # type: ignore[no-untyped-call]
            options.target, options.source
        )
        for check in _Process.at_start:
            check(settings)
    except (errors.ConfigError, functions_framework.exceptions.FunctionsFrameworkException) as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    limits = connections.Limits(settings)
    server = _Server(
        uvicorn.Config(
            limits.around(application.of(app, _lifespan)),
            host=options.host,
            port=options.port,
            uds=options.uds,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=limits.protocol,  # type: ignore[arg-type]  # it is called like a class
            ws="none",
            timeout_keep_alive=connections.KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
        ),
        settings.drain_delay,
    )
    server.run()
    return 0 if server.started else 3


@contextlib.asynccontextmanager
async def _lifespan(_app: object) -> AsyncIterator[None]:
    gc.freeze()  # what is there by now stays, so the collector need not look at it again: that took 30 ms each time
    yield
    for end in _Process.at_end:
        await end()


class _Server(uvicorn.Server):
    """Goes on answering for a while after SIGTERM, so that no balancer meets a closed port."""

    def __init__(self, settings: uvicorn.Config, drain_delay_s: float) -> None:
        super().__init__(settings)
        self._drain_delay_s = drain_delay_s
        self._end_at = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain, then end; second, or Ctrl-C: end now. It is not raised again, so the exit code is 0."""
        del frame
        at_once = _Process.draining or sig == signal.SIGINT
        _Process.draining = True
        self._end_at = time.monotonic() + (0 if at_once else self._drain_delay_s)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        return await super().on_tick(counter) or time.monotonic() >= self._end_at


if __name__ == "__main__":
    # By its own name: the functions' decorators must meet this module, not a second copy of it called __main__.
    from shared import server  # noqa: PLW0406

    sys.exit(server.main())
