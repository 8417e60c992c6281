"""Whether each event was published once, handled once by each of its consumers, and nothing else was."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from chaos.found import Consumer, Found, InboxRow, OutboxRow
from chaos.ledger import Expected, Ledger
from chaos.verdict import Case

Rows = Mapping[str, Mapping[str, list[InboxRow]]]  # by inbox and event id


def rows_of(found: Found) -> Rows:
    """The rows of each inbox by their event ids."""
    made: dict[str, dict[str, list[InboxRow]]] = {}
    for inbox, rows in found.inboxes.items():
        of = made[inbox] = defaultdict(list)
        for row in rows:
            of[row.event_id].append(row)
    return made


def published(ledger: Ledger) -> Iterator[Case]:
    """Each staged event has its row, the row is sent, and the topic has it. The outbox has no other event, and no letter is there alone."""
    for event in ledger.events.values():
        yield from _published(event, ledger.outbox.get(event.event_id))
    dead = {consumer.dead_letter_topic for consumer in ledger.found.consumers}
    letters = {letter.letter_id for letter in ledger.found.letters}
    for row in (row for event_id, row in ledger.outbox.items() if event_id not in ledger.events):
        told = {"about": row.event_type, "key": row.key or row.order_id, "event_id": row.event_id, "place": "outbox"}
        if row.topic not in dead:
            yield Case(kind="doubled", what="a staged event that nothing asked for", found=row.status, **told)
        elif row.status != "sent" or row.event_id not in letters:
            yield Case(kind="lost", what="a letter that only the outbox has", expected=f"on {row.topic}", found=_state(row), **told)


def _published(event: Expected, row: OutboxRow | None) -> Iterator[Case]:
    if not event.staged:
        if row is not None:
            yield event.case("doubled", "an event that came by Kafka was staged too", place="outbox", found=row.status)
        return
    if row is None:
        yield event.case("lost", "an event that was not staged", place="outbox", expected="a row", found="none")
    elif row.status != "sent":
        yield event.case("lost", "an outbox row that was not published", place="outbox", expected="sent", found=_state(row))
    if not event.published:
        yield event.case("lost", "an event that is not on its topic", expected="a record", found="none")


def _state(row: OutboxRow) -> str:
    return f"{row.status}, {row.last_error}" if row.last_error else row.status


def handled(ledger: Ledger, rows: Rows) -> Iterator[Case]:
    """Each event has one row in the inbox of each consumer of its topic, and no inbox has another row."""
    acknowledged = {(of.group, of.topic, of.partition): of.committed or 0 for of in ledger.found.positions}
    extra = {inbox: dict(of) for inbox, of in rows.items()}
    for consumer in ledger.found.consumers:
        for event in ledger.on(consumer.topic):
            extra.get(consumer.inbox, {}).pop(event.event_id, None)
            there = rows.get(consumer.inbox, {}).get(event.event_id, [])
            yield from _once(event, consumer, there)
            if not there:
                yield event.case("lost", f"an event that {consumer.group} has not handled", expected=f"a row in {consumer.inbox}",
                                 found=_committed(event, consumer, acknowledged))  # fmt: skip
    for inbox, left in extra.items():
        for event_id, [row, *_] in left.items():
            yield Case(kind="doubled", what="an inbox row of an event that nobody may handle", about=row.event_type, key=row.order_id,
                       event_id=event_id, place=inbox)  # fmt: skip
    for group, event_id in ledger.found.parked:
        yield Case(kind="lost", what="an event that is parked", about=group, event_id=event_id)


def _once(event: Expected, consumer: Consumer, there: list[InboxRow]) -> Iterator[Case]:
    place = consumer.inbox
    if len(there) > 1:
        yield event.case("doubled", f"inbox rows of one event of {consumer.group}", place=place, expected="1", found=str(len(there)))
    for row in there:
        if (row.event_type, row.order_id) != (event.event_type, event.order_id):
            yield event.case("lost", f"an inbox row of {consumer.group} that is another event's", place=place,
                             expected=f"{event.event_type} of {event.order_id}", found=f"{row.event_type} of {row.order_id}")  # fmt: skip
        if consumer.leased and (row.status != "sent" or row.sent_at is None):
            yield event.case("lost", f"a message of {consumer.group} that is not marked as sent", place=place, expected="sent",
                             found=row.status)  # fmt: skip


def _committed(event: Expected, consumer: Consumer, acknowledged: Mapping[tuple[str, str, int], int]) -> str:
    if not event.records:
        return "none, and no record"
    first = event.records[0]
    offset = acknowledged.get((consumer.group, consumer.topic, first.partition), 0)
    return f"none, and {'its record was acknowledged' if offset > first.offset else 'its record was not acknowledged'} ({offset} committed)"


def positions(found: Found) -> Iterator[Case]:
    """No group acknowledged what is not there, and every record between a partition's ends was read here."""
    counted: dict[tuple[str, int], int] = defaultdict(int)
    for record in found.records:
        counted[record.topic, record.partition] += 1
    for of in found.positions:
        place, here = f"{of.topic}/{of.partition}", counted[of.topic, of.partition]
        if (of.committed or 0) > of.end:
            yield Case(kind="lost", what="an acknowledged offset beyond the end", about=of.group, place=place, expected=f"≤ {of.end}",
                       found=str(of.committed))  # fmt: skip
        if here != of.end - of.first:
            yield Case(kind="lost", what="records that were not read", about=of.group, place=place, expected=str(of.end - of.first),
                       found=str(here))  # fmt: skip


def lag(found: Found) -> dict[str, int]:
    """How many records each group has not acknowledged."""
    left = dict.fromkeys((consumer.group for consumer in found.consumers), 0)
    for of in found.positions:
        left[of.group] += max(0, of.end - max(of.first, of.committed or 0))
    return left
