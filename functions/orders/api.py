"""The HTTP side of orders: routes, what is wrong with a request, and the OpenAPI page."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from functions.orders import border, faults, idempotency, models, reference, store
from functions.orders.desk import Desk
from functions.orders.gate import Gate
from shared import errors, events, problem, server
from shared.config import Settings
from shared.database import Database, Transaction

log = logging.getLogger(__name__)

T = TypeVar("T")
JSON = "application/json"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_ID = TypeAdapter[str](events.Id)


def build(desk: Desk, database: Database, gate: Gate, settings: Settings) -> FastAPI:
    """The application. It opens nothing by itself.

    A gateway that shows it below PUBLIC_PATH_PREFIX (OpenFaaS: /function/orders) takes the prefix away and says so in no header.
    """
    path_prefix = settings.public_path_prefix
    app = FastAPI(
        title="Orderflow orders",
        version="1",
        summary="Place an order, and see how far it is.",
        docs_url=None,
        redoc_url=None,
        servers=[{"url": path_prefix}] if path_prefix else None,
        redirect_slashes=False,  # a redirect would name the address behind a gateway
    )
    app.add_middleware(border.Border)
    app.add_exception_handler(errors.OrderflowError, _failed)
    app.add_exception_handler(RequestValidationError, _failed)
    app.add_exception_handler(HTTPException, _failed)

    @app.post("/orders", **reference.PLACE)
    async def place_order(request: Request) -> Response:
        """Place an order. It is paid at once: payment is simulated.

        With an `Idempotency-Key` the same order can be sent again after any failure and is placed once.
        """
        key = idempotency.read(request.headers.getlist(idempotency.HEADER))
        new = await _new_order(request)
        with gate.at_work():
            answer, replayed = await desk.place(new, key=key, traceparent=_traceparent(request))
        headers = {"Location": f"{path_prefix}/orders/{answer.order_id}"} | ({"Idempotency-Replayed": "true"} if replayed else {})
        return Response(answer.response, 201, headers, JSON)

    @app.get("/orders/{order_id}", **reference.FIND)
    async def find_order(order_id: str) -> Response:
        """Show one order."""
        found = await read(lambda tx: store.find(tx, order_id)) if _is_id(order_id) else None
        if found is None:
            raise faults.NotFound("there is no such order", code="order_not_found")
        return _json(found)

    @app.get("/orders", **reference.LIST)
    async def list_orders(
        user_id: Annotated[events.Id, Query()],
        limit: Annotated[int, Query(ge=1, le=models.PAGE_ORDERS_MAX)] = models.PAGE_ORDERS_DEFAULT,
        cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before")] = None,
    ) -> Response:
        """Show a user's orders, newest first."""
        return _json(await read(lambda tx: store.newest(tx, user_id, limit=limit, cursor=cursor)))

    async def read(work: Callable[[Transaction], T]) -> T:
        with gate.at_work():
            try:
                async with asyncio.timeout(settings.delivery_deadline):
                    return await database.run(work)
            except TimeoutError:
                raise errors.Unavailable("the database did not get to it in time", code="deadline") from None

    reference.install(app)
    # FastAPI describes this route; Starlette runs it, for half of the work. Nothing of it is FastAPI's: it reads its request by itself.
    app.router.routes.insert(0, Route("/orders", place_order, methods=["POST"]))
    return app


async def _new_order(request: Request) -> models.NewOrder:
    media_type, _, parameters = request.headers.get("content-type", JSON).lower().partition(";")
    charset = parameters.partition("charset=")[2].partition(";")[0].strip(' "') or "utf-8"
    if media_type.strip() != JSON or charset not in {"utf-8", "utf8", "us-ascii"}:
        raise errors.UnsupportedMediaType(f"the body must be {JSON} in UTF-8")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise errors.UnsupportedMediaType("the body must not be compressed", code="unsupported_content_encoding")
    body = await server.read_body(request, models.BODY_BYTES_MAX)
    try:
        return models.NewOrder.model_validate_json(body)
    except ValidationError as exc:
        raise faults.of_body(exc.errors(include_url=False, include_input=False, include_context=False)) from exc


def _traceparent(request: Request) -> str | None:
    given = request.headers.get("traceparent", "")
    return given if _TRACEPARENT.fullmatch(given) else None


def _is_id(text: str) -> bool:
    try:
        _ID.validate_python(text)
    except ValidationError:
        return False
    return True


def _json(body: models.Order | models.Page) -> Response:
    return Response(body.model_dump_json(), media_type=JSON)


async def _failed(request: Request, exc: Exception) -> Response:
    if isinstance(exc, RequestValidationError):
        exc = faults.of_parameters(exc.errors())
    elif isinstance(exc, HTTPException):
        exc = _of_framework(exc)
    if not isinstance(exc, errors.OrderflowError):
        raise exc
    headers = {"Allow": ", ".join(_methods(request))} if exc.status == 405 else {}
    return problem.response(exc, faults=exc.faults if isinstance(exc, faults.InvalidRequest) else (), headers=headers)


def _of_framework(exc: HTTPException) -> errors.OrderflowError:
    known = {404: faults.NotFound(), 405: errors.MethodNotAllowed("This address does not know this method.")}
    return known.get(exc.status_code) or faults.Malformed([faults.fault("request", "http", str(exc.detail))])


def _methods(request: Request) -> list[str]:
    """What the address of `request` knows: the router itself tells of one route only."""
    known: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            known |= set(route.methods or ())
    return sorted(known | ({"HEAD"} if "GET" in known else set()))
