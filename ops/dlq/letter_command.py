"""`orderflow dlq show` and `pull`: one letter, to be read or to become a test."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from ops import home, terminal
from ops.dlq import desk, fixture, query, view
from ops.dlq.desk import Desk
from ops.dlq.fixture import Expect

Id = Annotated[str, typer.Argument(metavar="LETTER_ID", help="The letter by its id, or by how that begins.")]


@terminal.failures()
def show(
    letter_id: Id,
    *,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the record's value to standard output, byte for byte and nothing else.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show a letter: the record decoded, where it lay, the error, and what happened to it since."""
    with desk.opened() as at:
        row = found(at, letter_id)
        own = row["letter_id"]
        value, history, lineage = at.database.transact(lambda tx: (query.value(tx, own), query.history(tx, own), query.lineage(tx, own)))
    held = view.record(value)
    if raw:
        _write(held.value)
    elif json:
        terminal.as_json(view.as_json(row, held, history, lineage))
    else:
        view.show(row, held, history, lineage)


@terminal.failures()
def pull(
    letter_id: Id,
    *,
    redact: Annotated[bool, typer.Option("--redact/--plain", help="Replace what is personal by something of the same shape.")] = True,
    expect: Annotated[Expect, typer.Option(help="What the handler is to make of it from now on.")] = Expect.done,
    out: Annotated[Path | None, typer.Option("--out", help="The file; `-` is standard output.", show_default="tests/letters/…")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Make a letter a test: a file that tests/letters runs against the function that failed."""
    with desk.opened() as at:
        row = found(at, letter_id)
        value = at.database.transact(lambda tx: query.value(tx, row["letter_id"]))
        made = fixture.made(at.settings, row, view.record(value), expect=expect, redact=redact)
    if not redact:
        terminal.note("this holds what a customer sent: do not commit it without looking", "yellow")
    if out is not None and str(out) == "-":
        sys.stdout.write(made)
        return
    path = out or home.CHECKOUT / "tests" / "letters" / fixture.name(row)
    if path.exists() and not force:
        raise terminal.usage(f"{path} is there already: --force writes over it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made, encoding="utf-8")
    except OSError as exc:
        raise terminal.usage(f"{path}: {exc.strerror}") from exc
    terminal.say(str(path))
    terminal.note(f"run it: pytest tests/letters -k {path.stem}")


def found(at: Desk, prefix: str) -> query.Row:
    """The letter that `prefix` names. Raises Refused; ends the command, exit code 2, when it names several."""
    try:
        return at.database.transact(lambda tx: query.one(tx, prefix))
    except query.Ambiguous as exc:
        raise terminal.usage(exc.detail) from exc


def _write(value: bytes | None) -> None:
    if value is None:
        terminal.note("the value is null: a tombstone", "yellow")
        return
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
