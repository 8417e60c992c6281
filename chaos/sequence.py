"""Whether, for each key, everything happened in the order in which it was sent or staged.

What is promised: the relay publishes rows of a key in the order of (due time, sequence); the source hands records of a key to each
consumer in the order of their offsets. A record may come again later, after newer ones; what counts is when each event came first.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from chaos.effects import Rows
from chaos.ledger import PAID, WHAT, Expected, Ledger, assembled_id
from chaos.repeats import Messages
from chaos.verdict import Case

Turn = Callable[[Expected], float | tuple[float, int] | None]  # when something happened to an event; None where it did not


def check(ledger: Ledger, rows: Rows, messages: Messages) -> Iterator[Case]:
    """Every case about order."""
    lanes: dict[tuple[str, str], list[Expected]] = defaultdict(list)
    for event in ledger.events.values():
        lanes[event.topic, event.order_id].append(event)
    for (topic, _), lane in lanes.items():
        yield from _published(ledger, lane)
        for partition in {event.records[0].partition for event in lane if event.records}:
            of = [event for event in lane if event.records and event.records[0].partition == partition]
            if len(of) > 1:
                yield from _handled(ledger, topic, sorted(of, key=lambda event: event.records[0].offset), rows, messages)


def _published(ledger: Ledger, lane: Sequence[Expected]) -> Iterator[Case]:
    """The relay's records of a key lie in one partition, in the order of their rows."""
    staged = [event for event in lane if event.published and event.event_id in ledger.outbox]
    if len(staged) < 2:
        return
    staged.sort(key=lambda event: ledger.outbox[event.event_id].turn)
    for before, after in pairwise(staged):
        if before.records[0].partition != after.records[0].partition:
            yield after.case("disordered", "records of one key in two partitions", expected=f"with {before.place}")
        elif before.records[0].offset > after.records[0].offset:
            yield after.case("disordered", "records of one key not in the order of their rows", expected=f"after {before.event_id}",
                             found=f"before it, which is at {before.place}")  # fmt: skip


def _handled(ledger: Ledger, topic: str, lane: Sequence[Expected], rows: Rows, messages: Messages) -> Iterator[Case]:
    """Each consumer handled the events of a key in the order of their records, and what it did shows that order."""
    for consumer in (consumer for consumer in ledger.found.consumers if consumer.topic == topic):
        inbox = rows.get(consumer.inbox, {})

        def claimed(event: Expected, inbox=inbox) -> float | None:  # type: ignore[no-untyped-def]
            of = inbox.get(event.event_id)
            return of[0].at if of else None

        yield from _in_order(lane, claimed, f"events of one key claimed by {consumer.group}")
        if consumer.leased:
            yield from _in_order(lane, lambda event: _told(event, messages), f"messages of one key of {consumer.group}")
    paid = [event for event in lane if event.event_type == PAID]
    yield from _in_order(paid, lambda event: _staged(event, ledger), "assembled events of one key staged")


def _in_order(lane: Sequence[Expected], turn: Turn, what: str) -> Iterator[Case]:
    happened = [(event, at) for event in lane if (at := turn(event)) is not None]
    for (before, sooner), (after, later) in pairwise(happened):
        if later < sooner:  # type: ignore[operator]  # two of one kind
            expected = f"after {before.event_id} at {before.place}"
            yield after.case("disordered", f"{what} not in the order of their records", expected=expected, found=f"{later} before {sooner}")


def _told(event: Expected, messages: Messages) -> float | None:
    sent = messages.get((WHAT[event.event_type], event.user_id))
    return sent[0].at if sent else None


def _staged(event: Expected, ledger: Ledger) -> tuple[float, int] | None:
    row = ledger.outbox.get(assembled_id(event.event_id))
    return row.turn if row else None
