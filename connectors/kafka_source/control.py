"""The control HTTP of the source: health, metrics, status, pause and resume."""

import contextlib
import json
from collections.abc import Iterator, Mapping

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.kafka_source.service import Service
from shared import telemetry

_BODY_BYTES_MAX = 4096
_REASON_MAX = 300
_ACCEPT_LETTERS_MAX = 1_000_000_000


class Server(uvicorn.Server):
    """uvicorn that leaves signals to the process: the sources are to end first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def server(services: Mapping[str, Service]) -> Server:
    """The server; its `serve(sockets=…)` runs in the sources' event loop."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def exposition(_: Request) -> Response:
        for service in services.values():
            service.measure()
        return telemetry.exposition()

    async def sources(_: Request) -> Response:
        return JSONResponse({"sources": {name: service.status() for name, service in services.items()}})

    async def change(request: Request) -> Response:
        service = services.get(request.path_params["name"])
        if service is None:
            return JSONResponse({"detail": f"no source is named {request.path_params['name']}"}, status_code=404)
        body = await _body(request)
        if request.url.path.endswith("/pause"):
            service.pause(_reason(body))
        elif (accept_letters := body.get("accept_letters")) is None:
            service.resume()
        elif isinstance(accept_letters, int) and not isinstance(accept_letters, bool) and 0 < accept_letters <= _ACCEPT_LETTERS_MAX:
            service.resume(accept_letters)
        else:
            return JSONResponse({"detail": f"accept_letters: must be a number from 1 to {_ACCEPT_LETTERS_MAX}"}, status_code=422)
        return JSONResponse(service.status())

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", exposition),
            Route("/sources", sources),
            Route("/sources/{name}/pause", change, methods=["POST"]),
            Route("/sources/{name}/resume", change, methods=["POST"]),
        ]
    )
    return Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1))


async def _body(request: Request) -> dict[str, object]:
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads((await request.body())[:_BODY_BYTES_MAX] or b"{}")
        if isinstance(found, dict):
            return found
    return {}


def _reason(body: dict[str, object]) -> str:
    reason = body.get("reason")
    return reason.strip()[:_REASON_MAX] if isinstance(reason, str) and reason.strip() else "paused by hand"
