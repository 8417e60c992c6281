"""A run and what it left, as plain data: clean, until a test plants a fault in it."""

import dataclasses
import hashlib
import itertools
import json
import random
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from chaos import checker, record
from chaos.found import Consumer, Found, InboxRow, Letter, Order, OutboxRow, Position, Record
from chaos.record import Fault, Sent, Telegram
from chaos.verdict import Case, Verdict
from shared import events

PAID, ASSEMBLED = "order.payment.completed", "order.assembly.completed"
ASSEMBLY, NOTIFY_PAID, ORDERS, NOTIFY_ASSEMBLED = "assembly-service", "notification-payment", "order-service", "notification-assembly"
CONSUMERS = (
    Consumer(ASSEMBLY, PAID, "assembly_inbox_events", "order.payment.completed.dlq"),
    Consumer(NOTIFY_PAID, PAID, "notification_inbox_events", "order.notification.dlq", leased=True),
    Consumer(ORDERS, ASSEMBLED, "order_inbox_events", "order.assembly.completed.dlq"),
    Consumer(NOTIFY_ASSEMBLED, ASSEMBLED, "notification_inbox_events", "order.notification.dlq", leased=True),
)
GROUPS = {topic: tuple(of.group for of in CONSUMERS if of.topic == topic) for topic in (PAID, ASSEMBLED)}
PARTITIONS = 4
PRICE = 10_000

T = TypeVar("T")


class World:
    """What was sent and what came of it, in lists that a test may change. Every step takes a tenth of a second, and nothing fails."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 1_000_000.0
        self.chance = random.Random(seed)  # noqa: S311 - not a secret
        self.sent: list[Sent] = []
        self.faults: list[Fault] = []
        self.telegrams: list[Telegram] = []
        self.orders: list[Order] = []
        self.inboxes: dict[str, list[InboxRow]] = {of.inbox: [] for of in CONSUMERS}
        self.outbox: list[OutboxRow] = []
        self.records: list[Record] = []
        self.letters: list[Letter] = []
        self.index: dict[str, str] = {}
        self.parked: list[tuple[str, str]] = []
        self.no_letters: list[str] = []
        self.committed: dict[tuple[str, str, int], int] = {}
        self._numbers = itertools.count(1)
        self.ends: dict[tuple[str, int], int] = {}

    def order(self) -> str:
        """An order that went all its way; its id."""
        n = next(self._numbers)
        order_id, user, items = self._id(), f"user-{n}", (("p-1", 1 + n % 3), ("p-2", 2))
        self.sent.append(Sent(n=n, kind="order", at=self.now, user_id=user, order_id=order_id, idempotency_key=f"k-{n}", answered=True,
                              answered_at=self.now, status=201, tries=1))  # fmt: skip
        self.orders.append(Order(order_id, user, "assembled", items))
        amount = PRICE * sum(quantity for _, quantity in items)
        self.stage(payload_of(PAID, self._id(), order_id, user, amount=amount))
        return order_id

    def event(self, key: str | None = None, *, topic: str = PAID) -> str:
        """An event that was sent straight onto a topic, and handled; its id."""
        n = next(self._numbers)
        payload = payload_of(topic, self._id(), key or f"chain-{n}", f"user-{n}", amount=100)
        written = self._write(topic, payload)
        facts = {name: payload[name] for name in ("event_id", "event_type", "order_id", "user_id")}
        self.sent.append(self._sent(n, "event", written, facts))
        self._handle(payload, written)
        return str(payload["event_id"])

    def repeat(self, event_id: str, kind: record.Kind = "duplicate") -> Record:
        """An event's record once more, which has no effect."""
        first = next(of for of in self.records if of.event_id == event_id)
        n = next(self._numbers)
        written = self.append(first)
        facts = {name: getattr(first, name) for name in ("event_id", "event_type", "order_id", "user_id")}
        self.sent.append(self._sent(n, kind, written, facts))
        return written

    def poison(self, topic: str = PAID, *, note: str = "no JSON") -> Record:
        """A poison record and its letters."""
        n = next(self._numbers)
        key, value = f"poison-{n}", f"poison {n}".encode()
        written = self.append(Record(topic, 0, 0, key, hashlib.sha256(value).hexdigest()))
        self.sent.append(dataclasses.replace(self._sent(n, "poison", written, {}), note=note))
        for of in CONSUMERS:
            if of.topic == topic:
                self.letter(written, of)
        return written

    def letter(self, of: Record, consumer: Consumer, **changes: Any) -> Letter:
        """A letter about a record."""
        letter_id = str(uuid.uuid5(events.NAMESPACE, f"{consumer.group} {of.place} {of.value_sha256}"))
        written = f"{consumer.dead_letter_topic}/0/{len(self.letters)}"
        letter = Letter(letter_id, consumer.group, of.topic, of.partition, of.offset, of.key, of.value_sha256, "unreadable", written,
                        consumer.dead_letter_topic)  # fmt: skip
        self.letters.append(dataclasses.replace(letter, **changes))
        self.index[self.letters[-1].letter_id] = consumer.group
        return self.letters[-1]

    def republish(self, event_id: str) -> Record:
        """The relay's record once more."""
        return self.append(next(of for of in self.records if of.event_id == event_id))

    def message(self, what: str, order_id: str, user: str, **changes: Any) -> Telegram:
        """A message, answered at once."""
        told = {"fault": "", "answered": True} | changes
        text = f"Order {order_id} is {what}\nUser: {user}\nTime: now"
        self.telegrams.append(Telegram(n=len(self.telegrams) + 1, at=self.now, text=text, ended_at=self.now + 0.01, **told))
        self.now += 0.1
        return self.telegrams[-1]

    def again(self, message: Telegram, after_s: float = 1.0, **changes: Any) -> Telegram:
        """The same message once more, some time later; the row is marked after the last."""
        at = message.at + after_s
        made = dataclasses.replace(message, n=len(self.telegrams) + 1, at=at, ended_at=at + 0.01, **changes)
        self.telegrams.append(made)
        inbox = self.inboxes["notification_inbox_events"]
        wanted = {"paid": PAID, "assembled": ASSEMBLED}[message.what]
        place = next(n for n, row in enumerate(inbox) if row.event_type == wanted and row.order_id == message.order_id)
        inbox[place] = dataclasses.replace(inbox[place], sent_at=made.at + 0.02)
        return made

    def fault(self, kind: str, target: str, at: float, ended_at: float | None = None, *, done: bool = True) -> Fault:
        """A fault that took place."""
        self.faults.append(Fault(n=len(self.faults) + 1, kind=kind, target=target, at=at, done=done, ended_at=ended_at or at))
        return self.faults[-1]

    def of(self, **wanted: object) -> Record:
        """The first record with these values."""
        return next(one for one in self.records if all(getattr(one, name) == value for name, value in wanted.items()))

    def change(self, rows: list[T], which: Callable[[T], bool], **changes: Any) -> T:
        """Replace values of the first row that is such a one; what it is now."""
        place = next(n for n, row in enumerate(rows) if which(row))
        rows[place] = dataclasses.replace(rows[place], **changes)
        return rows[place]

    def remove(self, rows: list[T], which: Callable[[T], bool]) -> T:
        """Take the first such row away."""
        return rows.pop(next(n for n, row in enumerate(rows) if which(row)))

    def run(self) -> record.Record:
        """What was sent."""
        telegrams = tuple(sorted(self.telegrams, key=lambda message: message.at))
        return record.Record({"seed": 0}, tuple(self.sent), tuple(self.faults), telegrams)

    def found(self) -> Found:
        """What there is."""
        positions = [
            Position(of.group, of.topic, number, self.committed.get((of.group, of.topic, number), end), 0, end)
            for of in CONSUMERS
            for number in range(PARTITIONS)
            for end in [self.ends.get((of.topic, number), 0)]
        ]
        return Found(
            consumers=CONSUMERS, topics={PAID: PAID, ASSEMBLED: ASSEMBLED}, item_price_kopecks=PRICE, orders=self.orders,
            inboxes=self.inboxes, outbox=self.outbox, records=self.records, letters=self.letters, no_letters=self.no_letters,
            index=self.index, parked=self.parked, positions=positions,
        )  # fmt: skip

    def verdict(self) -> Verdict:
        """What the checker makes of it."""
        return checker.check(self.run(), self.found())

    def _id(self) -> str:
        return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))

    def stage(self, payload: dict[str, Any]) -> None:
        """An event in the outbox, published and handled."""
        topic, value = str(payload["event_type"]), json.dumps(payload).encode()
        self.now += 0.1
        digest = hashlib.sha256(value).hexdigest()
        self.outbox.append(OutboxRow(payload["event_id"], topic, payload["order_id"], topic, digest, "sent", None, payload["order_id"],
                                     (self.now, len(self.outbox))))  # fmt: skip
        self._handle(payload, self._write(topic, payload))

    def _handle(self, payload: dict[str, Any], written: Record) -> None:
        row = (payload["event_id"], payload["event_type"], payload["order_id"])
        for of in CONSUMERS:
            if of.topic != written.topic:
                continue
            self.now += 0.1
            if of.leased:
                claimed = self.now
                self.message("paid" if of.topic == PAID else "assembled", payload["order_id"], payload["user_id"])
                self.inboxes[of.inbox].append(InboxRow(*row, claimed, "sent", self.now))
            else:
                self.inboxes[of.inbox].append(InboxRow(*row, self.now))
        if written.topic == PAID:
            made = events.derived_id(ASSEMBLY, ASSEMBLED, 0, str(payload["event_id"]))
            self.stage(payload_of(ASSEMBLED, made, payload["order_id"], payload["user_id"]))

    def _write(self, topic: str, payload: dict[str, Any]) -> Record:
        digest = hashlib.sha256(json.dumps(payload).encode()).hexdigest()
        names = {name: payload[name] for name in ("event_id", "event_type", "order_id", "user_id")}
        headers = (("ce_id", payload["event_id"]),)
        return self.append(Record(topic, 0, 0, payload["order_id"], digest, headers, amount=payload.get("amount"), **names))

    def append(self, of: Record) -> Record:
        """A record at the end of its key's partition."""
        partition = int(hashlib.sha256((of.key or "").encode()).hexdigest(), 16) % PARTITIONS
        offset = self.ends.get((of.topic, partition), 0)
        self.ends[of.topic, partition] = offset + 1
        self.records.append(dataclasses.replace(of, partition=partition, offset=offset))
        return self.records[-1]

    def _sent(self, n: int, kind: record.Kind, written: Record, facts: dict[str, Any]) -> Sent:
        return Sent(n=n, kind=kind, at=self.now, topic=written.topic, key=written.key, value_sha256=written.value_sha256,
                    groups=GROUPS[written.topic], answered=True, partition=written.partition, offset=written.offset, **facts)  # fmt: skip


def payload_of(event_type: str, event_id: str, order_id: str, user: str, **more: Any) -> dict[str, Any]:
    """The payload of an event."""
    return {"event_id": event_id, "event_type": event_type, "order_id": order_id, "user_id": user} | more


def busy(seed: int = 1, steps: int = 60) -> World:
    """A world with some of everything, drawn by the seed."""
    world = World(seed)
    known: list[str] = []
    for _ in range(steps):
        match world.chance.choice(("order", "order", "event", "chain", "repeat", "poison", "republish")):
            case "order":
                world.order()
            case "event":
                known.append(world.event(topic=world.chance.choice((PAID, ASSEMBLED))))
            case "chain":
                key = f"chain of {world.chance.random()}"
                known += [world.event(key) for _ in range(3)]
                world.repeat(known[-3], "reordered")
            case "repeat" if known:
                world.repeat(world.chance.choice(known))
            case "republish" if world.outbox:
                world.republish(world.chance.choice(world.outbox).event_id)
            case _:
                world.poison(world.chance.choice((PAID, ASSEMBLED)))
    return world


def only(verdict: Verdict, kind: str, what: str) -> Sequence[Case]:
    """The cases of a verdict that has cases of this kind alone, each of which says `what`."""
    cases: dict[str, list[Case]] = {name: getattr(verdict, name) for name in ("lost", "doubled", "disordered", "explained")}
    found = [str(case) for name, of in cases.items() for case in of if name != kind or what not in case.what]
    assert [] == found
    assert cases[kind], f"nothing is {kind}"
    return cases[kind]
