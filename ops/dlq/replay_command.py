"""`orderflow dlq replay`: letters sent once more, to the consumer that failed."""

from collections.abc import Callable
from typing import Annotated

import typer

from ops import terminal
from ops.dlq import desk, filters, preparation, query, runs, selection, session
from ops.dlq.preparation import First
from ops.dlq.selection import Frozen, Wanted
from shared import errors
from shared.database import Database, Transaction


class _DryRun(Exception):
    """What a dry run has written is taken back."""

    def __init__(self, frozen: Frozen, first: First) -> None:
        super().__init__()
        self.frozen, self.first = frozen, first


@terminal.failures()
def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[LETTER_ID]...", help="The letters by their ids, or how these begin.")] = None,
    *,
    consumer: filters.Consumer = None,
    cause: filters.Cause = None,
    code: filters.Code = None,
    reason: filters.Reason = None,
    order: filters.Order = None,
    event: filters.Event = None,
    since: filters.Since = None,
    until: filters.Until = None,
    state: filters.Wanted = filters.State.open,
    every: Annotated[bool, typer.Option("--all", help="Every open letter.")] = False,
    resume: preparation.Resume = None,
    dry_run: preparation.DryRun = False,
    rate: preparation.Rate = None,
    url: preparation.Url = None,
    to_topic: preparation.ToTopic = None,
    force: preparation.Force = False,
    in_flight: preparation.InFlight = 8,
    yes: preparation.Yes = False,
    json: preparation.Json = False,
) -> None:
    """Send letters once more, to the consumer that failed and to no other, with their own ids and in their original order.

    What is to be sent is written down before the first is sent; letters that come later are not slipped in. Ctrl-C finishes what is in
    flight, and the run can be resumed. Exit code 1 when some failed again.
    """
    rate_per_s = preparation.per_second(rate)
    chosen = filters.made(consumer=consumer, cause=cause, code=code, reason=reason, order=order, event=event, since=since, until=until)
    if resume is not None:
        if ids or chosen.named() or every or dry_run or force or to_topic:
            raise terminal.usage("--resume goes on with what its run has chosen: only --rate, --url and --json go with it")
        with desk.opened(sync=False) as at:
            session.resume(at.settings, at.database, resume, rate_per_s=rate_per_s, url=url, json=json)
        return
    _check(ids, chosen, state, every=every)
    options = session.Options(rate_per_s=rate_per_s, url=url, to_topic=to_topic, force=force, in_flight=in_flight)
    with desk.opened() as at:
        wanted = _wanted(at.database, ids, chosen, state)
        reach = selection.reach(at.settings)

        def freeze(tx: Transaction, run: runs.Run) -> Frozen:
            return selection.letters(tx, run, wanted, reach, force=force)

        if dry_run:
            frozen, first = _tried(at.database, freeze)
            preparation.told(frozen)
            preparation.would(at.settings, frozen, options, first, what="letter", json=json)
            return
        with preparation.begun(at.database, "letters", wanted.told, options) as begun:
            frozen = at.database.transact(lambda tx: freeze(tx, begun))
            preparation.told(frozen)
            run = preparation.agreed(at.settings, at.database, begun, frozen, options, what="letter", yes=yes)
        session.carry_out(at.settings, at.database, run, options, left_out=frozen.too_old, json=json)


def _check(ids: list[str] | None, chosen: filters.Filter, state: filters.State, *, every: bool) -> None:
    if not (ids or chosen.named() or every or state is not filters.State.open):
        raise terminal.usage("say which letters: their ids, a filter such as --group or --consumer, or --all")
    if state not in {filters.State.open, filters.State.failed_again}:
        raise terminal.usage(f"--state {state.value}: only open letters are sent (`orderflow dlq restore` opens a discarded one again)")


def _wanted(kept: Database, ids: list[str] | None, chosen: filters.Filter, state: filters.State) -> Wanted:
    """The letters that are meant. Raises Refused where one that was named is not there, or not open."""
    where, named = chosen.where(state), chosen.named()
    told = {name: str(value) for name, value in named.items()}
    if not ids:
        return Wanted(where, named, told)
    rows = kept.transact(lambda tx: [query.one(tx, letter_id) for letter_id in ids])
    closed = [
        f"{row['letter_id']} is {row['stored_state']}" + (f" by {row['replaced_by']}" if row["replaced_by"] else "")
        for row in rows
        if row["stored_state"] != "open"
    ]
    if closed:
        raise errors.Refused(f"only open letters are sent, and {'; '.join(closed)}", code="not_open")
    full = [row["letter_id"] for row in rows]
    return Wanted(f"{where} AND letter.letter_id = ANY(:ids::text[])", named | {"ids": full}, told | {"ids": full[:100]})


def _tried(kept: Database, freeze: Callable[[Transaction, runs.Run], Frozen]) -> tuple[Frozen, First]:
    """What a selection would come to; nothing of it stays."""

    def work(tx: Transaction) -> None:
        run = runs.create(tx, "letters", "", {}, {})
        raise _DryRun(freeze(tx, run), preparation.first(tx, run))

    try:
        kept.transact(work)
    except _DryRun as found:
        return found.frozen, found.first
    raise AssertionError("a dry run is always taken back")
