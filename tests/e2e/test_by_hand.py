"""A function run alone through functions-framework's own command line, as the README shows it."""

import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx

from ops import child
from tests import stack
from tests.conftest import StartProcess

HEADERS = {"ce-specversion": "1.0", "ce-source": "/by/hand", "ce-type": "order.assembly.completed", "content-type": "application/json"}


def test_order_on_assembled_alone_answers_effect_repeat_cut_json_and_outage(
    private_postgres: Callable[[], stack.PostgresServer], start_process: StartProcess
) -> None:
    server = private_postgres()
    database = server.new_database()
    database.run("INSERT INTO orders (id, user_id, status) VALUES ('o-1', 'u-1', 'paid')")
    (port,) = child.free_ports(1)
    framework = Path(sys.executable).parent / "functions-framework"
    process = start_process(
        [
            str(framework),
            "--asgi",
            "--target=handle",
            "--source=functions/order_on_assembled/main.py",
            f"--port={port}",
            "--host=127.0.0.1",
        ],
        {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order"), "POSTGRES_CONNECT_TIMEOUT": "1s"},
        f"http://127.0.0.1:{port}",
    )
    process.wait_ready()
    event = {
        "event_id": str(uuid.uuid4()),
        "event_type": "order.assembly.completed",
        "occurred_at": "2025-01-31T10:15:00Z",
        "order_id": "o-1",
        "user_id": "u-1",
    }
    body = json.dumps(event).encode()

    def send(data: bytes) -> httpx.Response:
        return httpx.post(process.url, content=data, headers=HEADERS | {"ce-id": event["event_id"]}, timeout=30)

    first, repeat, cut = send(body), send(body), send(body[:-20])
    assert (first.status_code, first.json()) == (200, {"outcome": "done"})
    assert (repeat.status_code, repeat.json()) == (200, {"outcome": "duplicate"})
    assert cut.status_code == 422
    assert "JSON" in cut.json()["detail"]
    assert database.run("SELECT status FROM orders") == [["assembled"]]
    assert database.run("SELECT count(*) FROM order_inbox_events") == [[1]]
    server.stop()
    away = send(body)
    assert away.status_code == 503
    assert int(away.headers["retry-after"]) >= 1
    server.start()
    stack.eventually(lambda: send(body).json() == {"outcome": "duplicate"}, "the function to find its database again")
