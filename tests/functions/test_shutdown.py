"""The end of a function whose requests take longer than it has: each gets an answer, and none is a try that failed."""

import signal
import threading
from pathlib import Path
from typing import Any

import httpx

from tests import controls, stack

WAITS = "tests/samples/faulty/main.py"
AT_WORK = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"


def test_what_is_not_done_within_the_shutdown_is_answered_503_and_done_once_when_it_comes_again(
    database: stack.TestDatabase, serve: Any, tmp_path: Path
) -> None:
    """DELIVERY_DEADLINE may be longer than SHUTDOWN_TIMEOUT: whoever waits is told, instead of finding the connection closed."""
    function = serve(WAITS, {"ORDER_POSTGRES_DSN": database.dsn(), "SHUTDOWN_TIMEOUT": "1s"})
    held = tmp_path / "held"
    held.touch()
    request = controls.binary(controls.assembled(user_id=f"wait:{held}"[:128]))
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(httpx.post(function.url, timeout=60, **request)))
    thread.start()
    stack.eventually(lambda: database.run(AT_WORK) == [[1]], "its handler to be at work")
    function.send(signal.SIGTERM)
    thread.join(timeout=stack.PATIENCE_S)
    held.unlink()
    assert [(503, "draining")] == [(answer.status_code, answer.json()["code"]) for answer in answers]
    assert function.wait() == 0
    function.start()
    function.wait_ready()
    again = httpx.post(function.url, timeout=60, **request)
    assert (200, [[1]]) == (again.status_code, database.run("SELECT count(*) FROM order_inbox_events"))
