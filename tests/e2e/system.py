"""What a test asks a running system."""

import json
from collections import Counter
from typing import Any

import httpx
from confluent_kafka import Producer
from pydantic import SecretStr

from ops.tail import tail
from shared import config, database, topics
from tests import stack

PAID, ASSEMBLED = "order.payment.completed", "order.assembly.completed"
LETTERS = [topic.name for topic in topics.read().dead_letter_topics]


class System:
    """A running `orderflow up`, seen through its API, its database, its topics and its logs."""

    def __init__(self, up: stack.Up) -> None:
        self.up = up
        self._database: database.Database | None = None

    @property
    def settings(self) -> config.Settings:
        """The settings with which its servers are reached."""
        told = self.up.told
        return config.Settings().model_copy(
            update={"kafka_brokers": told["kafka"]["brokers"], "postgres_dsns": {"order": SecretStr(told["postgres"]["dsn"])}}
        )

    @property
    def orders(self) -> str:
        """The address of the orders API."""
        return f"{self.up.told['functions']['orders']['url']}/orders"

    def run(self, sql: str, **params: object) -> list[list[Any]]:
        """Rows of its database."""
        if self._database is None:
            self._database = database.Database(self.settings.postgres_dsn("order"), settings=self.settings, application="test")
        return self._database.transact(lambda tx: tx.run(sql, **params))

    def place(self, number: int) -> str:
        """Place an order; its id."""
        answer = httpx.post(self.orders, json={"user_id": f"user-{number}", "items": [{"product_id": "p", "quantity": 1}]}, timeout=30)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def produce(self, topic: str, value: bytes, *, key: bytes, times: int = 1) -> None:
        """Write records without any headers, as any Kafka client may."""
        producer = Producer(stack.CLIENT | {"bootstrap.servers": self.settings.kafka_brokers})
        for _ in range(times):
            producer.produce(topic, value, key=key)
        assert producer.flush(30) == 0

    def events(self, topic: str) -> Counter[str]:
        """How many events of each order `topic` holds, from its beginning."""
        with tail(self.settings, [topic], beginning=True) as records:
            records.read(within_s=2)
            return Counter(json.loads(message.value() or b"{}").get("order_id", "?") for message in records.records)

    def letters(self) -> list[dict[str, Any]]:
        """Every letter of every dead-letter topic."""
        with tail(self.settings, LETTERS, beginning=True) as records:
            records.read(within_s=2)
            return [json.loads(message.value() or b"{}") for message in records.records]

    def announced(self) -> Counter[str]:
        """How often each event's message stands in the log of notify."""
        return Counter(str(line["event_id"]) for line in self.log("notify") if str(line["message"]).startswith("notification: "))

    def log(self, name: str) -> list[dict[str, Any]]:
        """What a process has logged, a fact a line."""
        return [json.loads(line) for line in self.up.log(name).splitlines() if line.startswith("{") and line.endswith("}")]

    def sources(self) -> dict[str, Any]:
        """What the sources say of themselves."""
        found: dict[str, Any] = httpx.get(f"{self.up.told['source']['url']}/sources", timeout=10).json()["sources"]
        return found

    def wait_idle(self, within_s: float = stack.PATIENCE_S) -> None:
        """Wait until the outbox is empty and no source lags."""

        def idle() -> bool:
            pending = self.run("SELECT count(*) FROM order_outbox_events WHERE status IN ('pending', 'failed')")
            return pending == [[0]] and all(of["state"] == "running" and of["lag"] == 0 for of in self.sources().values())

        stack.eventually(idle, "an empty outbox and no lag", within_s)

    def close(self) -> None:
        """Let go of the database."""
        if self._database is not None:
            self._database.close()


def groups(topic: str) -> list[str]:
    """The consumer groups of `topic`, sorted."""
    return sorted(consumer.group for of, consumer in topics.read().consumers() if of.name == topic)
