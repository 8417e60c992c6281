"""What the relay answers over HTTP: GET /health, /ready, /metrics, /status."""

import dataclasses
import math

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from connectors.outbox_relay import metrics, rows
from connectors.outbox_relay.relay import Relay
from shared import errors, problem, telemetry

_UNKNOWN = dict.fromkeys(field.name for field in dataclasses.fields(rows.Depth))


class Control:
    """The relay's control HTTP."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = {"/health": self._health, "/ready": self._ready, "/metrics": self._metrics, "/status": self._status}
        return Starlette(routes=[Route(path, answer) for path, answer in routes.items()])

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _request: Request) -> Response:
        try:
            if self._relay.state != "running":
                raise errors.Unavailable(f"the relay is not running: {self._relay.state}", code=self._relay.state)
            await self._relay.database.ping()
        except errors.OrderflowError as exc:
            return problem.response(exc)
        return JSONResponse({"status": "ready"})

    async def _status(self, _request: Request) -> Response:
        found = await self._depth()
        return JSONResponse({"state": self._relay.state} | (dataclasses.asdict(found) if found else _UNKNOWN))

    async def _metrics(self, _request: Request) -> Response:
        found = await self._depth()
        metrics.oldest_due.set(found.oldest_due_seconds if found else math.nan)
        for status in ("pending", "due", "failed"):
            metrics.depth.labels(status).set(getattr(found, status) if found else math.nan)
        return telemetry.exposition()

    async def _depth(self) -> rows.Depth | None:
        try:
            return await self._relay.database.run(rows.depth)
        except errors.OrderflowError:
            return None
