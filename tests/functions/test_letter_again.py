"""A letter's bytes, posted again once the cause is mended, are handled: the failed try left no claim behind."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx

from tests import conftest, controls, stack
from tests.functions.test_dlq_router import FAILED_RECORD, NOWHERE, environment, read


def test_L14_a_letter_that_is_sent_again_runs_its_handler_and_is_no_duplicate(
    serve: Any, start_function: Any, module_database: stack.TestDatabase, kafka_brokers: str, make_topic: conftest.MakeTopic, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    function = serve("tests/samples/faulty/main.py", {"ORDER_POSTGRES_DSN": module_database.dsn()})
    topic = make_topic(1)
    router = start_function("dlq_router", environment(kafka_brokers, topic, {"DLQ_POSTGRES_DSN": NOWHERE}))
    payload = controls.assembled(user_id=f"while:{broken}"[:128])
    record = json.dumps(payload).encode()

    failed = httpx.post(function.url, **controls.plain(payload, offset=7), timeout=30)
    assert failed.status_code == 500
    told = {
        "topic": "order.payment.completed", "partition": 0, "offset": 7, "timestamp": None, "key": None, "headers": [],
        "value": base64.b64encode(record).decode(), "status": 500, "code": failed.json()["code"], "detail": failed.json()["detail"],
        "reason": "out_of_retries", "attempts": 4,
    }  # fmt: skip
    url = f"{router.url}/assembly-service/order.payment.completed"
    assert httpx.post(url, content=json.dumps(told), headers={"content-type": FAILED_RECORD}, timeout=30).status_code == 200
    [(_, letter)] = read(kafka_brokers, topic)
    assert ("bug", payload["event_id"]) == (letter["error_code"], letter["event_id"])

    broken.unlink()
    again = base64.b64decode(letter["original_value"])
    assert again == record
    request = controls.plain(payload, offset=7) | {"content": again}
    assert [{"outcome": "done"}, {"outcome": "duplicate"}] == [httpx.post(function.url, **request, timeout=30).json() for _ in range(2)]
    assert [[1]] == module_database.run("SELECT count(*) FROM orders WHERE id = :id", id=payload["order_id"])
