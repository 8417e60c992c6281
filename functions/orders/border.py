"""The application's outer border: HEAD is answered like GET, and no failure leaves it as anything but a problem."""

import logging

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import errors, problem

log = logging.getLogger(__name__)


class Border:
    """Lies around the routes, within Starlette's own handler, which would raise a failure again after it was answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The server leaves the body of an answer to HEAD away by itself."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, noted)
        except ClientDisconnect:
            log.info("a client went away before its request was complete", extra={"path": scope["path"]})
        except Exception:
            if begun:
                raise
            log.exception("a request failed in a way nobody foresaw", extra={"path": scope["path"]})
            await problem.response(errors.Bug("this is a fault of the function; its log has more"))(scope, receive, send)
