"""`orderflow dlq edit`, `discard` and `restore`: what a person decides about a letter."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from ops import terminal
from ops.dlq import desk, editor, filters, letter_command, query, runs, states, view
from ops.dlq import edit as editing
from ops.dlq.filters import State

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[LETTER_ID]...", help="The letters by their ids, or by how those begin.")]
Why = Annotated[str | None, typer.Option("--reason", "-r", help="Why; it is kept in the letter's history.")]
Every = Annotated[bool, typer.Option("--all", help="Every one, or every one that the filters leave.")]


class _Change(NamedTuple):
    """What the commands that only mark letters differ in."""

    verb: str
    past: str
    before: State
    mark: Callable[..., list[str]]


_DISCARD = _Change("Discard", "discarded", State.open, states.discard)
_RESTORE = _Change("Restore", "restored", State.discarded, states.restore)


@terminal.failures()
def edit(
    letter_id: letter_command.Id,
    *,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Set a field of the value; VALUE is JSON, else text. May be repeated."),
    ] = None,
    unsets: Annotated[
        list[str] | None, typer.Option("--unset", metavar="PATH", help="Remove a field of the value. May be repeated.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Take the whole value from here; `-` is standard input.")] = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Mend a letter's event: in $EDITOR, or by --set. The mended one stands in for the original, which is never sent.

    It is checked against the model of its event type. Nothing is sent: `orderflow dlq replay` does that.
    """
    if file is not None and (sets or unsets):
        raise terminal.usage("--file gives the whole value: --set and --unset do not go with it")
    with desk.opened() as at:
        asked = letter_command.found(at, letter_id)
        row = at.database.transact(lambda tx: editing.newest(tx, asked))
        if row["letter_id"] != asked["letter_id"]:
            terminal.note(f"{asked['letter_id']} was edited before: this is about its newest version, {row['letter_id']}", "yellow")
        held = view.record(at.database.transact(lambda tx: query.value(tx, row["letter_id"])))
        made = editing.draft(row, held, _value(held.value, sets or [], unsets or [], file))
        diff = editing.difference(held, made)
        if not json:
            _print_diff(diff)
        terminal.confirm(f"Have this in place of letter {row['letter_id']}?", yes=yes)
        at.database.transact(lambda tx: editing.supersede(row, made, runs.who(), tx))
    if json:
        terminal.as_json({"letter_id": made.letter_id, "superseded": row["letter_id"], "event_id": made.entry.event_id, "diff": diff})
        return
    terminal.say(f"letter {made.letter_id} stands in for {row['letter_id']}", "green")
    terminal.note(f"send it: orderflow dlq replay {made.letter_id}")


@terminal.failures()
def discard(
    ids: Ids = None,
    *,
    reason: Why = None,
    every: Every = False,
    consumer: filters.Consumer = None,
    cause: filters.Cause = None,
    code: filters.Code = None,
    why: filters.Reason = None,
    order: filters.Order = None,
    since: filters.Since = None,
    until: filters.Until = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Give up open letters: they are not sent again unless they are restored. Nothing is removed."""
    wanted = filters.made(consumer, cause, code, why, order, None, since, until)
    _change(_DISCARD, ids, wanted, every=every, reason=reason, yes=yes, json=json)


@terminal.failures()
def restore(
    ids: Ids = None,
    *,
    reason: Why = None,
    every: Every = False,
    consumer: filters.Consumer = None,
    cause: filters.Cause = None,
    code: filters.Code = None,
    why: filters.Reason = None,
    order: filters.Order = None,
    since: filters.Since = None,
    until: filters.Until = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Open discarded letters again."""
    wanted = filters.made(consumer, cause, code, why, order, None, since, until)
    _change(_RESTORE, ids, wanted, every=every, reason=reason, yes=yes, json=json)


def _change(
    change: _Change, ids: list[str] | None, wanted: filters.Filter, *, every: bool, reason: str | None, yes: bool, json: bool
) -> None:
    if bool(ids) == (every or bool(wanted.named())):
        raise terminal.usage("name letters by their ids, or say which by filters, or --all")
    reason = _reason(reason)
    with desk.opened() as at:
        if ids:
            chosen = sorted({letter_command.found(at, letter_id)["letter_id"] for letter_id in ids})
        else:
            chosen = at.database.transact(lambda tx: states.chosen(tx, wanted, change.before))
        changed: list[str] = []
        if chosen:
            terminal.confirm(f"{change.verb} {desk.counted(len(chosen), 'letter')} ({reason})?", yes=yes)
            changed = at.database.transact(lambda tx: change.mark(tx, chosen, reason=reason, who=runs.who()))
        parked = at.database.transact(lambda tx: states.parked_behind(tx, changed)) if change is _DISCARD and changed else 0
    left = sorted(set(chosen) - set(changed))
    if json:
        terminal.as_json({change.past: sorted(changed), "left": left})
    else:
        terminal.note(f"{change.past} {desk.counted(len(changed), 'letter')}")
    if parked:
        terminal.note(f"{desk.counted(parked, 'event')} of the same orders wait behind them: `orderflow dlq unpark` sends them", "yellow")
    if left:
        terminal.complain(f"not {change.before.value}, or in an open run: {', '.join(left[:20])}")
        raise typer.Exit(terminal.FAILED)


def _reason(given: str | None) -> str:
    """Why. Ends the command, exit code 2, when nobody says."""
    if given is None and sys.stdin.isatty():
        given = typer.prompt("Why?")
    if given is None or not given.strip():
        raise terminal.usage("--reason: say why")
    return given.strip()[:1024]


def _value(value: bytes | None, sets: list[str], unsets: list[str], file: Path | None) -> bytes:
    """The new value from the command line, a file, or $EDITOR."""
    if sets or unsets:
        return editing.changed(value, sets, unsets)
    if file is not None:
        try:
            return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        except OSError as exc:
            raise terminal.usage(f"{file}: {exc.strerror}") from exc
    if not sys.stdin.isatty():
        raise terminal.usage("nobody is here to edit: say --set PATH=VALUE, or --file")
    return editor.edited(value)


def _print_diff(diff: str) -> None:
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in diff.splitlines():
        terminal.say(line, styles.get(line[:1], ""))
