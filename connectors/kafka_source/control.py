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
        if request.url.path.endswith("/pause"):
            service.pause(await _reason(request))
        else:
            service.resume()
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


async def _reason(request: Request) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        reason = json.loads((await request.body())[:_BODY_BYTES_MAX] or b"{}").get("reason")
        if isinstance(reason, str) and reason.strip():
            return reason.strip()[:_REASON_MAX]
    return "paused by hand"
