"""Parking: while an order has an open dead letter, its later events wait behind it, so that nothing of one order overtakes anything.

On for a consumer by `<CONSUMER>_PARKING=true`; off it costs nothing. On, each transaction first asks whether one of its keys is blocked:
the index holds an open letter of the same consumer group and order, or an event of them is parked already. An event of a blocked key is
stored with its bytes and answered `parked`, which a source takes for done. One that the inbox knows is a duplicate as ever, and one whose
own letter is open is answered `parked` too: that letter holds it.

The marker: an event that is sent again must pass, though its own letter is open. Its sender adds the CloudEvents extension
`orderflowreplay` (header `ce-orderflowreplay`) with the id of its run. That id alone opens nothing: the event passes only if the run is
open and has that very event among its items, as sent and without a result; or if the event is the first of the parked ones of its key
and the run sends this consumer's events. So who guesses an id can do no more than the run does at this moment.

The gate: between the look at a key and the commit of a parked row the key could become free, and the row would wait for nobody. So who
parks holds the consumer's gate, shared, from a second look to its commit; who takes a parked event off (shared/parked.py) holds it alone.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Self

from shared import errors, events, inbox, topics
from shared.config import Settings
from shared.database import Transaction

log = logging.getLogger(__name__)

MARKER = "orderflowreplay"
Parked = Literal["parked"] | errors.Refused
Pair = tuple[str, str]  # consumer group and key

_PAIRS = "(SELECT DISTINCT * FROM unnest(:consumers::text[], :keys::text[])) AS k(consumer, letter_key)"
_BLOCKED = f"""
SELECT consumer, letter_key FROM {_PAIRS}
WHERE EXISTS (SELECT 1 FROM dlq_letters AS l WHERE l.consumer = k.consumer AND l.letter_key = k.letter_key AND l.state = 'open')
   OR EXISTS (SELECT 1 FROM parked_events AS p WHERE p.consumer = k.consumer AND p.letter_key = k.letter_key AND p.state = 'parked')
"""  # noqa: S608  the text is constant
GATE_SEED = 11
_GATE_SHARED = f"SELECT pg_advisory_xact_lock_shared(hashtextextended(g, {GATE_SEED})) FROM unnest(:consumers::text[]) AS g"  # noqa: S608
_ROWS = """
unnest(:ids::text[], :event_types::text[], :order_ids::text[], :consumers::text[], :keys::text[])
    AS e(event_id, event_type, order_id, consumer, letter_key)
"""
_OWN_LETTER = f"""
SELECT e.event_id FROM {_ROWS} WHERE EXISTS (
    SELECT 1 FROM dlq_letters AS l WHERE l.consumer = e.consumer AND l.letter_key = e.letter_key AND l.state = 'open'
    AND l.event_id = e.event_id AND l.event_type = e.event_type)
"""  # noqa: S608
# From the key to its letters to their items: each step by an index, however long the run is.
_REPLAYED = f"""
SELECT e.event_id FROM {_ROWS} JOIN unnest(:ids::text[], :runs::text[]) AS m(event_id, run_id) USING (event_id)
JOIN dlq_runs AS r ON r.run_id = m.run_id AND r.state = 'open'
WHERE EXISTS (
    SELECT 1 FROM dlq_letters AS l JOIN dlq_run_items AS i ON i.letter_id = l.letter_id AND i.run_id = r.run_id
    WHERE l.consumer = e.consumer AND l.letter_key = e.letter_key AND l.state = 'open'
    AND (l.event_id = e.event_id OR l.event_id IS NULL) AND i.consumer = e.consumer AND i.open AND i.status = 'sent'
) OR EXISTS (
    SELECT 1 FROM parked_events AS p
    WHERE p.consumer = e.consumer AND p.letter_key = e.letter_key AND p.event_id = e.event_id AND p.state = 'parked'
    AND NOT EXISTS (SELECT 1 FROM parked_events AS q
        WHERE q.consumer = p.consumer AND q.letter_key = p.letter_key AND q.state = 'parked' AND q.seq < p.seq)
    AND e.consumer = ANY (string_to_array(r.target, ', '))
)
"""  # noqa: S608
_PARK = f"""
INSERT INTO parked_events AS p (event_id, event_type, order_id, consumer, letter_key, occurred_at, payload, context)
SELECT e.*, b.occurred_at, b.payload, b.context FROM {_ROWS}
JOIN unnest(:ids::text[], :occurred_at::timestamptz[], :payloads::bytea[], :contexts::jsonb[])
    AS b(event_id, occurred_at, payload, context) USING (event_id)
ORDER BY e.event_id
ON CONFLICT (consumer, event_id) DO UPDATE SET state = 'parked' WHERE p.state = 'replayed'
"""  # noqa: S608
_PARKED_AS = """
SELECT event_id, event_type, order_id FROM parked_events
WHERE event_id = ANY(:ids::text[]) AND consumer = ANY(:consumers::text[]) AND state = 'parked'
"""


class Parking:
    """The parking of one function's events: `aside` takes out of a transaction what is to wait."""

    def __init__(self, function: str, table: str, settings: Settings, *, leased: bool) -> None:
        consumers = [(topic, consumer) for topic, consumer in topics.catalogue(settings).consumers() if consumer.function == function]
        if not consumers:
            log.error("nothing can be parked: contracts/topics.yaml names no consumer of this function", extra={"function": function})
        self._by_topic = {topic.name: consumer.group for topic, consumer in consumers}
        self._by_event = {topic.event: consumer.group for topic, consumer in consumers}
        known = f"SELECT event_id, event_type, order_id FROM {table} WHERE event_id = ANY(:ids::text[])"  # noqa: S608  a table of ours
        self._known = f"{known} AND status = 'sent'" if leased else known

    @classmethod
    def of(cls, function: str, table: str, settings: Settings, *, leased: bool = False) -> Self | None:
        """The parking of the function whose inbox is `table`; None where the setting is off."""
        return cls(function, table, settings, leased=leased) if settings.parks(table.removesuffix("_inbox_events")) else None

    def group(self, event: events.Event) -> str | None:
        """The consumer group that `event` came to: its topic's, else that of the topic which carries its type."""
        return self._by_topic.get(event.context.topic or "") or self._by_event.get(type(event).__name__)

    def aside(self, tx: Transaction, wanted: Sequence[events.Event]) -> dict[str, Parked]:
        """Park those of `wanted`, each with an id of its own, whose key is blocked. By event id; the others are to be handled now."""
        pairs = {event.event_id: (group, event.order_id) for event in wanted if (group := self.group(event)) is not None}
        if not _blocked(tx, set(pairs.values())):
            return {}
        tx.run(_GATE_SHARED, consumers=sorted({consumer for consumer, _ in pairs.values()}))
        blocked = _blocked(tx, set(pairs.values()))  # again, now that no key can become free
        behind = {event.event_id: event for event in wanted if pairs.get(event.event_id) in blocked}
        for event_id, *_ in tx.run(self._known, ids=list(behind)) if behind else ():
            del behind[event_id]  # the claim will judge it: a duplicate, or another event with its id
        for event_id in _replayed(tx, [event for event in behind.values() if event.context.replay], pairs):
            del behind[event_id]
        return _parked(tx, list(behind.values()), pairs) if behind else {}


def _blocked(tx: Transaction, pairs: set[Pair]) -> set[Pair]:
    if not pairs:
        return set()
    ordered = sorted(pairs)
    rows = tx.run(_BLOCKED, consumers=[consumer for consumer, _ in ordered], keys=[key for _, key in ordered])
    return {(consumer, key) for consumer, key in rows}


def _rows(wanted: Sequence[events.Event], pairs: Mapping[str, Pair]) -> dict[str, list[str]]:
    return {
        "ids": [event.event_id for event in wanted],
        "event_types": [event.event_type for event in wanted],
        "order_ids": [event.order_id for event in wanted],
        "consumers": [pairs[event.event_id][0] for event in wanted],
        "keys": [pairs[event.event_id][1] for event in wanted],
    }


def _replayed(tx: Transaction, marked: Sequence[events.Event], pairs: Mapping[str, Pair]) -> list[str]:
    """Which of `marked` an open run has sent."""
    if not marked:
        return []
    found = [row[0] for row in tx.run(_REPLAYED, runs=[event.context.replay for event in marked], **_rows(marked, pairs))]
    for event in marked:
        if event.event_id not in found:
            log.warning("no open run has this event: it is parked", extra={"event_id": event.event_id, "run_id": event.context.replay})
    return found


def _parked(tx: Transaction, behind: Sequence[events.Event], pairs: Mapping[str, Pair]) -> dict[str, Parked]:
    rows = _rows(behind, pairs)
    own = {row[0] for row in tx.run(_OWN_LETTER, **rows)}
    outcomes: dict[str, Parked] = dict.fromkeys(own, "parked")
    stored = [event for event in behind if event.event_id not in own]
    if not stored:
        return outcomes
    rows = _rows(stored, pairs)
    tx.run(
        _PARK,
        occurred_at=[event.occurred_at for event in stored],
        payloads=[event.received for event in stored],
        contexts=[_context(event) for event in stored],
        **rows,
    )
    there = {row[0]: (row[1], row[2]) for row in tx.run(_PARKED_AS, ids=rows["ids"], consumers=rows["consumers"])}
    for event in stored:
        judged = inbox.judged(event, there[event.event_id])
        outcomes[event.event_id] = judged if isinstance(judged, errors.Refused) else "parked"
    return outcomes


def _context(event: events.Event) -> dict[str, Any]:
    return {name: value for name, value in asdict(event.context).items() if value is not None and name != "replay"}
