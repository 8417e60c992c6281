"""Whether each message was sent once. One that came again is named with its cause, and is a fault where there is none.

A message may repeat only where the outcome of the send before was not recorded. Two sources say whether that can be: the inbox row,
which tells when the event was claimed first and when an outcome was recorded; and what was done here, to notify, to its database, or to
Telegram's answer, between that send and the end of its lease.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from chaos.effects import Rows
from chaos.found import InboxRow
from chaos.ledger import WHAT, Expected, Ledger
from chaos.record import Fault, Telegram
from chaos.record import Record as Run
from chaos.verdict import Case

LEASE_S = 6.0  # NOTIFICATION_LEASE of the stand: by then a send's outcome is recorded, or never is
CLOCK_S = 0.05  # between this process's clock and the database's readings of the same one
NOTIFY, DATABASE = "notify", "postgres"
# How long what was healed may go on hurting: a database starts and recovers, a connection that hung is found to be dead.
AFTER_S = {NOTIFY: 0.0, DATABASE: 5.0, f"{NOTIFY}>{DATABASE}": 1.0}

# notify keeps an idle connection to Telegram for 5 s. One that it closes sooner after an answer is one whose answer it did not wait for.
KEPT_S = 4.5

Messages = Mapping[tuple[str, str], list[Telegram]]  # by what it says and the user that it names


def taken(run: Run) -> Messages:
    """The messages that Telegram took, in their order."""
    made: dict[tuple[str, str], list[Telegram]] = defaultdict(list)
    for message in run.telegrams:
        if message.taken:
            made[message.what, message.user_id].append(message)
    return made


def check(run: Run, ledger: Ledger, rows: Rows, messages: Messages, lease_s: float = LEASE_S) -> Iterator[Case]:
    """Every case about messages: one missing, one that nobody may send, and each that came again."""
    faults = sorted((fault for fault in run.faults if fault.done and fault.target in AFTER_S), key=lambda fault: fault.at)
    left = dict(messages)
    for consumer in ledger.found.consumers:
        if not consumer.leased:
            continue
        for event in ledger.on(consumer.topic):
            sent = left.pop((WHAT[event.event_type], event.user_id), [])
            own = [message for message in sent if message.order_id == event.order_id]
            if not own:
                yield event.case("lost", f"an event without a message of {consumer.group}", expected="1", found="0")
            if len(own) < len(sent):
                yield event.case("doubled", "a message with another order", found=sent[0].order_id)
            there = rows.get(consumer.inbox, {}).get(event.event_id, [])
            yield from _repeats(event, own, there[0] if there else None, faults, lease_s)
    for (what, user), others in left.items():
        yield Case(kind="doubled", what="a message that nothing asked for", about=what, key=others[0].order_id, found=f"to {user}")


def _repeats(event: Expected, sent: Sequence[Telegram], row: InboxRow | None, faults: Iterable[Fault], lease_s: float) -> Iterator[Case]:
    for first, again in pairwise(sent):
        told = {"place": f"messages {first.n} and {again.n}", "expected": "1", "found": f"again {again.at - first.at:.1f} s later"}
        why_not = _recorded(first, again, row)
        cause = "" if why_not else _cause(first, again, faults, lease_s)
        if cause:
            yield event.case("explained", f"a message came again ({cause.partition(':')[0]})", cause=cause, **told)
        else:
            yield event.case("doubled", "a message came again", cause=why_not or "none is known", **told)


def _recorded(first: Telegram, again: Telegram, row: InboxRow | None) -> str:
    """Why no fault can excuse it: the outcome had been recorded, or the record of it was lost."""
    if row is not None and row.sent_at is not None and again.at > row.sent_at + CLOCK_S:
        return f"none can excuse it: the outcome had been recorded {again.at - row.sent_at:.1f} s before"
    if row is not None and row.at > first.at + CLOCK_S:
        return f"none can excuse it: its inbox row is {row.at - first.at:.1f} s younger than the first message"
    return ""


def _cause(first: Telegram, again: Telegram, faults: Iterable[Fault], lease_s: float) -> str:
    """What kept the outcome of `first` from being recorded; empty where nothing is known."""
    if first.fault:
        return f"Telegram's answer was lost: it was {first.fault} on purpose"
    until = min(again.at, first.at + lease_s)
    for fault in faults:
        ended = fault.at if fault.ended_at is None else fault.ended_at
        if fault.at <= until and first.at <= ended + AFTER_S[fault.target]:
            what = "notify was stopped before the mark" if fault.target == NOTIFY else "the database did not take the mark"
            return f"{what}: {fault.kind} of {fault.target} (fault {fault.n}), {fault.at - first.at:+.1f} s to {ended - first.at:+.1f} s"
    if not first.answered:
        return "Telegram's answer was lost: its connection was gone"
    if first.hung_up_at is not None and first.ended_at is not None and first.hung_up_at < min(again.at, first.ended_at + KEPT_S):
        return f"Telegram's answer was lost: notify gave up on it and hung up {first.hung_up_at - first.ended_at:.1f} s after it"
    return ""
