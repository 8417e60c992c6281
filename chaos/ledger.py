"""What has to be there, from what was sent: every event with its records, every poison record, and what nobody sent.

An order's own event is made by the system, so its id is taken from what the system did; that there is exactly one is checked here. All
that follows from it is known beforehand: the assembled event's id is derived from the paid one's.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from chaos.found import Found, Order, OutboxRow, Record
from chaos.record import Record as Run
from chaos.record import Sent
from chaos.verdict import Case, Kind
from shared import events

PAID, ASSEMBLED = events.OrderPaid.TYPE, events.OrderAssembled.TYPE
ASSEMBLY = "assembly-service"  # what ids of assembled events are derived for, whatever the group is called here
WHAT = {PAID: "paid", ASSEMBLED: "assembled"}  # in a message's text


@dataclass(slots=True)
class Expected:
    """An event that every consumer of its topic has to handle once. `records` are all of it, ours and repeats, by offset."""

    event_id: str
    event_type: str
    order_id: str
    user_id: str
    topic: str
    about: str
    staged: bool  # by one of our functions, so the outbox has it and the relay writes it
    records: list[Record] = field(default_factory=list)
    published: int = 0  # times by the relay

    @property
    def place(self) -> str:
        """Where it came first."""
        return self.records[0].place if self.records else self.topic

    def case(self, kind: Kind, what: str, *, place: str = "", **told: str) -> Case:
        """A case about it."""
        return Case(kind=kind, what=what, about=self.about, key=self.order_id, event_id=self.event_id, place=place or self.place, **told)


@dataclass(slots=True)
class Ledger:
    """The whole of it. `poison` is a record with what it was sent as."""

    found: Found
    events: dict[str, Expected] = field(default_factory=dict)
    poison: list[tuple[Sent, Record]] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    outbox: Mapping[str, OutboxRow] = field(default_factory=dict)

    @property
    def republished(self) -> int:
        """Records that the relay wrote once more."""
        return sum(max(0, event.published - 1) for event in self.events.values())

    def on(self, topic: str) -> list[Expected]:
        """The events of a topic."""
        return [event for event in self.events.values() if event.topic == topic]

    def add(self, event: Expected) -> None:
        """Expect an event, and with a paid one the assembled one that comes of it."""
        self.events[event.event_id] = event
        if event.event_type == PAID:
            topic = self.found.topics[ASSEMBLED]
            self.add(
                Expected(
                    assembled_id(event.event_id), ASSEMBLED, event.order_id, event.user_id, topic, f"{event.about}, assembled", staged=True
                )
            )


def assembled_id(paid_id: str) -> str:
    """The id of the one assembled event that comes of a paid one."""
    return events.derived_id(ASSEMBLY, ASSEMBLED, 0, paid_id)


def made(run: Run, found: Found) -> Ledger:
    """The ledger of a run."""
    ledger = Ledger(found, outbox={row.event_id: row for row in found.outbox})
    sent_records, staged_records = _sorted(run, ledger)
    there = {sent.n for sent, _ in sent_records}
    for sent in run.sent:
        if sent.kind == "event" and (sent.answered or sent.n in there):
            ledger.add(_sent_event(sent))
    _orders(run, ledger, staged_records)
    for sent, record in sent_records:
        if sent.kind == "poison":
            ledger.poison.append((sent, record))
        elif event := ledger.events.get(sent.event_id or ""):
            event.records.append(record)
        else:
            ledger.cases.append(_case("doubled", "a repeat of an event that never was", sent, place=record.place))
    for record in staged_records:
        wanted = ledger.events.get(record.event_id)
        if wanted is None or (wanted.topic, wanted.event_type, wanted.order_id) != (record.topic, record.event_type, record.key):
            ledger.cases.append(_stranger("an event that nothing asked for", record))
        else:
            wanted.records.append(record)
            wanted.published += 1
    for event in ledger.events.values():
        event.records.sort(key=lambda record: (record.partition, record.offset))
    return ledger


def _sorted(run: Run, ledger: Ledger) -> tuple[list[tuple[Sent, Record]], list[Record]]:
    """The records that were sent here, and those that the relay wrote. A case is any other, and one that was confirmed and is gone."""
    placed = {(sent.topic, sent.partition, sent.offset): sent for sent in run.sent if sent.offset is not None}
    unsure = {(sent.topic, sent.key, sent.value_sha256): sent for sent in run.sent if sent.topic is not None and sent.offset is None}
    ours, staged = [], []
    for record in ledger.found.records:
        sent = placed.pop((record.topic, record.partition, record.offset), None)
        if sent is not None and (record.key, record.value_sha256) != (sent.key, sent.value_sha256):
            ledger.cases.append(_case("lost", "another record lies where this one was confirmed", sent, place=record.place))
        elif sent is not None:
            ours.append((sent, record))
        elif _is_staged(record, ledger.outbox.get(record.event_id)):
            staged.append(record)
        elif likely := unsure.get((record.topic, record.key, record.value_sha256)):
            ours.append((likely, record))
        else:
            ledger.cases.append(_stranger("a record that nobody sent", record))
    for sent in placed.values():
        place = f"{sent.topic}/{sent.partition}/{sent.offset}"
        ledger.cases.append(_case("lost", "a record that Kafka confirmed is not there", sent, place=place))
    return ours, staged


def _is_staged(record: Record, row: OutboxRow | None) -> bool:
    """Whether it is the row's own record, byte for byte, with its id in its header."""
    if row is None or dict(record.headers).get("ce_id") != row.event_id:
        return False
    return (record.topic, record.key, record.value_sha256) == (row.topic, row.key, row.value_sha256)


def _sent_event(sent: Sent) -> Expected:
    return Expected(
        sent.event_id or "", sent.event_type or "", sent.order_id or "", sent.user_id, sent.topic or "", f"event {sent.n}", staged=False
    )  # fmt: skip


def _orders(run: Run, ledger: Ledger, staged: list[Record]) -> None:
    """Each order that was placed: its row, once, and its event, once."""
    rows: dict[str, list[Order]] = defaultdict(list)
    for order in ledger.found.orders:
        rows[order.user_id].append(order)
    paid: dict[str, list[str]] = defaultdict(list)
    for row in ledger.found.outbox:
        if row.event_type == PAID:
            paid[row.order_id].append(row.event_id)
    amounts = {record.event_id: record.amount for record in staged}
    for sent in (sent for sent in run.sent if sent.kind == "order"):
        there = rows.pop(sent.user_id, [])
        ids = ", ".join(order.id for order in there) or "none"
        if sent.answered and sent.order_id not in {order.id for order in there}:
            told = {"expected": sent.order_id or "", "found": ids}
            ledger.cases.append(_case("lost", "an order that was answered is not there", sent, **told))
        if len(there) > 1:
            ledger.cases.append(_case("doubled", "orders of one idempotency key", sent, expected="1", found=ids))
        for order in there:
            ledger.cases += _one(ledger, f"order {sent.n}", order, paid[order.id], amounts)
    for order in (order for orders in rows.values() for order in orders):
        ledger.cases.append(Case(kind="doubled", what="an order that nobody placed", key=order.id, found=f"of {order.user_id}"))


def _one(ledger: Ledger, about: str, order: Order, paid: Sequence[str], amounts: Mapping[str, int | None]) -> Iterator[Case]:
    if not order.items:
        yield Case(kind="lost", what="an order without its items", about=about, key=order.id)
    if not paid:
        yield Case(kind="lost", what="an order without its payment event", about=about, key=order.id)
    if len(paid) > 1:
        yield Case(kind="doubled", what="payment events of one order", about=about, key=order.id, expected="1", found=", ".join(paid))
    if order.status != "assembled":
        yield Case(kind="lost", what="an order that is not assembled", about=about, key=order.id, expected="assembled", found=order.status)
    wanted = sum(quantity for _, quantity in order.items) * ledger.found.item_price_kopecks
    for event_id in paid:
        event = Expected(event_id, PAID, order.id, order.user_id, ledger.found.topics[PAID], about, staged=True)
        ledger.add(event)
        if order.items and amounts.get(event_id, wanted) != wanted:
            yield event.case("lost", "an amount that is not that of the items", expected=str(wanted), found=str(amounts[event_id]))


def _stranger(what: str, record: Record) -> Case:
    return Case(kind="doubled", what=what, key=record.key or "", event_id=record.event_id, place=record.place)


def _case(kind: Kind, what: str, sent: Sent, **told: str) -> Case:
    note = f" ({sent.note})" if sent.note else ""
    names = {"key": sent.key or sent.idempotency_key or "", "event_id": sent.event_id or ""}
    return Case(kind=kind, what=what, about=f"{sent.kind} {sent.n}{note}", **names, **told)
