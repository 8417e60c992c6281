"""The table that every `orderflow dlq` command works at: the index, caught up with the dead-letter topics first."""

import contextlib
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress

from ops import terminal
from ops.dlq import force, index
from shared import config, errors
from shared.config import Settings
from shared.database import Database

SHOWN_FROM_RECORDS = 2000  # below that a sync is over before a bar is seen


@dataclass(frozen=True, slots=True)
class Desk:
    """Settings and the database of the index."""

    settings: Settings
    database: Database


@contextlib.contextmanager
def opened(*, sync: bool = True) -> Iterator[Desk]:
    """The index, caught up. Where Kafka does not answer it is used as it is, and that is said. Raises Unavailable without the database."""
    settings = config.load()
    database = Database(settings.postgres_dsn("dlq"), settings=force.patient(settings), application="orderflow dlq")
    try:
        if sync:
            catch_up(settings, database)
        yield Desk(settings, database)
    finally:
        database.close()


def catch_up(settings: Settings, database: Database) -> None:
    """Read the dead-letter topics on, and say what is odd about them. Raises Unavailable when the database is away."""
    database.transact(lambda tx: tx.run("SELECT 1 FROM dlq_letters LIMIT 1"))
    try:
        told(synced(settings, database))
    except errors.OrderflowError as exc:
        terminal.note(f"not caught up with the dead-letter topics, newer letters may be missing: {exc.detail}", "yellow")


def synced(settings: Settings, database: Database, *, rebuild: bool = False) -> index.Report:
    """`index.sync`, with a bar where it takes long and somebody watches."""
    if not sys.stderr.isatty():
        return index.sync(settings, database, rebuild=rebuild)
    with Progress(console=Console(stderr=True, highlight=False), transient=True) as bar:
        return index.sync(settings, database, rebuild=rebuild, tell=functools.partial(_advance, bar))


def told(report: index.Report) -> None:
    """Say what is odd."""
    if report.unreadable:
        first = ", ".join(report.unreadable[:3])
        terminal.note(f"{counted(len(report.unreadable), 'record')} on the dead-letter topics that are no letters: {first}", "yellow")
    if report.missing:
        terminal.note(f"there is no topic {', '.join(report.missing)} (`orderflow topics create` makes it)", "yellow")
    if report.inboxes_away:
        terminal.note(f"{', '.join(report.inboxes_away)} could not be asked which letters are done", "yellow")


def counted(number: int, noun: str) -> str:
    """`3 letters`, `1 letter`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _advance(bar: Progress, read: int, total: int) -> None:
    if total >= SHOWN_FROM_RECORDS:
        if not bar.tasks:
            bar.add_task("reading the dead-letter topics", total=total)
        bar.update(bar.tasks[0].id, completed=read)
