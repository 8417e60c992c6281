"""Open letters in dlq_router's /metrics: read from the index, and absent when it cannot be read."""

import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from functions.dlq_router import index_metrics
from shared import topics
from tests import conftest, stack

GROUPS = sorted(consumer.group for _, consumer in topics.read().consumers())
NOWHERE = "127.0.0.1:9"  # nothing here needs Kafka


def put(database: stack.TestDatabase, consumer: str, code: str, *, age: timedelta = timedelta(), state: str = "open") -> None:
    """A row of the index."""
    database.run(
        """INSERT INTO dlq_letters (letter_id, consumer, topic, reason, error_code, error_message, fingerprint, failed_at, last_failed_at,
             state, value) VALUES (:id, :consumer, 'order.payment.completed', 'refused', :code, '', '0123456789abcdef', :at::timestamptz,
             now(), :state, '')""",
        id=str(uuid.uuid4()), consumer=consumer, code=code, at=datetime.now(UTC) - age, state=state,
    )  # fmt: skip


def environment(dsn: str) -> dict[str, str]:
    return {"KAFKA_BROKERS": NOWHERE, "DLQ_POSTGRES_DSN": dsn, "POSTGRES_CONNECT_TIMEOUT": "1s"}


def gauges(url: str, name: str) -> dict[str, float]:
    """Every series of `name`, by its consumer and then its code."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    found = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
    return {" ".join(reversed(re.findall(r'"([^"]*)"', labels))): float(value) for labels, value in found}


def test_open_letters_are_counted_by_consumer_and_code_and_the_oldest_is_told(
    database: stack.TestDatabase, start_function: conftest.StartFunction
) -> None:
    put(database, "order-service", "value_error", age=timedelta(hours=2))
    put(database, "order-service", "value_error")
    put(database, "notification-payment", "dependency_away", age=timedelta(minutes=1))
    put(database, "notification-payment", "a code\nthat is none")
    for state in ("done", "discarded", "superseded"):
        put(database, "order-service", "value_error", age=timedelta(days=9), state=state)

    function = start_function("dlq_router", environment(database.dsn("orderflow_dlq")))

    assert {"order-service value_error": 2, "notification-payment dependency_away": 1, "notification-payment other": 1} == gauges(
        function.url, "orderflow_dlq_letters"
    )
    ages = gauges(function.url, "orderflow_dlq_oldest_seconds")
    assert GROUPS == sorted(ages)
    assert [0, 0] == [ages["assembly-service"], ages["notification-assembly"]]
    assert 7200 <= ages["order-service"] < 7200 + stack.PATIENCE_S
    assert 60 <= ages["notification-payment"] < 60 + stack.PATIENCE_S
    newest = gauges(function.url, "orderflow_dlq_newest_seconds")
    assert ["notification-payment", "order-service"] == sorted(newest)
    assert max(newest.values()) < stack.PATIENCE_S


def test_a_letter_that_is_settled_leaves_the_metrics(database: stack.TestDatabase, start_function: conftest.StartFunction) -> None:
    put(database, "order-service", "value_error")
    function = start_function("dlq_router", environment(database.dsn("orderflow_dlq")))
    assert {"order-service value_error": 1} == gauges(function.url, "orderflow_dlq_letters")

    database.run("UPDATE dlq_letters SET state = 'done'")

    stack.eventually(lambda: gauges(function.url, "orderflow_dlq_letters") == {}, "the settled letter to leave the metrics")
    assert gauges(function.url, "orderflow_dlq_oldest_seconds")["order-service"] == 0


def test_with_the_database_away_the_metrics_are_absent_and_come_back(private_postgres: Any, start_function: conftest.StartFunction) -> None:
    server: stack.PostgresServer = private_postgres()
    database = server.new_database()
    put(database, "order-service", "value_error")
    function = start_function("dlq_router", environment(database.dsn("orderflow_dlq")))
    assert len(gauges(function.url, "orderflow_dlq_oldest_seconds")) == len(GROUPS)
    database.close()

    server.kill()

    stack.eventually(lambda: gauges(function.url, "orderflow_dlq_letters") == {}, "the letters to be absent")
    assert gauges(function.url, "orderflow_dlq_oldest_seconds") == {}
    assert "the index of letters cannot be read" in function.text
    assert httpx.get(f"{function.url}/health", timeout=30).status_code == 200
    server.start()
    stack.eventually(lambda: gauges(function.url, "orderflow_dlq_letters") == {"order-service value_error": 1}, "the letters to be back")


class Broken:
    """A database of which every question fails."""

    asked = 0

    async def run(self, _work: object) -> list[Any]:
        from shared import errors

        self.asked += 1
        raise errors.Unavailable("away")


@pytest.mark.parametrize("database", [Broken()])
async def test_however_often_metrics_are_asked_the_index_is_asked_once_in_a_while(database: Any) -> None:
    measured = index_metrics.IndexMetrics(database, GROUPS)

    for _ in range(5):
        await measured.measure()

    assert database.asked == 1
