"""Letters on topics of their own, and the commands that look at them."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from functions.dlq_router import failed
from functions.dlq_router import letter as letters_of_router
from ops import child, home
from ops.dlq import command
from shared import letters
from tests import stack
from tests.dlq.replaying import ASSEMBLED, ASSEMBLY, LETTER_BYTES_MAX, ORDER, PAYMENT, TOPICS, Bench
from tests.ops import commands
from tests.ops.commands import Ran

LETTER_LIMIT = {"max.message.bytes": str(LETTER_BYTES_MAX)}
DEAD_LETTERS = {ORDER: "assembly.dlq", ASSEMBLY: "payment.dlq", PAYMENT: "notification.dlq", ASSEMBLED: "notification.dlq"}


class Desk(Bench):
    """A Bench whose dead-letter topics are there, and hold what is written to them."""

    def __init__(self, fresh: stack.TestDatabase, kafka: stack.KafkaServer, folder: Path) -> None:
        super().__init__(fresh, kafka.brokers, folder)
        self.kafka, self.folder = kafka, folder
        for name in self.dead_letters.values():
            kafka.make_topic(1, LETTER_LIMIT, name)

    def dlq(self, *arguments: str, given: bytes | str = b"", **env: str) -> Ran:
        """`orderflow dlq …`"""
        return commands.run(command.app, *arguments, env=self.env | env, given=given)

    def alone(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """`orderflow dlq …` in a process of its own; what it writes, byte for byte."""
        command_line = stack.orderflow("dlq", *arguments)
        return subprocess.run(command_line, capture_output=True, check=False, cwd=home.CHECKOUT, env=child.environment(**self.env))

    def topic(self, consumer: str) -> str:
        """The dead-letter topic of a consumer."""
        return self.dead_letters[DEAD_LETTERS[consumer]]

    def letter(self, consumer: str, payload: Mapping[str, Any] | bytes | None, **changes: Any) -> letters_of_router.Letter:
        """A letter of `consumer` as dlq_router makes it; `changes` are of the failed record."""
        self._offset += 1
        value = payload if isinstance(payload, bytes) or payload is None else json.dumps(payload).encode()
        record: dict[str, Any] = {"partition": 0, "offset": self._offset, "timestamp_ms": 1_795_000_000_000, "exact": True}
        record |= {"status": 422, "code": "invalid_event", "detail": "it was broken then", "attempts": 1} | changes
        now = record.pop("now", datetime.now(UTC))
        return letters_of_router.write(failed.Failed(TOPICS[consumer], value, **record), consumer, now=now, bytes_max=LETTER_BYTES_MAX)

    def write(self, consumer: str, *written: letters_of_router.Letter) -> list[str]:
        """Put letters on the topic of their consumer. Their ids."""
        producer = Producer(stack.CLIENT | {"bootstrap.servers": self.brokers, "linger.ms": 5, "message.max.bytes": 4 << 20})
        for one in written:
            producer.produce(self.topic(consumer), one.value, key=one.key, headers=list(one.headers.items()))
        assert producer.flush(stack.PATIENCE_S) == 0
        return [one.letter_id for one in written]

    def fails(self, consumer: str, *payloads: Mapping[str, Any] | bytes | None, **changes: Any) -> list[str]:
        """A letter on its topic for each payload. Their ids."""
        return self.write(consumer, *(self.letter(consumer, payload, **changes) for payload in payloads))

    def indexed(self, *written: letters_of_router.Letter) -> None:
        """Have these in the index, as their router does."""
        self.index([letters.read(one.value) for one in written])

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """The letters that `list` shows."""
        found: Sequence[dict[str, Any]] = self.dlq("list", "--json", *arguments).json()["letters"]
        return list(found)
