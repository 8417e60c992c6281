"""functions-framework's application as production runs it: its routes and its function, without the layers that have no work here.

Left out are two that turn exceptions into answers, for `server.function` lets none through, and the one that draws an execution id digit
by digit: together they take a tenth of the time of a delivery.
"""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from shared import errors, problem

Lifespan = Callable[[object], AbstractAsyncContextManager[None]]


class _NotFoundError(errors.OrderflowError):
    """There is nothing at this address."""

    status = 404
    code = "not_found"


def of(framework: Starlette, lifespan: Lifespan) -> ASGIApp:
    """The application to serve. What has no function (/robots.txt, /favicon.ico, methods such as TRACE) is a problem too."""
    framework.router.lifespan_context = lifespan
    routes = ExceptionMiddleware(framework.router, handlers={HTTPException: _unrouted})

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = framework
            # functions-framework reads the id from the first header of this name, which is the caller's where there is one.
            scope["headers"].append((b"function-execution-id", b"%012x" % random.getrandbits(48)))
        await routes(scope, receive, send)

    return serve


async def _unrouted(_request: Request, exc: Exception) -> Response:
    if isinstance(exc, HTTPException) and exc.status_code == HTTPStatus.NOT_FOUND:
        return problem.response(_NotFoundError())
    return problem.response(errors.MethodNotAllowed("This method is not known here."), headers={"Allow": "GET, HEAD, POST"})
