"""Sends the planned load: orders as a careful client does, records straight onto the source topics. All of it is written down before."""

import asyncio
import contextlib
import hashlib
import json
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from chaos import poison, record
from chaos.plan import Step
from chaos.poison import Raw
from chaos.record import Journal, Sent
from ops import topics_admin
from shared import broker, events, topics
from shared.config import Settings

ANSWER_S = 10.0
PAUSE_S, PAUSE_MAX_S = 0.1, 2.0
ORDERS_AT_ONCE = 64
ENDS_S = 120.0
LOOK_S = 0.1
SEEN_MAX = 20_000  # events that may still be repeated
_AGAIN = frozenset({408, 409, 425, 429})


class Load:
    """The load of one run. `settings` reach Kafka directly; orders go through a proxy."""

    def __init__(self, journal: Journal, settings: Settings, orders_url: str, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.refused: list[str] = []  # answers and reports that no load of ours may get
        self._journal, self._seed = journal, seed
        self._http = httpx.AsyncClient(base_url=orders_url, timeout=ANSWER_S, trust_env=False)
        self._slots = asyncio.Semaphore(ORDERS_AT_ONCE)
        self._placing: set[asyncio.Task[None]] = set()
        self._chance = random.Random(seed)  # noqa: S311  jitter
        # It speaks to Kafka past every proxy and waits out what befalls the broker, so each of its records is there once.
        self._producer = Producer(
            broker.producer(settings, "chaos", delivery_timeout_s=3600.0, message_bytes_max=1 << 20, partitioner="murmur2_random")
        )
        self._tail = _tail(settings)
        kinds: tuple[type[events.Event], ...] = (events.OrderPaid, events.OrderAssembled)
        self._topics = {kind: settings.topic(kind.TYPE) for kind in kinds}
        self._groups = {topic.name: tuple(of.group for of in topic.consumers) for topic in topics.catalogue(settings).topics}
        self._seen: dict[tuple[str, str], Message] = {}  # by topic and user
        self._orders: dict[int, str] = {}
        self._waiting: deque[Step] = deque()

    async def run(self, steps: Iterable[Step], until: asyncio.Event) -> None:
        """Send until told to stop, and then wait until all of it was answered. Raises TimeoutError when that takes too long."""
        began = time.monotonic()
        serving = asyncio.create_task(self._serve())
        try:
            for step in steps:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(until.wait(), max(0.0, began + step.at_s - time.monotonic()))
                if until.is_set():
                    break
                await self._send(step)
            async with asyncio.timeout(ENDS_S):
                await asyncio.gather(*self._placing)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            left = await asyncio.to_thread(self._producer.flush, ENDS_S)
            if left:
                self.refused.append(f"Kafka did not confirm {left} records within {ENDS_S:.0f} s")
            await self._http.aclose()
            await asyncio.to_thread(self._tail.close)

    async def _send(self, step: Step) -> None:
        match step.what:
            case "order":
                await self._slots.acquire()
                task = asyncio.create_task(self._place(step))
                self._placing.add(task)
                task.add_done_callback(self._placing.discard)
            case "event":
                self._produce_event(step, self._event(step, f"chain-{self._seed}-{step.chain}"))
            case "poison":
                event = self._event(step, f"poison-{self._seed}-{step.n}")
                raw = poison.make(step.detail, event)
                topic = self._topics[type(event)]
                self._produce(raw, "poison", topic, event.order_id, user_id="", note=step.detail, groups=self._groups[topic])
            case _:
                self._waiting.append(step)

    async def _place(self, step: Step) -> None:
        """POST an order again and again, with the same key, until it is answered."""
        key, user = f"chaos-{self._seed}-{step.n}", f"user-{step.n}"
        body = {"user_id": user, "items": [{"product_id": f"part-{step.n % 7}", "quantity": 1 + step.n % 3}]}
        sent = self._journal.begin(Sent, kind="order", user_id=user, idempotency_key=key)
        self.counts["order"] += 1
        tries = 0
        try:
            while True:
                tries += 1
                answer = await self._post(body, key)
                if answer is not None and answer.is_success:
                    break
                if answer is not None and answer.status_code < 500 and answer.status_code not in _AGAIN:
                    self.refused.append(f"order {step.n}: {answer.status_code} {answer.text[:200]}")
                    self._journal.end(sent, status=answer.status_code, tries=tries)
                    return
                self.counts["tries again"] += 1
                await asyncio.sleep(min(PAUSE_MAX_S, PAUSE_S * 2 ** min(tries, 8)) * self._chance.uniform(0.5, 1.0))
            order_id = str(answer.json()["id"])
            self._journal.end(sent, answered=True, answered_at=time.time(), order_id=order_id, status=answer.status_code, tries=tries)
            self.counts["order answered"] += 1
            self._orders[step.n] = order_id
        finally:
            self._slots.release()

    async def _post(self, body: object, key: str) -> httpx.Response | None:
        try:
            return await self._http.post("/orders", json=body, headers={"Idempotency-Key": key})
        except httpx.HTTPError:
            return None

    def _event(self, step: Step, order_id: str) -> events.Event:
        facts: dict[str, Any] = {
            "event_id": str(uuid.uuid5(events.NAMESPACE, f"chaos {self._seed} {step.n}")),
            "occurred_at": datetime.now(UTC) - timedelta(seconds=step.n % 50),  # what counts is the order in the topic, not this
            "order_id": order_id,
            "user_id": f"user-{step.n}",
        }
        if step.assembled:
            return events.OrderAssembled(**facts)
        return events.OrderPaid(**facts, amount=100 + step.n, payment_method="card")

    def _produce_event(self, step: Step, event: events.Event) -> None:
        topic = self._topics[type(event)]
        raw, ce_id, ce_source = Raw(event.value(), {}), None, None
        if step.form != "plain":
            raw, ce_id, ce_source = Raw(event.value(), event.headers()), event.event_id, event.SOURCE
        if step.form == "structured":
            around = {"specversion": "1.0", "id": ce_id, "type": event.event_type, "source": ce_source, "data": json.loads(event.value())}
            raw = Raw(json.dumps(around).encode(), {"content-type": "application/cloudevents+json"})
        self._produce(
            raw, "event", topic, event.order_id, user_id=event.user_id, event_id=event.event_id, event_type=event.event_type, ce_id=ce_id,
            ce_source=ce_source, order_id=event.order_id, groups=self._groups[topic], note=f"{step.what}, {step.form}",
        )  # fmt: skip

    def _produce(self, raw: Raw, kind: record.Kind, topic: str, key: str | bytes | None, **facts: Any) -> None:
        digest = None if raw.value is None else hashlib.sha256(raw.value).hexdigest()
        text = key.decode() if isinstance(key, bytes) else key
        sent = self._journal.begin(Sent, kind=kind, topic=topic, key=text, value_sha256=digest, **facts)
        self.counts[kind] += 1
        self._producer.produce(topic, raw.value, key=key, headers=list(raw.headers.items()), on_delivery=partial(self._report, sent))

    def _report(self, sent: Sent, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.refused.append(f"{sent.kind} {sent.n}: {error.str()}")
            return
        self._journal.end(sent, answered=True, answered_at=time.time(), partition=message.partition(), offset=message.offset())

    async def _serve(self) -> None:
        """Hear Kafka's reports, see what is on the topics, and send what waited for that."""
        while True:
            self._producer.poll(0)
            for message in self._tail.consume(500, 0):
                self._see(message)
            for _ in range(len(self._waiting)):
                step = self._waiting.popleft()
                if not self._repeat(step):
                    self._waiting.append(step)
            await asyncio.sleep(LOOK_S)

    def _see(self, message: Message) -> None:
        if message.error() is not None:
            return
        try:
            told = json.loads(message.value() or b"")
            user = told.get("data", told)["user_id"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return
        self._seen.setdefault((message.topic() or "", str(user)), message)
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]

    def _repeat(self, step: Step) -> bool:
        """Send `step`, if what it needs has happened. Whether it was sent."""
        if step.what == "early":
            order_id = self._orders.get(step.of)
            if order_id is not None:
                self._produce_event(step, self._event(step, order_id))
            return order_id is not None
        kind = events.OrderAssembled if step.assembled else events.OrderPaid
        again = self._seen.get((self._topics[kind], f"user-{step.of}"))
        if again is None:
            return False
        told = json.loads(again.value() or b"")
        told = told.get("data", told)
        raw = Raw(again.value(), dict(again.headers() or ()))  # type: ignore[arg-type]  # what we wrote has values
        facts = {name: str(told[name]) for name in ("user_id", "event_id", "event_type", "order_id")}
        kind_sent: record.Kind = "reordered" if step.what == "reordered" else "duplicate"
        self._produce(raw, kind_sent, again.topic() or "", again.key(), **facts, note=f"of {again.partition()}/{again.offset()}")
        return True


def _tail(settings: Settings) -> Consumer:
    """What lies on the source topics, from the beginning on, in no group."""
    config = broker.client(settings, "chaos-tail") | {"group.id": "chaos-tail", "enable.auto.commit": False}
    consumer = Consumer(config)
    names = [topic.name for topic in topics.catalogue(settings).topics if topic.consumers]
    there = topics_admin.Admin(settings).partitions()
    consumer.assign([TopicPartition(name, number, 0) for name in names for number in range(there[name][0])])
    return consumer
