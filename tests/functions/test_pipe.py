"""What every function answers, shown through the real server with a handler that fails as it is told."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import controls, stack

SAMPLE = "tests/samples/faulty/main.py"
AT_WORK = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture(scope="module")
def function(serve: Any, module_database: stack.TestDatabase) -> stack.Process:
    """The sample function."""
    return serve(SAMPLE, module_database.environment() | {"ORDER_POSTGRES_DSN": module_database.dsn(), "STATEMENT_TIMEOUT": "3s"})


@pytest.fixture
def post(function: stack.Process, client: httpx.Client) -> Any:
    return lambda request: client.post(function.url, **request)


def failing(fault: str, **changes: Any) -> controls.Payload:
    return controls.assembled(user_id=fault, **changes)


def orders(database: stack.TestDatabase, *payloads: controls.Payload) -> int:
    ids = [payload["order_id"] for payload in payloads]
    [[count]] = database.run("SELECT count(*) FROM orders WHERE id = ANY(:ids)", ids=ids)
    return int(count)


def claims(database: stack.TestDatabase, *payloads: controls.Payload) -> int:
    ids = [payload["event_id"] for payload in payloads]
    [[count]] = database.run("SELECT count(*) FROM order_inbox_events WHERE event_id = ANY(:ids)", ids=ids)
    return int(count)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("bug", 500, "bug"),
        ("statement", 500, "statement"),
        ("text", 500, "not_events"),
        ("constraint", 422, "constraint"),
        ("value", 422, "value_error"),
        ("timeout", 503, "statement_timeout"),
        ("away", 503, "dependency_away"),
        ("overloaded", 429, "overloaded"),
    ],
)
def test_L01_what_the_handler_does_is_what_the_caller_is_told(
    post: Any, module_database: stack.TestDatabase, fault: str, status: int, code: str
) -> None:
    payload = failing(fault)
    answer = post(controls.binary(payload))
    assert (status, code) == (answer.status_code, answer.json()["code"])
    assert answer.headers["content-type"] == "application/problem+json"
    assert (0, 0) == (orders(module_database, payload), claims(module_database, payload))


def test_what_must_come_again_says_when(post: Any) -> None:
    assert ("7", "3") == tuple(post(controls.binary(failing(fault))).headers["retry-after"] for fault in ("away", "overloaded"))


def test_a_bug_is_named_by_class_and_place_and_without_a_stack_trace(post: Any) -> None:
    told = post(controls.binary(failing("bug"))).json()
    assert told["detail"].startswith("ZeroDivisionError in main.py:")
    assert told["place"] == told["detail"].partition(": ")[0].replace(" in ", " ")
    assert "Traceback" not in told["detail"]


@pytest.mark.parametrize(
    ("payload", "place"),
    [
        (failing("bug"), "ZeroDivisionError main.py:"),
        (failing("statement"), "Bug main.py:"),
        (failing("constraint"), "orders_status_check"),
        (controls.assembled(order_id="", user_id=7), "order_id user_id"),
        (controls.assembled(event_version=2), "event_version"),
    ],
)
def test_a_failure_says_its_place_which_never_holds_a_value(post: Any, payload: controls.Payload, place: str) -> None:
    """Alone and in a batch: class and the function's own line for a bug, the fields for a refusal, the constraint for the database's."""
    alone = post(controls.binary(payload)).json()["place"]
    [result] = post(controls.batch([controls.element(payload)])).json()["results"]
    assert alone.startswith(place)
    assert alone == result["place"]


def test_after_a_failure_the_same_event_runs(post: Any, module_database: stack.TestDatabase) -> None:
    payload = failing("bug")
    assert post(controls.binary(payload)).status_code == 500
    assert post(controls.binary(payload | {"user_id": "mended"})).json() == {"outcome": "done"}
    assert orders(module_database, payload) == 1


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        (lambda p: controls.binary(p, specversion="0.3"), 400),
        (lambda p: {"content": json.dumps(p).encode(), "headers": {"content-type": "application/json"}}, 400),
        (lambda p: {"content": b"{", "headers": {"content-type": controls.STRUCTURED}}, 400),
        (lambda p: controls.binary(p, id="another"), 422),
        (lambda p: controls.binary(p, type="order.payment.completed"), 422),
        (lambda p: controls.binary(controls.paid()), 422),
        (lambda p: controls.binary(p | {"event_version": 2}), 422),
        (lambda p: controls.binary(p, b""), 422),
        (lambda p: controls.binary(p, b"\xff\xfe"), 422),
        (lambda p: controls.binary(p, b"null"), 422),
        (lambda p: {"content": b"<a/>", "headers": {"content-type": "application/cloudevents+xml"}}, 415),
        (lambda p: {"content": b"{}", "headers": {"content-type": "application/cloudevents-batch+json"}}, 400),
    ],
)
def test_what_is_not_a_valid_event_for_us_is_refused(post: Any, request_of: Any, status: int) -> None:
    answer = post(request_of(controls.assembled()))
    assert status == answer.status_code
    assert answer.json()["detail"]


def test_L02_a_cut_off_body_is_refused_and_names_the_fault(post: Any) -> None:
    payload = controls.assembled()
    answer = post(controls.binary(payload, json.dumps(payload).encode()[:-20]))
    assert (422, "unreadable") == (answer.status_code, answer.json()["code"])
    assert "not JSON" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"order_id": ""}, "order_id"),
        ({"order_id": 7}, "order_id"),
        ({"order_id": "a\nb"}, "order_id"),
        ({"user_id": "x" * 129}, "user_id"),
        ({"occurred_at": "yesterday"}, "occurred_at"),
        ({"occurred_at": "2026-01-01T00:00:00"}, "occurred_at"),
        ({"event_version": "1"}, "event_version"),
    ],
)
def test_a_refusal_names_the_field(post: Any, changes: dict[str, Any], named: str) -> None:
    payload = controls.assembled(**changes)
    answer = post(controls.binary(payload, subject="x"))
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{named}: ")


@pytest.mark.parametrize("name", ["event_id", "event_type", "order_id", "user_id", "occurred_at"])
def test_a_missing_field_is_named(post: Any, name: str) -> None:
    payload = controls.assembled()
    answer = post(controls.binary(payload, json.dumps(controls.without(payload, name)).encode()))
    assert (422, True) == (answer.status_code, name in answer.json()["detail"])


def test_unknown_fields_are_ignored_and_an_absent_version_is_1(post: Any) -> None:
    payload = controls.without(controls.assembled(future="field"), "event_version")
    assert post(controls.binary(payload)).json() == {"outcome": "done"}


@pytest.mark.parametrize("deliver", [controls.binary, controls.structured, controls.plain])
def test_an_event_is_read_in_every_mode_and_a_repeat_does_nothing(post: Any, module_database: stack.TestDatabase, deliver: Any) -> None:
    payload = controls.assembled()
    assert [{"outcome": "done"}, {"outcome": "duplicate"}] == [post(deliver(payload)).json() for _ in range(2)]
    assert (1, 1) == (orders(module_database, payload), claims(module_database, payload))


def test_L17_new_events_at_old_offsets_are_no_duplicates(post: Any) -> None:
    first, second = controls.assembled(), controls.assembled()
    outcomes = [post(controls.plain(payload, partition=0, offset=0)).json()["outcome"] for payload in (first, second)]
    assert outcomes == ["done", "done"]


@pytest.mark.parametrize("changes", [{"order_id": "another"}, {"event_type": "order.payment.completed"}])
def test_a_known_id_of_another_event_is_refused_and_not_swallowed(
    post: Any, changes: dict[str, str], module_database: stack.TestDatabase
) -> None:
    payload = controls.assembled()
    post(controls.binary(payload))
    if "event_type" in changes:  # as another function of the same inbox would have left it
        module_database.run("UPDATE order_inbox_events SET event_type = :t WHERE event_id = :id", t="another", id=payload["event_id"])
        changes = {}
    answer = post(controls.binary(payload | changes))
    assert (422, "event_id_reused") == (answer.status_code, answer.json()["code"])


def test_a_body_over_the_limit_is_too_large_before_it_is_read(post: Any) -> None:
    assert post(controls.binary(controls.assembled(), b" " * (1 << 20) + b"x")).status_code == 413
    chunks = (b" " * 65_536 for _ in range(20))
    assert post(controls.binary(controls.assembled()) | {"content": chunks}).status_code == 413


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_only_post_is_taken_and_the_answer_says_so(function: stack.Process, client: httpx.Client, method: str) -> None:
    answer = client.request(method, function.url)
    assert (405, "POST", "method_not_allowed") == (answer.status_code, answer.headers["allow"], answer.json()["code"])


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [("GET", "/robots.txt", 404, None), ("GET", "/favicon.ico", 404, None), ("TRACE", "/", 405, "GET, HEAD, POST")],
)
def test_what_functions_framework_keeps_to_itself_is_answered_as_a_problem_too(
    function: stack.Process, client: httpx.Client, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = client.request(method, f"{function.url}{path}")
    assert (status, status, allow) == (answer.status_code, answer.json()["status"], answer.headers.get("allow"))
    assert answer.headers["content-type"] == "application/problem+json"


def test_O12_each_event_of_a_batch_has_its_own_answer_in_order(post: Any, module_database: stack.TestDatabase) -> None:
    good, other = controls.assembled(), controls.assembled()
    answer = post(controls.batch([good, failing("bug"), failing("constraint"), controls.assembled(order_id=""), {"id": 5}, good, other]))
    assert answer.status_code == 207
    wanted = [(200, "done"), (500, "failed"), (422, "refused"), (422, "refused"), (400, "refused"), (200, "duplicate"), (200, "done")]
    results = answer.json()["results"]
    assert wanted == [(result["status"], result["outcome"]) for result in results]
    assert all({"code", "detail"} <= set(result) for result in results if result["status"] != 200)
    assert orders(module_database, good, other) == 2


def test_what_is_nobodys_fault_splits_nothing_and_says_when_to_come_again(post: Any, module_database: stack.TestDatabase) -> None:
    payloads = [controls.assembled(), failing("away"), controls.assembled()]
    results = post(controls.batch(payloads)).json()["results"]
    assert [(503, "unavailable", 7.0)] * 3 == [(result["status"], result["outcome"], result["retry_after_s"]) for result in results]
    assert orders(module_database, *payloads) == 0


def test_one_bad_event_of_a_batch_does_not_fail_its_neighbours(post: Any, module_database: stack.TestDatabase) -> None:
    payloads = [failing("bug") if n == 37 else controls.assembled() for n in range(100)]
    answer = post(controls.batch(payloads))
    assert [500 if n == 37 else 200 for n in range(100)] == [result["status"] for result in answer.json()["results"]]
    assert (99, 99) == (orders(module_database, *payloads), claims(module_database, *payloads))


def test_a_batch_that_was_done_answers_200_with_done_and_duplicate(post: Any) -> None:
    first, second = controls.assembled(), controls.assembled()
    post(controls.binary(first))
    answer = post(controls.batch([first, second, second]))
    assert answer.status_code == 200
    assert ["duplicate", "done", "duplicate"] == [result["outcome"] for result in answer.json()["results"]]


def test_an_empty_batch_has_no_results(post: Any) -> None:
    assert post(controls.batch([])).json() == {"results": []}


def test_concurrent_duplicates_have_one_effect(function: stack.Process, module_database: stack.TestDatabase) -> None:
    payload = controls.assembled()

    async def deliver(client: httpx.AsyncClient) -> str:
        while (answer := await client.post(function.url, **controls.binary(payload))).status_code == 409:
            pass  # one that waited too long for another at work comes again
        return str(answer.json().get("outcome", "failed"))

    async def all_at_once() -> list[str]:
        async with httpx.AsyncClient(timeout=30) as client:
            return sorted(await asyncio.gather(*(deliver(client) for _ in range(20))))

    assert ["done"] + ["duplicate"] * 19 == asyncio.run(all_at_once())
    assert orders(module_database, payload) == 1


def test_deliveries_that_arrive_together_share_transactions_and_one_failure_is_one(
    function: stack.Process, module_database: stack.TestDatabase
) -> None:
    payloads = [failing("constraint") if n == 50 else controls.assembled() for n in range(200)]

    async def all_at_once() -> list[int]:
        async with httpx.AsyncClient(timeout=30) as client:
            answers = await asyncio.gather(*(client.post(function.url, **controls.binary(payload)) for payload in payloads))
            return [answer.status_code for answer in answers]

    assert [422 if n == 50 else 200 for n in range(200)] == asyncio.run(all_at_once())
    assert orders(module_database, *payloads) == 199


def test_an_event_that_another_transaction_holds_is_busy_and_its_neighbours_are_not(post: Any, module_database: stack.TestDatabase) -> None:
    held, free = controls.assembled(event_id=controls.new_id()), controls.assembled()
    with holding(module_database, held):
        results = post(controls.batch([held, free])).json()["results"]
    assert [(409, "busy"), (200, "done")] == [(result["status"], result["outcome"]) for result in results]
    assert post(controls.binary(held)).json() == {"outcome": "done"}


def test_D09_a_second_delivery_waits_for_the_first_and_is_a_duplicate(
    serve: Any, module_database: stack.TestDatabase, tmp_path: Path
) -> None:
    function = serve(SAMPLE, {"ORDER_POSTGRES_DSN": module_database.dsn(), "LOCK_TIMEOUT": "15s", "STATEMENT_TIMEOUT": "18s"})
    held = tmp_path / "held"
    held.touch()
    payload = failing(f"wait:{held}"[:128])
    outcomes: list[str] = []

    def deliver() -> None:
        outcomes.append(httpx.post(function.url, timeout=30, **controls.binary(payload)).json()["outcome"])

    threads = [threading.Thread(target=deliver) for _ in range(2)]
    for thread, sign in zip(threads, (AT_WORK, WAITING), strict=True):
        thread.start()
        stack.eventually(lambda sign=sign: module_database.run(sign), "the delivery to come so far")  # type: ignore[misc]
    held.unlink()
    for thread in threads:
        thread.join()
    assert ["done", "duplicate"] == sorted(outcomes)
    assert orders(module_database, payload) == 1


def test_D08_a_handler_that_changes_its_event_changes_neither_its_claim_nor_its_outcome(
    post: Any, module_database: stack.TestDatabase
) -> None:
    payload, neighbour = failing("mutate"), controls.assembled()
    results = post(controls.batch([payload, neighbour])).json()["results"]
    assert ["done", "done"] == [result["outcome"] for result in results]
    assert claims(module_database, payload) == 1
    assert post(controls.binary(payload)).json() == {"outcome": "duplicate"}


def test_D12_a_failed_try_leaves_no_event_behind(post: Any, module_database: stack.TestDatabase) -> None:
    payload = failing("publish-then-bug")
    assert post(controls.binary(payload)).status_code == 500
    assert post(controls.binary(payload | {"user_id": "publish"})).status_code == 200
    assert post(controls.binary(payload | {"user_id": "publish"})).json() == {"outcome": "duplicate"}
    assert [[1]] == module_database.run("SELECT count(*) FROM order_outbox_events WHERE aggregate_id = :id", id=payload["order_id"])


def test_O04_a_function_killed_in_its_handler_leaves_nothing_and_the_event_runs_again(
    function: stack.Process, module_database: stack.TestDatabase, tmp_path: Path
) -> None:
    payload = failing(f"die:{tmp_path}/died"[:128])
    with pytest.raises(httpx.TransportError):
        httpx.post(function.url, **controls.binary(payload), timeout=30)
    assert function.wait() == 137
    assert (0, 0) == (orders(module_database, payload), claims(module_database, payload))
    function.start()
    function.wait_ready()
    assert httpx.post(function.url, **controls.binary(payload), timeout=30).json() == {"outcome": "done"}
    assert orders(module_database, payload) == 1


def test_metrics_count_what_became_of_events(function: stack.Process, post: Any) -> None:
    post(controls.binary(controls.assembled()))
    post(controls.binary(failing("constraint")))
    text = httpx.get(f"{function.url}/metrics", timeout=30).text
    assert 'orderflow_deliveries_total{function="faulty",outcome="done"}' in text
    assert 'orderflow_deliveries_total{function="faulty",outcome="refused"}' in text
    for name in ("orderflow_request_events_bucket", "orderflow_transaction_events_bucket", "orderflow_delivery_seconds_bucket"):
        assert name in text


class holding:  # noqa: N801  reads as what it does
    """Another transaction has the inbox row of an event, not committed."""

    def __init__(self, database: stack.TestDatabase, payload: controls.Payload) -> None:
        self._go, self._held = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(database.dsn(), payload))

    def __enter__(self) -> None:
        self._thread.start()
        assert self._held.wait(stack.PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._thread.join()

    def _hold(self, dsn: str, payload: controls.Payload) -> None:
        from shared import config, database

        def work(tx: database.Transaction) -> None:
            tx.run(
                "INSERT INTO order_inbox_events (event_id, event_type, occurred_at, order_id) VALUES (:id, 'x', now(), 'x')",
                id=payload["event_id"],
            )
            self._held.set()
            self._go.wait(20)
            raise KeyError("roll back")

        other = database.Database(dsn, settings=config.Settings(), application="holder")
        with pytest.raises(KeyError):
            other.transact(work)
        other.close()
