"""How the migrations of infra/migrations run while everything else goes on.

Each has a transaction of its own, and none waits long for a lock: who asks for a table and waits has everybody else wait behind it.
A migration is a module with `upgrade()`, and beside it may have

    contract = "0004"   it takes away what versions before that migration need (docs/upgrades.md); it runs only where that is asked for,
                        or where there was nothing before
    def backfill(connection) -> int   a bounded step, before `upgrade`, repeated in transactions of its own until it changes no more rows
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy.exc import DBAPIError

from ops import home
from shared import schema

MIGRATIONS = home.CHECKOUT / "infra" / "migrations"
LOCK_TIMEOUT_S = 1.2  # less than an order waits (2 s); PostgreSQL needs one second to send an autovacuum away
LOCK_PAUSE_S = 1.0  # in which those who waited behind have their turn
LOCK_TRIES = 20
_LOCK = 0x6F72646572666C  # "orderfl": the advisory lock that two migrations of one database meet at
_LOOK_S = 0.2
_TAKEN = frozenset({"55P03", "40P01"})  # a lock that was not there in time; a deadlock

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Patience:
    """How often a transaction is tried whose lock another one has, and whom that is told."""

    tell: Tell
    tries: int = LOCK_TRIES

    def run(self, connection: sa.Connection, what: str, work: Callable[[sa.Connection], Any]) -> Any:
        """`work` in one transaction, which commits. Raises what `work` raises, and the last try's error."""
        for tried in range(1, self.tries + 1):
            try:
                with connection.begin():
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S:g}s'")
                    return work(connection)
            except DBAPIError as exc:
                if state(exc) not in _TAKEN or tried == self.tries:
                    raise
            self.tell(f"{what}: another transaction has held a table for {LOCK_TIMEOUT_S:g} s, so this one let go; tried again ({tried})")
            time.sleep(LOCK_PAUSE_S)
        raise ValueError("tries: must be at least 1")


def state(exc: DBAPIError) -> str | None:
    """The SQLSTATE of what a statement ended with."""
    facts = exc.orig.args[0] if exc.orig is not None and exc.orig.args else None
    return facts.get("C") if isinstance(facts, dict) else None


@contextmanager
def alone(connection: sa.Connection, tell: Tell) -> Iterator[None]:
    """No other migration of this database runs in the block. The lock is the session's: it ends with it, if not before."""
    ask, told = sa.text("SELECT pg_try_advisory_lock(:lock)").bindparams(lock=_LOCK), False
    while not _asked(connection, ask):  # one statement that waits would hold a snapshot all the while
        if not told:
            tell("another migration of this database runs: waiting for its end")
            told = True
        time.sleep(_LOOK_S)
    yield
    _asked(connection, sa.text("SELECT pg_advisory_unlock(:lock)").bindparams(lock=_LOCK))


def run(connection: sa.Connection, patience: Patience, *, contract: bool) -> Sequence[str]:
    """Run what is pending, up to the first contract step that nobody asked for. What is left then, each with its first line.

    Raises SQLAlchemy's DBAPIError, and Alembic's CommandError where the database is at a migration that is not here.
    """
    settings = alembic.config.Config(attributes={"connection": connection})
    settings.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(settings)
    with connection.begin():
        at = MigrationContext.configure(connection).get_current_revision()
    known = list(scripts.walk_revisions())[::-1]
    done = known.index(scripts.get_revision(at)) + 1 if at is not None else 0
    for n, script in enumerate(known[done:], done):
        if at is not None and contracts(script) and not contract:
            return [_titled(left) for left in known[n:]]
        since = _since(known[: n + 1])

        def step(own: sa.Connection, script: Script = script, since: str = since) -> None:
            alembic.command.upgrade(settings, script.revision)
            note(own, script.revision, since)

        backfill = getattr(script.module, "backfill", None)
        while backfill is not None and patience.run(connection, script.revision, backfill):
            pass
        patience.run(connection, script.revision, step)
    if known[done:] == []:  # a database that was there before there were notes
        patience.run(connection, "the note", lambda own: note(own, known[-1].revision, _since(known)))
    return []


def contracts(script: Script) -> str | None:
    """The migration before which versions no longer work when `script` has run; None for one that takes nothing away."""
    found: str | None = getattr(script.module, "contract", None)
    return found


def note(connection: sa.Connection, newest: str, since: str) -> None:
    """Leave word for every process which migration this database is at, and for which versions (shared/schema.py)."""
    connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS '{schema.note(newest, since)}'")


def _since(done: Sequence[Script]) -> str:
    return max([done[0].revision, *filter(None, map(contracts, done))])


def _titled(script: Script) -> str:
    return f"{script.revision} ({script.doc.rstrip('.')})"


def _asked(connection: sa.Connection, question: Any) -> bool:
    with connection.begin():
        return bool(connection.scalar(question))
