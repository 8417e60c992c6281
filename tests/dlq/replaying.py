"""Letters in an index of their own, and the commands that send them, for tests of replay."""

import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from confluent_kafka import Consumer, Producer, TopicPartition

from functions.dlq_router import failed, letter
from ops.dlq import events_command, replay_command, runs_command
from shared import config, database, letters, letters_index
from tests import stack
from tests.ops import commands
from tests.ops.commands import Ran

LETTER_BYTES_MAX = 2_162_688
ORDER, ASSEMBLY, PAYMENT, ASSEMBLED = "order-service", "assembly-service", "notification-payment", "notification-assembly"
TOPICS = {ORDER: "order.assembly.completed", ASSEMBLED: "order.assembly.completed"} | dict.fromkeys(
    (ASSEMBLY, PAYMENT), "order.payment.completed"
)

app = typer.Typer()
app.command("replay")(replay_command.replay)
app.command("runs")(runs_command.listed)
app.command("events")(events_command.replay)


class Bench:
    """A database with letters, the environment of the commands, and the topics that are this test's own."""

    def __init__(self, fresh: stack.TestDatabase, brokers: str, folder: Path) -> None:
        self.database, self.brokers = fresh, brokers
        own = uuid.uuid4().hex[:12]
        self.dead_letters = {name: f"{name}.{own}" for name in ("payment.dlq", "assembly.dlq", "notification.dlq")}
        self.env = {
            "ORDERFLOW_HOME": str(folder),
            "KAFKA_BROKERS": brokers,
            "ORDER_POSTGRES_DSN": fresh.dsn(),
            "KAFKA_ORDER_PAYMENT_COMPLETED_DLQ_TOPIC": self.dead_letters["payment.dlq"],
            "KAFKA_ORDER_ASSEMBLY_COMPLETED_DLQ_TOPIC": self.dead_letters["assembly.dlq"],
            "KAFKA_NOTIFICATION_DLQ_TOPIC": self.dead_letters["notification.dlq"],
            "KAFKA_RETRY_BACKOFF_BASE": "50ms",
        }
        self._offset = 0

    def sinks(self, **urls: str) -> None:
        """Where functions are: order_on_assembled=url."""
        self.env["SINK_URLS"] = ",".join(f"{name.replace('_', '-')}={url}" for name, url in urls.items())

    def fail(self, consumer: str, *payloads: Mapping[str, Any] | bytes | None, **changes: Any) -> list[str]:
        """A letter of `consumer` for each payload, in the index; `changes` are of the failed record. Their ids."""
        entries = []
        for payload in payloads:
            self._offset += 1
            value = payload if isinstance(payload, bytes) or payload is None else json.dumps(payload).encode()
            record: dict[str, Any] = {"partition": 0, "offset": self._offset, "timestamp_ms": 1_795_000_000_000, "exact": True}
            record |= {"status": 422, "code": "invalid_event", "detail": "it was broken then", "attempts": 1} | changes
            now = record.pop("now", datetime.now(UTC))
            written = letter.write(failed.Failed(TOPICS[consumer], value, **record), consumer, now=now, bytes_max=LETTER_BYTES_MAX)
            entries.append(letters.read(written.value))
        self.index(entries)
        return [entry.letter_id for entry in entries]

    def index(self, entries: Sequence[letters.Entry]) -> None:
        """Have these in the index."""

        connected = database.Database(self.database.dsn(), settings=config.Settings(), application="test")
        try:
            connected.transact(lambda tx: letters_index.index(tx, entries))
        finally:
            connected.close()

    def replay(self, *arguments: str) -> Ran:
        """`orderflow dlq replay …`"""
        return commands.run(app, "replay", *arguments, env=self.env)

    def events(self, *arguments: str) -> Ran:
        """`orderflow replay …`"""
        return commands.run(app, "events", *arguments, env=self.env)

    def runs(self, *arguments: str) -> Ran:
        """`orderflow dlq runs …`"""
        return commands.run(app, "runs", *arguments, env=self.env)

    def command(self, *arguments: str) -> list[str]:
        """The command line of a process of its own; `self.env` is its environment."""
        return [sys.executable, "-c", "from tests.dlq import replaying; replaying.app(prog_name='orderflow')", *arguments]

    def states(self) -> dict[str, int]:
        """How many letters are in which state."""
        return dict(self.database.run("SELECT state, count(*) FROM dlq_letters GROUP BY state"))

    def history(self, letter_id: str) -> list[str]:
        """What happened to a letter."""
        return [row[0] for row in self.database.run("SELECT what FROM dlq_history WHERE letter_id = :id ORDER BY at, n", id=letter_id)]

    def run_id(self) -> str:
        """The newest run."""
        return str(self.database.run("SELECT run_id FROM dlq_runs ORDER BY created_at DESC LIMIT 1")[0][0])

    def produce(self, topic: str, *values: bytes | None, key: bytes | None = None, headers: Any = None) -> None:
        """Put records into a topic."""
        producer = Producer(stack.CLIENT | {"bootstrap.servers": self.brokers, "linger.ms": 5})
        for value in values:
            producer.produce(topic, value, key=key, headers=headers)
        assert producer.flush(stack.PATIENCE_S) == 0


def records(brokers: str, topic: str, group: str) -> list[tuple[Any, Any, Any]]:
    """Key, value and headers of every record of a topic's partition 0."""
    consumer = Consumer(stack.CLIENT | {"bootstrap.servers": brokers, "group.id": group, "enable.auto.commit": False})
    try:
        place = TopicPartition(topic, 0, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=stack.PATIENCE_S)
        consumer.assign([place])
        found = consumer.consume(end, timeout=stack.PATIENCE_S) if end else []
        return [(message.key(), message.value(), message.headers()) for message in found]
    finally:
        consumer.close()
