"""Functions behind a gateway such as OpenFaaS's: its path, its headers, its own answers, and what docs/openfaas.md says of them."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connectors.kafka_source import answers
from connectors.kafka_source.answers import Kind
from shared import errors
from tests import stack
from tests.source import sinks
from tests.source.conftest import Group, StartSource

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "openfaas.md").read_text(encoding="utf-8")
INTERNAL = "X-OpenFaaS-Internal"
WORDS = {
    "done": Kind.DONE,
    "the event's fault": Kind.REFUSED,
    "counted": Kind.COUNTED,
    "not its fault": Kind.AWAY,
    "no answer": Kind.LOST,
}
# What others try again: OpenFaaS's chart (queueWorkerPro.httpRetryCodes), and Knative's dispatcher as it was measured.
QUEUE_RETRIES = {408, 429, 500, 502, 503, 504}
DISPATCHER_RETRIES = {404, 408, 409, 429}


class Gateway:
    """/function/NAME/… goes to the function NAME, as OpenFaaS's gateway does it; its answer comes back with the gateway's own headers."""

    def __init__(self, functions: dict[str, str]) -> None:
        self.functions = functions
        self.hold: Callable[[str], bool] = lambda _: False  # whether a request to that function has to wait: it has no replica
        self.held = 0
        app = Starlette(routes=[Route("/function/{name}/{path:path}", self._pass_on, methods=["GET", "POST"])])
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        stack.eventually(lambda: self._server.started, "the gateway")
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _pass_on(self, request: Request) -> Response:
        name = request.path_params["name"]
        if self.hold(name):
            self.held += 1
            while self.hold(name):  # noqa: ASYNC110  what it waits for is of another thread
                await asyncio.sleep(0.01)
        own = {"X-Call-Id": "1", "X-Start-Time": str(time.time_ns()), "X-Duration-Seconds": "0.001"}
        if name not in self.functions:
            return Response("No endpoints available for: " + name, 503, own | {INTERNAL: "proxy"})
        sent = {key: value for key, value in request.headers.items() if key not in {"host", "connection"}}
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            try:
                url = f"{self.functions[name]}/{request.path_params['path']}"
                answer = await client.request(request.method, url, headers=sent, content=await request.body())
            except httpx.TransportError:
                return Response("Can't reach service for: " + name, 500, own | {INTERNAL: "proxy"})
        kept = {key: value for key, value in answer.headers.items() if key not in {"content-length", "connection"}}
        return Response(answer.content, answer.status_code, kept | own)


@pytest.fixture
def gateway(group: Group) -> Iterator[Gateway]:
    """A gateway before the two sinks of `group`."""
    made = Gateway({"function": group.sink.url, "letters": group.letters.url})
    yield made
    made.close()


@pytest.fixture
def through(gateway: Gateway) -> dict[str, str]:
    """The settings of a source that finds functions as infra/openfaas says it."""
    return {"sink_urls": "", "sink_url_template": f"{gateway.url}/function/{{name}}"}


def test_L22_a_500_behind_a_gateway_holds_the_offset_and_comes_again(
    group: Group, start_source: StartSource, through: dict[str, str]
) -> None:
    """Nothing is committed while the function answers 500 through the gateway; a source that was restarted meanwhile delivers it again."""
    group.sink.script = sinks.each(lambda _: sinks.Reply(500, b"oops"))
    group.produce(b'{"n": 1}')
    source = start_source(group, settings=through, retry=100)
    stack.eventually(lambda: len(group.sink.requests) >= 3, "the event to come again")
    source.stop()
    assert group.committed() in {None, 0}
    group.sink.script = sinks.each(lambda _: sinks.OK)
    start_source(group, settings=through)
    group.wait_committed(1)
    assert set(group.sink.offsets) == {0}
    assert group.failed == []


def test_a_letter_goes_through_the_gateway_too(group: Group, start_source: StartSource, through: dict[str, str]) -> None:
    """The path below dlq_router's own, group and topic, arrives there whole."""
    group.sink.script = sinks.each(lambda _: sinks.refuse())
    group.produce(b"1")
    start_source(group, settings=through)
    group.wait_committed(1)
    assert [request.path for request in group.letters.requests] == [f"/{group.name}/{group.topic}"]


def test_a_request_that_is_held_until_a_replica_is_there_costs_nothing(
    group: Group, start_source: StartSource, gateway: Gateway, through: dict[str, str]
) -> None:
    """A gateway that scales from zero holds the request; within the source's timeout that is a slow answer and nothing else."""
    group.produce(b"1")
    gateway.hold = lambda _: gateway.held == 0
    start_source(group, settings=through, retry=0)
    group.wait_committed(1)
    assert len(group.sink.requests) == 1
    assert group.failed == []


def test_requests_that_are_held_for_longer_than_the_source_waits_cost_one_try(
    group: Group, start_source: StartSource, gateway: Gateway, through: dict[str, str]
) -> None:
    """No answer in time, then GET /health, which is held as well: nothing more is sent until a replica is there, and nothing is lost."""
    there = threading.Event()
    gateway.hold = lambda _: not there.is_set()
    group.produce(*(b'{"n": %d}' % n for n in range(5)))
    source = start_source(group, settings=through, retry=1, timeout="PT3S")
    source.wait_state("paused", "probing")
    stack.eventually(lambda: gateway.held >= 2, "the check of its health to be held")
    there.set()
    group.wait_committed(5)
    assert group.failed == []


def test_a_function_without_a_replica_costs_one_try(
    group: Group, start_source: StartSource, gateway: Gateway, through: dict[str, str]
) -> None:
    """503 in the platform's own name: sent again only when its health is answered, which without a replica it is not."""
    gone = gateway.functions.pop("function")
    group.produce(*(b'{"n": %d}' % n for n in range(5)))
    source = start_source(group, settings=through, retry=1)
    source.wait_state("paused", "probing")
    gateway.functions["function"] = gone
    group.wait_committed(5)
    assert sorted(group.sink.offsets) == [0, 1, 2, 3, 4]
    assert group.failed == []


def test_a_replica_that_is_killed_costs_one_try(group: Group, start_source: StartSource, through: dict[str, str]) -> None:
    """500 in the platform's own name is not the function's 500."""
    group.sink.stop()
    group.produce(b"1")
    source = start_source(group, settings=through, retry=1)
    source.wait_state("paused", "probing")
    group.sink.start()
    group.wait_committed(1)
    assert group.failed == []


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below that heading, without its head."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")][2:]


@pytest.mark.parametrize("row", rows("What the gateway answers, and what the source makes of it"), ids=lambda row: row[0])
def test_every_answer_of_the_gateway_is_judged_as_the_page_says(row: list[str]) -> None:
    match = re.fullmatch(r"`(\d{3})`(?: with `X-OpenFaaS-Internal: (\S+)`)?", row[1])
    assert match is not None
    headers = {INTERNAL: match[2]} if match[2] else {}
    assert WORDS[row[2]] == answers.of(httpx.Response(int(match[1]), headers=headers)).kind


def test_L23_whatever_may_succeed_later_is_tried_again_by_who_delivers_it() -> None:
    """Each outcome's row says what our source and others make of its code; what is nobody's fault, or perhaps a bug, is never given up."""
    table = {int(row[1]): row[2:] for row in rows("Who tries what again")}
    assert table == {status: [_source(status), "passed on", _queue(status), _dispatcher(status)] for status in table}
    failures = [errors.OrderflowError, *_below(errors.OrderflowError)]
    assert {failure.status for failure in failures} - set(table) == set()
    later = {failure.status for failure in [errors.Retryable, *_below(errors.Retryable), errors.Bug]}
    assert {(status, host) for status in later for host in (0, 3) if not table[status][host].startswith("tried again")} == set()


def _source(status: int) -> str:
    words = {Kind.DONE: "done", Kind.REFUSED: "letter", Kind.AWAY: "tried again", Kind.COUNTED: "tried again, 3 times"}
    return words[answers.of(httpx.Response(status)).kind]


def _queue(status: int) -> str:
    return "done" if status < 300 else "tried again" if status in QUEUE_RETRIES else "dropped"


def _dispatcher(status: int) -> str:
    return "done" if status < 300 else "tried again" if status in DISPATCHER_RETRIES or status >= 500 else "letter"


def _below(branch: type[errors.OrderflowError]) -> list[type[errors.OrderflowError]]:
    """The failures of shared/errors.py below that branch; what a function adds of its own is its own page's."""
    below = [cls for cls in branch.__subclasses__() if cls.__module__ == errors.__name__]
    return below + [deeper for cls in below for deeper in _below(cls)]
