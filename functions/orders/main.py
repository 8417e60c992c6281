"""Orders are placed and looked at over HTTP. An order, its items and its event commit in one transaction; the relay does the rest."""

from starlette.requests import Request
from starlette.types import ASGIApp

from functions.orders import api
from functions.orders.desk import Desk
from functions.orders.gate import Gate
from shared import config, database, server

_settings = config.settings()
_database = database.connect("order", _settings, "orders")
_gate = Gate(_settings)
_app = api.build(Desk(_database, _settings), _database, _gate, _settings)


async def _end() -> None:
    _database.close()


# No delivery token: these are people's requests, not a source's deliveries.
@server.function("orders", ready=_database.ping, end=_end, token=False)
async def handle(request: Request) -> ASGIApp:
    """Answer with the application itself: functions-framework sends what a handler returns, and that may be any ASGI application.

    Probes and metrics never come here, so no limit holds them up.
    """
    del request
    _gate.admit()
    return _app
