"""`orderflow dlq runs`: replay runs, how far they came, and what became of each item."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ops import terminal
from ops.dlq import desk, preparation, runs
from shared.database import Database, Transaction

ITEMS_SHOWN = 1000
_NUMBERS = ("total", "done", "duplicate", "failed_again", "written", "skipped", "left")
_ITEM_COLUMNS = ["id", "consumer", "status", "tries", "code", "detail"]
_ITEMS = """
SELECT coalesce(letter_id, event_id), consumer, CASE WHEN status = 'sent' AND code IS NOT NULL THEN 'written' ELSE status END,
       attempts, code, detail
FROM dlq_run_items WHERE run_id = :run ORDER BY n LIMIT :many::int
"""


@terminal.failures()
def listed(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="One run, with the result of each of its items.")] = None,
    *,
    abandon: Annotated[
        str | None, typer.Option("--abandon", metavar="RUN", help="Give a run up: what has no result yet is free for others.")
    ] = None,
    limit: Annotated[int, typer.Option("--max", min=1, help="At most so many, the newest first.")] = 20,
    yes: preparation.Yes = False,
    json: preparation.Json = False,
) -> None:
    """List replay runs and how far they came; give up one that nobody will resume."""
    with desk.opened(sync=False) as at:
        if abandon is not None:
            _abandoned(at.database, abandon, yes=yes, json=json)
        elif run_id is not None:
            _one(at.database, run_id, json=json)
        else:
            _all(at.database, limit, json=json)


def _all(kept: Database, limit: int, *, json: bool) -> None:
    found, now = kept.transact(lambda tx: (runs.listed(tx, limit), _now(tx)))
    if json:
        terminal.as_json([_told(run, counts, now) for run, counts in found])
        return
    terminal.table(
        ["run", "kind", "to", "state", *(name.replace("_", " ") for name in _NUMBERS), "begun", "by"],
        [
            (
                run.run_id,
                run.kind,
                run.target,
                _state(run, now),
                *(getattr(counts, name) for name in _NUMBERS),
                _time(run.created_at),
                run.who,
            )
            for run, counts in found
        ],
    )


def _one(kept: Database, run_id: str, *, json: bool) -> None:
    def look(tx: Transaction) -> tuple[runs.Run, runs.Counts, list[list[Any]], datetime]:
        run = runs.read(tx, run_id)
        return run, runs.counts(tx, run_id)[run_id], tx.run(_ITEMS, run=run_id, many=ITEMS_SHOWN), _now(tx)

    run, counts, rows, now = kept.transact(look)
    if json:
        terminal.as_json(_told(run, counts, now) | {"items": [dict(zip(_ITEM_COLUMNS, row, strict=True)) for row in rows]})
        return
    terminal.table(_ITEM_COLUMNS, rows)
    numbers = ", ".join(f"{getattr(counts, name)} {name.replace('_', ' ')}" for name in _NUMBERS[1:])
    terminal.note(f"run {run_id} to {run.target} by {run.who}, {_state(run, now)}: {numbers} of {counts.total}")
    if counts.total > len(rows):
        terminal.note(f"the first {len(rows)} are shown")


def _abandoned(kept: Database, run_id: str, *, yes: bool, json: bool) -> None:
    run, now = kept.transact(lambda tx: (runs.read(tx, run_id), _now(tx)))
    if runs.alive(run, now):
        terminal.confirm(f"A process is at run {run_id} at this moment ({run.who}). Stop it?", yes=yes)
    counts = kept.transact(lambda tx: runs.abandon(tx, run_id))
    if json:
        terminal.as_json({"run": run_id, "state": "abandoned", "freed": counts.left, "sent_without_result": counts.sent})
        return
    terminal.note(f"run {run_id} is abandoned: {counts.left} without a result {'is' if counts.left == 1 else 'are'} free for others")
    if counts.sent:
        terminal.note(f"{counts.sent} of them had been sent, and nobody knows what came of it; sent again, they have no second effect")


def _told(run: runs.Run, counts: runs.Counts, now: datetime) -> dict[str, Any]:
    shown = {name: getattr(run, name) for name in ("run_id", "kind", "target", "selection", "options", "who")}
    times = {name: None if (at := getattr(run, name)) is None else at.isoformat() for name in ("created_at", "ended_at")}
    numbers = {name: getattr(counts, name) for name in ("selected", "sent", *_NUMBERS)}
    return shown | {"state": run.state, "at_work": runs.alive(run, now)} | times | numbers


def _state(run: runs.Run, now: datetime) -> str:
    return "at work" if runs.alive(run, now) else run.state


def _now(tx: Transaction) -> datetime:
    found: datetime = tx.run("SELECT clock_timestamp()")[0][0]
    return found


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
