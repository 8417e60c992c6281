"""A function's process: how it starts, who may deliver, and how it ends without losing a request."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from ops import child, home
from tests import controls, stack

WAITS = "tests/samples/faulty/main.py"
AT_WORK = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
SOURCE = "functions/order_on_assembled/main.py"
TOKEN = "t" * 32


def own(database: stack.TestDatabase) -> dict[str, str]:
    return {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order")}


def test_the_command_line_of_functions_framework_runs_a_function(database: stack.TestDatabase, start_process: Any) -> None:
    (port,) = child.free_ports(1)
    framework = str(home.CHECKOUT / ".venv" / "bin" / "functions-framework")
    url = f"http://127.0.0.1:{port}"
    process = start_process(
        [framework, "--asgi", "--target=handle", f"--source={SOURCE}", "--host=127.0.0.1", f"--port={port}"], own(database), url
    )
    process.wait_ready("/ready")
    payload = controls.assembled()
    outcomes = [httpx.post(url, **controls.binary(payload), timeout=30).json() for _ in range(2)]
    assert [{"outcome": "done"}, {"outcome": "duplicate"}] == outcomes
    assert httpx.post(url, **controls.binary(payload, b'{"event_id": "cut'), timeout=30).status_code == 422
    assert "orderflow_deliveries_total" in httpx.get(f"{url}/metrics", timeout=30).text


def test_wrong_settings_end_the_process_with_every_fault_and_no_secret() -> None:
    environment = child.environment(
        LOCK_TIMEOUT="soon",
        GROUP_EVENTS_MAX="0",
        TELEGRAM_ENABLED="true",
        DELIVERY_TOKEN="planted-secret-0123456789abcdefghi",
        KAFKA_BROKERS="nowhere",
    )
    command = [sys.executable, "-m", "shared.server", "--source", SOURCE, "--port", "0"]
    ended = subprocess.run(command, env=environment, cwd=home.CHECKOUT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert ["GROUP_EVENTS_MAX", "KAFKA_BROKERS", "LOCK_TIMEOUT"] == [
        name for name in ("GROUP_EVENTS_MAX", "KAFKA_BROKERS", "LOCK_TIMEOUT") if f"{name}:" in ended.stderr
    ]
    assert "planted-secret" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_source_that_is_not_there_is_said_clearly() -> None:
    command = [sys.executable, "-m", "shared.server", "--source", "nowhere/main.py", "--port", "0"]
    ended = subprocess.run(command, cwd=home.CHECKOUT, capture_output=True, text=True, timeout=30, check=False)
    assert (2, True) == (ended.returncode, "nowhere/main.py" in ended.stderr)


def test_a_taken_port_ends_the_process_and_is_named(database: stack.TestDatabase, start_function: Any) -> None:
    function = start_function("order_on_assembled", own(database))
    port = function.url.rpartition(":")[2]
    command = [sys.executable, "-m", "shared.server", "--source", SOURCE, "--port", port]
    ended = subprocess.run(command, cwd=home.CHECKOUT, capture_output=True, text=True, timeout=30, check=False)
    assert (3, True) == (ended.returncode, "address already in use" in ended.stderr)


@pytest.mark.parametrize("given", [None, "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}\u00e9"])
def test_with_a_shared_token_a_delivery_without_it_is_401_and_nothing_happens(
    database: stack.TestDatabase, start_function: Any, given: str | None
) -> None:
    function = start_function("order_on_assembled", own(database) | {"DELIVERY_TOKEN": TOKEN})
    payload = controls.assembled()
    request = controls.binary(payload)
    refused = httpx.post(
        function.url,
        headers=request["headers"] | ({"authorization": given.encode("latin-1")} if given else {}),
        content=request["content"],
        timeout=30,
    )
    assert (401, "unauthorized") == (refused.status_code, refused.json()["code"])
    assert refused.headers["www-authenticate"] == 'Bearer realm="orderflow"'
    assert [[0]] == database.run("SELECT count(*) FROM order_inbox_events")
    taken = httpx.post(
        function.url, headers=request["headers"] | {"authorization": f"Bearer {TOKEN}"}, content=request["content"], timeout=30
    )
    assert taken.json() == {"outcome": "done"}
    assert [200, 200] == [httpx.get(f"{function.url}/{path}", timeout=30).status_code for path in ("health", "ready")]


def test_sigterm_finishes_what_is_in_flight_and_exits_0(database: stack.TestDatabase, serve: Any, tmp_path: Path) -> None:
    function = serve(WAITS, {"ORDER_POSTGRES_DSN": database.dsn(), "SHUTDOWN_TIMEOUT": "40s"})
    held = tmp_path / "held"
    held.touch()
    answers: list[httpx.Response] = []
    requests = [controls.binary(controls.assembled(user_id=f"wait:{held}"[:128])) for _ in range(2)]  # one for each connection
    threads = [threading.Thread(target=lambda r=request: answers.append(httpx.post(function.url, timeout=60, **r))) for request in requests]
    for n, thread in enumerate(threads, 1):
        thread.start()
        stack.eventually(lambda n=n: database.run(AT_WORK) == [[n]], "its handler to be at work")  # type: ignore[misc]
    function.send(signal.SIGTERM)
    stack.eventually(lambda: not _listens(function), "it to listen no more")
    held.unlink()
    assert function.wait() == 0
    for thread in threads:
        thread.join()
    assert ["done"] * 2 == [answer.json()["outcome"] for answer in answers]
    assert [[2]] == database.run("SELECT count(*) FROM orders")


def _listens(function: stack.Process) -> bool:
    try:
        httpx.get(f"{function.url}/health", timeout=30)
    except httpx.ConnectError:
        return False
    return True


def test_while_it_drains_it_answers_says_that_it_is_not_ready_and_closes_connections(
    database: stack.TestDatabase, start_function: Any
) -> None:
    function = start_function("order_on_assembled", own(database) | {"DRAIN_DELAY": "100s"})
    with httpx.Client(timeout=30) as client:
        assert "connection" not in client.get(f"{function.url}/health").headers
        function.send(signal.SIGTERM)
        ready = stack.eventually(lambda: (answer := client.get(f"{function.url}/ready")).status_code == 503 and answer, "not ready")
        assert ready.json()["code"] == "draining"
        answer = client.post(function.url, **controls.binary(controls.assembled()))
        assert ({"outcome": "done"}, "close") == (answer.json(), answer.headers["connection"])
    assert function.stop(signal.SIGTERM) == 0  # the second ends the delay


def test_a_drain_ends_by_itself(database: stack.TestDatabase, start_function: Any) -> None:
    function = start_function("order_on_assembled", own(database) | {"DRAIN_DELAY": "500ms"})
    began = time.monotonic()
    assert function.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began >= 0.5


def test_O17_a_rolling_restart_under_load_loses_no_request(database: stack.TestDatabase, start_function: Any) -> None:
    environment = own(database) | {"DRAIN_DELAY": "100s"}  # a second SIGTERM ends it, once the balancer has noticed
    targets = [start_function("order_on_assembled", environment)]
    stop, failures, sent, reached = threading.Event(), [], [], {}

    def work(number: int) -> None:
        with httpx.Client(timeout=30) as client:
            while not stop.is_set():
                payload, target = controls.assembled(event_id=controls.new_id(f"{number}-")), targets[-1]
                try:
                    answer = client.post(target.url, **controls.binary(payload))
                except httpx.TransportError as exc:
                    failures.append(exc)
                    continue
                (sent if answer.status_code == 200 else failures).append(payload["event_id"])
                reached[number] = target

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for _ in range(2):
        old, new = targets[-1], start_function("order_on_assembled", environment)
        old.send(signal.SIGTERM)
        stack.eventually(lambda old=old: httpx.get(f"{old.url}/ready", timeout=30).status_code == 503, "the old one to drain")
        done = len(sent)
        stack.eventually(lambda done=done: len(sent) > done + 4, "requests that the old one still gets")
        targets.append(new)
        stack.eventually(lambda new=new: list(reached.values()) == [new] * 4, "the balancer to notice")
        assert old.stop(signal.SIGTERM) == 0
    stop.set()
    for worker in workers:
        worker.join()
    assert failures == []
    assert sorted(sent) == sorted(row[0] for row in database.run("SELECT event_id FROM order_inbox_events"))
