"""The events of a run: made from a seed, so that every row reads the same ones and each can be looked for afterwards."""

import itertools
import json
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from confluent_kafka import KafkaError, Message, Producer

from shared import events, ids

OCCURRED_AT = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
USERS = 10_000
CLIENT: dict[str, str | int | float | bool] = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 500, "log_level": 0}
_FLUSH_S = 120.0
_FIRST_MS, _PER_MS = int(OCCURRED_AT.timestamp() * 1000), 50


@dataclass(frozen=True, slots=True)
class Dataset:
    """`count` events of as many orders, each value about `value_bytes` long. Nothing is held: what is asked for is made again.

    Their ids are chance, which is the most that other producers can ask of an index, or with `timed` as our own processes make them.
    """

    count: int
    seed: int = 1
    value_bytes: int = 0
    timed: bool = False

    def ids(self) -> Iterator[tuple[str, str]]:
        """Event id and order id of each event, in order."""
        chance = random.Random(self.seed)  # noqa: S311  a repeatable sequence, no secret
        for n in range(self.count):
            event_id, order_id = (uuid.UUID(int=chance.getrandbits(128), version=4) for _ in range(2))
            if self.timed:
                ms = _FIRST_MS + n // _PER_MS
                yield ids.at(ms, event_id), ids.at(ms, order_id)
            else:
                yield str(event_id), str(order_id)

    def expected(self) -> dict[str, str]:
        """Order id by event id."""
        return dict(self.ids())

    def order_ids(self) -> Iterator[str]:
        """The order of each event."""
        return (order_id for _, order_id in self.ids())

    def assembled(self) -> Iterator[events.OrderAssembled]:
        """The events as the relay would publish them: with the chain that they have in the real flow."""
        for n, (event_id, order_id) in enumerate(self.ids()):
            event = events.OrderAssembled(event_id=event_id, occurred_at=OCCURRED_AT, order_id=order_id, user_id=f"user-{n % USERS}")
            yield event.within(events.Context(correlation_id=order_id, causation_id=order_id))

    def value(self, event: events.OrderAssembled) -> bytes:
        """Its record's value. What is missing to `value_bytes` is a field that nobody knows, which readers must ignore."""
        value = event.value()
        missing = self.value_bytes - len(value)
        return value if missing <= 0 else value[:-1] + b',"note":"' + b"x" * missing + b'"}'


def produce(brokers: str, topic: str, dataset: Dataset, *, start: int = 0) -> None:
    """Write the events of `dataset` from the one numbered `start`: keyed by order, as CloudEvents in binary mode. Raises on any loss."""
    writer = Writer(brokers, **{"linger.ms": 20})
    for event in itertools.islice(dataset.assembled(), start, None):
        writer.write(topic, event, dataset.value(event))
    writer.flush()


class Writer:
    """A producer of events that forgives no failure."""

    def __init__(self, brokers: str, **more: str | int | float | bool) -> None:
        settings = CLIENT | {"bootstrap.servers": brokers, "acks": "all", "enable.idempotence": True, "partitioner": "murmur2_random"}
        self._producer = Producer(settings | {"queue.buffering.max.messages": 1_000_000, "linger.ms": 0} | more)
        self._failed: list[str] = []

    def write(self, topic: str, event: events.Event, value: bytes) -> None:
        """Hand one event over; it is on its way when this returns."""
        headers: list[tuple[str, str | bytes | None]] = [(name, text.encode()) for name, text in event.headers().items()]
        while True:
            try:
                self._producer.produce(topic, key=event.order_id.encode(), value=value, headers=headers, on_delivery=self._report)
                break
            except BufferError:
                self._producer.poll(0.05)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all are confirmed. Raises RuntimeError when one was not."""
        deadline = time.monotonic() + _FLUSH_S
        while self._producer.flush(1.0):
            if time.monotonic() > deadline:
                raise RuntimeError("Kafka did not confirm all records in time")
        if self._failed:
            raise RuntimeError(f"{len(self._failed)} records were not written: {self._failed[0]}")

    def _report(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failed.append(error.str())


def http_headers(event: events.Event) -> dict[str, str]:
    """The event's attributes as HTTP headers in CloudEvents' binary mode, as a KafkaSource sends them."""
    return {name.replace("ce_", "ce-", 1): text for name, text in event.headers().items()}


def new_orders(count: int) -> Iterable[bytes]:
    """Bodies of `POST /orders`: two products each."""
    for n in range(count):
        items = [{"product_id": f"product-{n % 997}", "quantity": 1 + n % 3}, {"product_id": f"product-{1000 + n % 991}", "quantity": 1}]
        yield json.dumps({"user_id": f"user-{n % USERS}", "items": items}).encode()
