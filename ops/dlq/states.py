"""A person's word on letters: given up, or open again. Each is a line of history with its reason."""

from ops.dlq.filters import Filter, State
from shared.database import Transaction

_CHOSEN = """
SELECT letter.letter_id FROM dlq_letters AS letter
WHERE {where} AND NOT EXISTS (SELECT FROM dlq_run_items AS item WHERE item.letter_id = letter.letter_id AND item.open)
ORDER BY letter.letter_id
"""
_MARK = """
UPDATE dlq_letters AS letter SET state = :state, state_reason = :reason
WHERE letter_id = ANY(:ids::text[]) AND state = :before
  AND NOT EXISTS (SELECT FROM dlq_run_items AS item WHERE item.letter_id = letter.letter_id AND item.open) RETURNING letter_id
"""
_LOCK = "SELECT letter_id FROM dlq_letters WHERE letter_id = ANY(:ids::text[]) ORDER BY letter_id FOR UPDATE"
_HISTORY = "INSERT INTO dlq_history (letter_id, what, who, detail) SELECT id, :what, :who, :detail FROM unnest(:ids::text[]) AS u(id)"
_PARKED = """
SELECT count(*) FROM parked_events AS parked WHERE parked.state = 'parked' AND EXISTS (
    SELECT FROM dlq_letters AS letter
    WHERE letter.letter_id = ANY(:ids::text[]) AND letter.consumer = parked.consumer AND letter.letter_key = parked.letter_key)
"""


def chosen(tx: Transaction, wanted: Filter, state: State) -> list[str]:
    """The ids of the letters of `state` that `wanted` names and that no open run has."""
    return [row[0] for row in tx.run(_CHOSEN.format(where=wanted.where(state)), **wanted.named())]


def discard(tx: Transaction, ids: list[str], *, reason: str, who: str) -> list[str]:
    """Give up these letters, as far as they are open and in no open run. The ids of those that were."""
    return _marked(tx, ids, before="open", state="discarded", what="discarded", reason=reason, who=who)


def restore(tx: Transaction, ids: list[str], *, reason: str, who: str) -> list[str]:
    """Open these letters again, as far as they were discarded. The ids of those that were."""
    return _marked(tx, ids, before="discarded", state="open", what="restored", reason=reason, who=who)


def parked_behind(tx: Transaction, ids: list[str]) -> int:
    """How many events wait behind these letters."""
    return int(tx.run(_PARKED, ids=ids)[0][0])


def _marked(tx: Transaction, ids: list[str], *, before: str, state: str, what: str, reason: str, who: str) -> list[str]:
    tx.run(_LOCK, ids=ids)
    told = reason if state != "open" else None
    changed = [row[0] for row in tx.run(_MARK, ids=ids, before=before, state=state, reason=told)]
    if changed:
        tx.run(_HISTORY, ids=changed, what=what, who=who, detail=reason)
    return changed
