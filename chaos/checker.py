"""The count of a run: what was sent and broken, by the runner's own record, beside what there is. Pure; `chaos.found` reads the latter.

lost: an order that was answered, an event, an effect, a message or a letter that is not there; what was not published; an acknowledged
offset beyond what is there. doubled: what is there more often than it was asked for, or was never asked for. disordered: a key's events
not in their order. A message may come again where the outcome of a send was not recorded, and then its cause is named (`explained`).
"""

from chaos import effects, ledger, poison_count, repeats, sequence
from chaos.found import Found
from chaos.record import Record
from chaos.verdict import Verdict


def check(record: Record, found: Found, *, lease_s: float = repeats.LEASE_S) -> Verdict:
    """The verdict on a run that has drained. `lease_s` is how long notify may act on an event that it claimed."""
    wanted = ledger.made(record, found)
    rows, messages = effects.rows_of(found), repeats.taken(record)
    cases = [
        *wanted.cases,
        *effects.published(wanted),
        *effects.handled(wanted, rows),
        *effects.positions(found),
        *poison_count.check(wanted, rows),
        *repeats.check(record, wanted, rows, messages, lease_s),
        *sequence.check(wanted, rows, messages),
    ]
    return Verdict.of(
        cases,
        events=len(wanted.events),
        letters=len({letter.letter_id for letter in found.letters}),
        republished=wanted.republished,
        lag=effects.lag(found),
    )
