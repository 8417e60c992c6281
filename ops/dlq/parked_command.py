"""`orderflow dlq parked` and `orderflow dlq unpark`: events that wait behind a letter of their order, and those that nothing holds up."""

from typing import Annotated, Any

import typer

from ops import terminal
from ops.dlq import desk, preparation, runs, selection, session, targets, view
from shared import parked
from shared.database import Transaction

_KEYS = """
SELECT p.consumer, p.letter_key, count(*), min(p.parked_at), max(extract(epoch FROM clock_timestamp() - p.parked_at))::float8,
       (SELECT array_agg(l.letter_id ORDER BY l.message_offset, l.letter_id) FROM dlq_letters AS l
        WHERE l.consumer = p.consumer AND l.letter_key = p.letter_key AND l.state = 'open')
FROM parked_events AS p WHERE p.state = 'parked' AND (:consumer::text IS NULL OR p.consumer = :consumer)
GROUP BY p.consumer, p.letter_key ORDER BY min(p.parked_at), p.consumer, p.letter_key LIMIT :many::int
"""

Consumer = Annotated[str | None, typer.Option("--consumer", metavar="GROUP", help="Only of this consumer group.")]


@terminal.failures()
def listed(
    *,
    consumer: Consumer = None,
    limit: Annotated[int, typer.Option("--max", min=1, help="At most so many orders, those that wait longest first.")] = 100,
    json: preparation.Json = False,
) -> None:
    """List the orders whose events wait behind a letter (where <CONSUMER>_PARKING is on), and behind which."""
    with desk.opened() as at:
        rows = at.database.transact(lambda tx: tx.run(_KEYS, consumer=consumer, many=limit))
    if json:
        names = ("consumer", "order", "events", "since", "seconds", "behind")
        terminal.as_json([dict(zip(names, (*row[:3], view.iso(row[3]), row[4], row[5] or []), strict=True)) for row in rows])
        return
    terminal.table(
        ["consumer", "order", "events", "oldest", "behind"],
        [(group, key, count, view.age(seconds), ", ".join(behind or ()) or "nothing") for group, key, count, _, seconds, behind in rows],
    )
    if any(not row[5] for row in rows):
        terminal.note("`orderflow dlq unpark` sends those that wait behind nothing: their letters were discarded, or a replay was killed")


@terminal.failures()
def unpark(
    *,
    consumer: Consumer = None,
    rate: preparation.Rate = None,
    url: preparation.Url = None,
    yes: preparation.Yes = False,
    json: preparation.Json = False,
) -> None:
    """Send the parked events that no open letter holds up any more, in their order. Every replay does so for its consumers too."""
    options = session.Options(rate_per_s=preparation.per_second(rate), url=url)
    with desk.opened() as at:
        settings, kept = at.settings, at.database
        groups = kept.transact(lambda tx: _free(tx, consumer))
        if not groups:
            terminal.note("no event is parked that a letter does not hold up")
            return
        if url is not None and len(groups) > 1:
            raise terminal.usage(f"--url is of one function, and this is about {', '.join(groups)}: say --consumer")
        for group in groups:
            targets.source_of(targets.sources(settings, url=url), group)
        orders = sum(groups.values())
        terminal.confirm(f"Send what is parked of {orders} order{'' if orders == 1 else 's'} to {', '.join(groups)}?", yes=yes)
        run = kept.transact(lambda tx: _run(tx, list(groups), options.told()))
        session.carry_out(settings, kept, run, options, json=json)


def _free(tx: Transaction, consumer: str | None) -> dict[str, int]:
    there = [row[0] for row in tx.run("SELECT DISTINCT consumer FROM parked_events WHERE state = 'parked' ORDER BY consumer")]
    wanted = [group for group in there if consumer in {None, group}]
    return {group: count for group in wanted if (count := len(parked.free_keys(tx, group)))}


def _run(tx: Transaction, groups: list[str], told: dict[str, Any]) -> runs.Run:
    """A run without items of its own: its consumers are all that it needs."""
    run = runs.create(tx, "letters", "", {"parked": groups}, told)
    return selection.complete(tx, run, ", ".join(groups), {})
