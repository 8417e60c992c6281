"""functions-framework's application as it is served."""

import contextlib
from collections.abc import AsyncIterator

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from shared import application


@contextlib.asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    yield


async def told(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.headers["function-execution-id"])


def client() -> httpx.AsyncClient:
    served = application.of(Starlette(routes=[Route("/", told, methods=["GET"])]), lifespan)
    return httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://test")


async def test_every_request_has_an_execution_id_of_its_own() -> None:
    async with client() as caller:
        ids = {(await caller.get("/")).text for _ in range(100)}
    assert (100, {12}) == (len(ids), {len(each) for each in ids})


async def test_the_execution_id_that_the_caller_gave_is_kept() -> None:
    async with client() as caller:
        assert "mine" == (await caller.get("/", headers={"Function-Execution-Id": "mine"})).text


async def test_an_address_or_a_method_without_a_function_is_a_problem() -> None:
    async with client() as caller:
        answers = [await caller.get("/nowhere"), await caller.request("TRACE", "/")]
    assert [(404, "not_found"), (405, "method_not_allowed")] == [(answer.status_code, answer.json()["code"]) for answer in answers]
