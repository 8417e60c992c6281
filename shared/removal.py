"""Old rows leave their table, a few pages at a time, and nobody waits for it.

A walk goes through the table page by page and begins again at its end. No index leads it: one on the time of a row would cost each event
more than all of this (the decision on removal has the figures), and rows that came together lie together. It is slow on purpose: it takes
a quarter of the time that rows are kept, so a row stays at most that much longer, and each page is read a few times in its rows' life.

Where a walk stands is its row in `removal_walks`. Who moves its `turn_at` on has the turn until the next one is due, so of many processes
one is at it. A step is one short transaction (the rows of some pages, and the walk's new place), so a process that dies takes nothing with
it but that step. A step waits for no lock, and what it holds are rows that no topic brings any more.
"""

import contextlib
import functools
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import Counter, Gauge

from shared import database, errors, retention
from shared.config import Settings
from shared.database import Database, Transaction

log = logging.getLogger(__name__)

STEP_PAGES = 16  # about a thousand rows, and a few milliseconds
TURN_SHARE = 0.9  # of the time until the next; a large table full of old rows needs it
TURN_PAGES_MIN = 128  # a megabyte; so a small table is seen whole in every turn
WALKS = 4  # so often a row is passed before it goes
PAUSE_S, REST = 0.01, 9  # between two steps: so many times as long as the step took, so a tenth of one connection at most
LOCK_TIMEOUT_MS = 20

removed_rows = Counter("orderflow_removed_rows", "Rows that were removed because of their age.", ["table"])
oldest_row = Gauge("orderflow_oldest_row_seconds", "Age of the oldest row that the last walk through a table left there.", ["table"])

_TURN = """
UPDATE removal_walks SET turn_at = clock_timestamp()
WHERE table_name = :table AND turn_at <= clock_timestamp() - make_interval(secs => :interval_s::float8)
RETURNING next_page, pg_relation_size(:table::text::regclass) / current_setting('block_size')::int
"""
_OLDEST = "SELECT extract(epoch FROM clock_timestamp() - last_oldest_at)::float8 FROM removal_walks WHERE table_name = :table"
# The second part reads what it has in its hands already.
_STEP = """
WITH removed AS (
    DELETE FROM {table} WHERE {pages} AND {done} AND {at} < statement_timestamp() - make_interval(secs => :kept_s::float8) RETURNING 1
)
SELECT (SELECT count(*) FROM removed), (
    SELECT min({at}) FROM {table} WHERE {pages} AND {done} AND {at} >= statement_timestamp() - make_interval(secs => :kept_s::float8)
)
"""
_PAGES = "ctid >= :first::tid AND ctid < :beyond::tid"
_ON = """
UPDATE removal_walks SET next_page = :beyond::bigint, oldest_at = LEAST(oldest_at, :oldest::timestamptz)
WHERE table_name = :table AND next_page = :page::bigint RETURNING 1
"""
_END = """
UPDATE removal_walks SET next_page = 0, last_oldest_at = LEAST(oldest_at, :oldest::timestamptz), oldest_at = NULL
WHERE table_name = :table AND next_page = :page::bigint RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class Old:
    """The rows of `table` that are done with, and older than `kept_s` by the time `at`."""

    table: str
    at: str
    done: str
    kept_s: float


class _Step(NamedTuple):
    removed: int
    at_end: bool


class Walk:
    """The walk through one table. `turn` is all that is to be done with it, now and then."""

    def __init__(self, base: Database, old: Old, interval_s: float, walk_s: float | None = None) -> None:
        """Of turns `interval_s` apart so many pages each that a walk takes `walk_s`: a quarter of the rows' life unless given."""
        self._base, self._old, self._interval_s = base, old, interval_s
        self._walk_s = walk_s or old.kept_s / WALKS
        self._step_sql = _STEP.format(table=old.table, at=old.at, done=old.done, pages=_PAGES)

    def turn(self, go_on: Callable[[float], bool]) -> int:
        """Take a turn, if one is due and no other process took it. How many rows went. Raises what the database raises.

        `go_on` is asked between two steps, waits so many seconds, and says no to end early.
        """
        until = time.monotonic() + self._interval_s * TURN_SHARE
        found = self._base.transact(lambda tx: tx.run(_TURN, table=self._old.table, interval_s=self._interval_s))
        removed = 0
        if found:
            page, pages = found[0]
            left = max(TURN_PAGES_MIN, math.ceil(pages * self._interval_s / self._walk_s))
            while left > 0:
                began = time.monotonic()
                step = self._base.transact(functools.partial(self._step, page=page, pages=pages), lock_timeout_ms=LOCK_TIMEOUT_MS)
                removed, left, page = removed + step.removed, left - STEP_PAGES, page + STEP_PAGES
                removed_rows.labels(self._old.table).inc(step.removed)
                took_s = time.monotonic() - began
                if step.at_end or time.monotonic() > until or not go_on(max(PAUSE_S, REST * took_s)):
                    break
        self._tell()
        return removed

    def _step(self, tx: Transaction, page: int, pages: int) -> _Step:
        tx.run("SET LOCAL synchronous_commit = off")  # what is lost with a crash is removed again
        beyond = page + STEP_PAGES
        at_end = beyond >= pages
        # What is past the end by now has been made since: nothing there is old.
        [[removed, oldest]] = tx.run(self._step_sql, first=f"({page},0)", beyond=f"({beyond},0)", kept_s=self._old.kept_s)
        if not tx.run(_END if at_end else _ON, table=self._old.table, page=page, beyond=beyond, oldest=oldest):
            raise errors.Conflict("another process took the walk on")
        return _Step(int(removed), at_end)

    def _tell(self) -> None:
        rows = self._base.transact(lambda tx: tx.run(_OLDEST, table=self._old.table))
        if not rows:
            raise errors.Unavailable(f"removal_walks has no row {self._old.table}: `orderflow migrate` makes it", code="no_walk")
        oldest_row.labels(self._old.table).set(math.nan if rows[0][0] is None else rows[0][0])


class Removal:
    """Turns at the walk through one table, one every REMOVAL_INTERVAL, in a thread that ends with the process.

    It has a connection of its own, while it is at it, so it takes none away from those who work.
    """

    def __init__(self, role: str, old: Old, settings: Settings, application: str) -> None:
        self._role, self.old, self._settings, self._application = role, old, settings, f"{application} removal"
        self._ended = threading.Event()
        self._failed = ""
        self._thread = threading.Thread(target=self._run, name=f"removal-{old.table}", daemon=True)

    @classmethod
    def of_inbox(cls, inbox: str, settings: Settings, application: str, *, leased: bool = False) -> "Removal":
        """The removal from `inbox`. A lease whose outcome was not recorded is never removed. Raises ConfigError."""
        kept_s = retention.inbox_s(inbox, settings)
        old = Old(inbox, "processed_at", "status = 'sent'", kept_s) if leased else Old(inbox, "received_at", "true", kept_s)
        return cls(inbox.removesuffix("_inbox_events"), old, settings, application)

    def start(self) -> None:
        """Begin, unless these rows are kept for ever."""
        if self.old.kept_s != math.inf:
            self._thread.start()

    def stop(self) -> None:
        """Begin no further step."""
        self._ended.set()

    def _run(self) -> None:
        wait_s = self._settings.removal_interval * random.uniform(0.1, 1.0)  # noqa: S311  processes that start at once
        while not self._ended.wait(wait_s):
            wait_s = self._settings.removal_interval
            try:
                with contextlib.closing(database.connect(self._role, self._settings, self._application)) as base:
                    Walk(base, self.old, self._settings.removal_interval).turn(lambda pause_s: not self._ended.wait(pause_s))
                self._failed = ""
            except errors.Retryable as exc:
                self._say(exc)
            except Exception:
                log.exception("old rows were not removed; the next turn tries again", extra={"table": self.old.table})

    def _say(self, exc: errors.OrderflowError) -> None:
        """Once for each reason: a lock that is held for a moment is no news, and of the others the log has more."""
        if exc.code not in {self._failed, "locked", "conflict", "database_away", "permission", "schema"}:
            log.warning("old rows are not removed", extra={"table": self.old.table, "reason": exc.detail})
        self._failed = exc.code
