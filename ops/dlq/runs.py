"""Replay runs: what was chosen to be sent again, by whom, and how far it came.

A run is carried out by one process at a time. The process says every few seconds that it lives; each time it does so by exchanging the
time that it wrote last for a new one, and so notices when another process has taken the run over, or someone has abandoned it.
"""

import functools
import getpass
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psutil

from shared import errors
from shared.database import Database, Transaction

Kind = Literal["letters", "events"]
State = Literal["open", "finished", "abandoned"]
HEARTBEAT_S = 2.0
STALE_S = 8.0  # a process that was silent for so long is taken for dead
_LOOK_S = 0.25
_RELEASED = datetime.fromtimestamp(0, UTC)

_COLUMNS = "run_id, kind, target, selection, options, state, who, created_at, ended_at, heartbeat_at"
_CREATE = f"""
INSERT INTO dlq_runs (run_id, kind, target, selection, options, who)
VALUES (:run, :kind, :target, :selection::jsonb, :options::jsonb, :who) RETURNING {_COLUMNS}
"""  # noqa: S608  the columns are constants
_READ = f"SELECT {_COLUMNS} FROM dlq_runs WHERE run_id = :run"  # noqa: S608  likewise
_LIST = f"SELECT {_COLUMNS} FROM dlq_runs ORDER BY created_at DESC, run_id LIMIT :many::bigint"  # noqa: S608  likewise
_COUNTS = """
SELECT run_id, CASE WHEN status = 'sent' AND code IS NOT NULL THEN 'written' ELSE status END, count(*)
FROM dlq_run_items WHERE run_id = ANY(:runs::text[]) GROUP BY 1, 2
"""
_BEAT = """
UPDATE dlq_runs SET heartbeat_at = clock_timestamp()
WHERE run_id = :run AND state = 'open' AND heartbeat_at = :held::timestamptz RETURNING heartbeat_at
"""
_TAKE = """
UPDATE dlq_runs SET heartbeat_at = clock_timestamp(), options = options || jsonb_build_object('runner', :runner::jsonb)
WHERE run_id = :run AND state = 'open' AND heartbeat_at = :held::timestamptz RETURNING heartbeat_at
"""
_RELEASE = "UPDATE dlq_runs SET heartbeat_at = 'epoch' WHERE run_id = :run AND state = 'open' AND heartbeat_at = :held::timestamptz"
_FINISH = """
UPDATE dlq_runs SET state = 'finished', ended_at = clock_timestamp()
WHERE run_id = :run AND state = 'open' AND NOT EXISTS (SELECT 1 FROM dlq_run_items WHERE run_id = :run AND open) RETURNING run_id
"""
_ABANDON = "UPDATE dlq_runs SET state = 'abandoned', ended_at = clock_timestamp() WHERE run_id = :run AND state = 'open' RETURNING run_id"
_FREE = "UPDATE dlq_run_items SET open = false, item = NULL WHERE run_id = :run AND (open OR item IS NOT NULL)"


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `frozen` says that its selection was written whole."""

    run_id: str
    kind: Kind
    target: str
    selection: Mapping[str, Any]
    options: Mapping[str, Any]
    state: State
    who: str
    created_at: datetime
    ended_at: datetime | None
    heartbeat_at: datetime

    @property
    def frozen(self) -> bool:
        """Whether its selection was written whole."""
        return bool(self.selection.get("frozen"))


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of a run's items came how far. `selected` and `sent` are still to come, or were when it was abandoned."""

    selected: int = 0
    sent: int = 0
    written: int = 0  # to a topic: what becomes of them is for others to say
    done: int = 0
    duplicate: int = 0
    failed_again: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.left + self.written + self.done + self.duplicate + self.failed_again + self.skipped

    @property
    def left(self) -> int:
        """Those without a result."""
        return self.selected + self.sent


class Ended(errors.OrderflowError):
    """The run is no longer this process's."""

    code = "run_ended"


def who() -> str:
    """Who gives this command, for the history."""
    try:
        return f"{getpass.getuser()}@{platform.node()}"
    except (OSError, KeyError, ImportError):  # a container may know no name for its user
        return f"{os.getuid()}@{platform.node()}"


def create(tx: Transaction, kind: Kind, target: str, selection: Mapping[str, Any], options: Mapping[str, Any]) -> Run:
    """A new run, without items, that this process holds."""
    run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    told = dict(options) | {"runner": _runner()}
    return _run(tx.run(_CREATE, run=run_id, kind=kind, target=target, selection=selection, options=told, who=who())[0])


def read(tx: Transaction, run_id: str) -> Run:
    """The run `run_id`. Raises Refused where there is none."""
    rows = tx.run(_READ, run=run_id)
    if not rows:
        raise errors.Refused(f"there is no run {run_id} (`orderflow dlq runs` lists them)", code="unknown_run")
    return _run(rows[0])


def listed(tx: Transaction, many: int) -> list[tuple[Run, Counts]]:
    """The newest runs with their counts."""
    found = [_run(row) for row in tx.run(_LIST, many=many)]
    numbers = counts(tx, *(run.run_id for run in found))
    return [(run, numbers[run.run_id]) for run in found]


def counts(tx: Transaction, *run_ids: str) -> dict[str, Counts]:
    """The counts of runs."""
    found: dict[str, dict[str, int]] = {run_id: {} for run_id in run_ids}
    for run_id, status, count in tx.run(_COUNTS, runs=list(run_ids)):
        found[run_id][status] = int(count)
    return {run_id: Counts(**numbers) for run_id, numbers in found.items()}


def take(database: Database, run_id: str, *, waiting: Callable[[], None]) -> Run:
    """Hold the run `run_id`, to go on with it. Raises Refused when it is finished, was abandoned, or another process is at it.

    `waiting` is called when it has to be seen first whether that process lives.
    """
    found = database.transact(lambda tx: read(tx, run_id))
    until, told = time.monotonic() + STALE_S, False
    while True:
        if found.state != "open":
            raise errors.Refused(f"run {run_id} is {found.state}: nothing of it is left to be sent", code=f"run_{found.state}")
        if not found.frozen:
            raise errors.Refused(
                f"the selection of run {run_id} was never complete, and nothing of it was sent: "
                f"`orderflow dlq runs --abandon {run_id}`, then start anew",
                code="run_incomplete",
            )
        free = time.monotonic() >= until or found.heartbeat_at == _RELEASED or _gone(found.options.get("runner"))
        if free and database.transact(functools.partial(_taken, run=found)):
            return database.transact(lambda tx: read(tx, run_id))
        if not told:
            waiting()
            told = True
        time.sleep(_LOOK_S)
        before, found = found, database.transact(lambda tx: read(tx, run_id))
        if found.state == "open" and found.heartbeat_at not in {before.heartbeat_at, _RELEASED}:
            runner = found.options.get("runner") or {}
            raise errors.Refused(f"run {run_id} is at work in another process ({found.who}, pid {runner.get('pid')})", code="run_at_work")


def _taken(tx: Transaction, run: Run) -> bool:
    return bool(tx.run(_TAKE, run=run.run_id, held=run.heartbeat_at, runner=_runner()))


def beat(tx: Transaction, run: Run, held: datetime) -> datetime:
    """Say that this process lives. The time that is to be given the next time. Raises Ended when the run is no longer its own."""
    rows = tx.run(_BEAT, run=run.run_id, held=held)
    if not rows:
        state = read(tx, run.run_id).state
        raise Ended(f"run {run.run_id} was {'taken over by another process' if state == 'open' else state}")
    return rows[0][0]  # type: ignore[no-any-return]


def release(tx: Transaction, run: Run, held: datetime) -> None:
    """Let go of a run that is to be resumed."""
    tx.run(_RELEASE, run=run.run_id, held=held)


def finish(tx: Transaction, run: Run) -> bool:
    """End a run of which nothing is left. Whether it ended."""
    ended = bool(tx.run(_FINISH, run=run.run_id))
    if ended:
        tx.run(_FREE, run=run.run_id)
    return ended


def abandon(tx: Transaction, run_id: str) -> Counts:
    """Give a run up: its letters are free for others. What it had come to. Raises Refused when it is not open."""
    found, numbers = read(tx, run_id), counts(tx, run_id)[run_id]
    if not tx.run(_ABANDON, run=run_id):
        raise errors.Refused(f"run {run_id} is {found.state} already", code=f"run_{found.state}")
    tx.run(_FREE, run=run_id)
    return numbers


def forget(tx: Transaction, run: Run) -> None:
    """Remove a run that never began."""
    tx.run("DELETE FROM dlq_runs WHERE run_id = :run", run=run.run_id)


def alive(run: Run, now: datetime) -> bool:
    """Whether a process seems to be at it, `now` by the database's clock."""
    return run.state == "open" and (now - run.heartbeat_at).total_seconds() < STALE_S and not _gone(run.options.get("runner"))


def _runner() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid()}


def _gone(runner: Any) -> bool:
    """Whether the process is surely dead: it ran on this machine, and no process has its number."""
    return isinstance(runner, Mapping) and runner.get("host") == platform.node() and not psutil.pid_exists(int(runner.get("pid", 0)))


def _run(row: list[Any]) -> Run:
    run_id, kind, target, selection, options, state, by, created_at, ended_at, heartbeat_at = row
    return Run(run_id, kind, target or "", selection or {}, options or {}, state, by, created_at, ended_at, heartbeat_at)
