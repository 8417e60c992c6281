"""`orderflow dlq`: dead letters by cause, one by one, as they come; each command first catches up with their topics."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import typer

from ops import terminal
from ops.dlq import archive, change_command, desk, filters, letter_command, parked_command, query, replay_command, runs_command, tail, view
from ops.dlq.filters import State

app = typer.Typer(no_args_is_help=True, help="Dead letters: understand them by cause, edit, replay, discard, archive.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

_LIST = ("letter_id", "state", "consumer", "error_code", "place", "order_id", "failed_at", "error_message")
_WORDS = ("open", "failed again", "selected", "sent", "done", "discarded", "superseded")


@terminal.failures()
def groups(
    *,
    consumer: filters.Consumer = None,
    cause: filters.Cause = None,
    code: filters.Code = None,
    why: filters.Reason = None,
    order: filters.Order = None,
    since: filters.Since = None,
    until: filters.Until = None,
    state: filters.Wanted = State.open,
    json: Json = False,
) -> None:
    """Show the open letters by consumer and cause: how many, since when, and an example."""
    chosen = filters.made(consumer, cause, code, why, order, None, since, until)
    with desk.opened() as at:
        found = at.database.transact(lambda tx: query.groups(tx, chosen, state))
    if json:
        terminal.as_json([_plain(row) for row in found])
        return
    columns = ("consumer", "cause", "why", "code", "place", "letters", "orders", "first", "last", "oldest", "example")
    terminal.table(
        columns,
        [
            (
                row["consumer"],
                row["fingerprint"],
                row["reason"],
                row["error_code"],
                row["place"],
                row["letters"],
                row["orders"],
                view.iso(row["first"]),
                view.iso(row["last"]),
                view.age(row["oldest_seconds"]),
                row["error_message"][:80],
            )
            for row in found
        ],
    )
    terminal.note(f"{desk.counted(sum(row['letters'] for row in found), 'letter')} of {desk.counted(len(found), 'cause')}")


@terminal.failures()
def listed(
    *,
    consumer: filters.Consumer = None,
    cause: filters.Cause = None,
    code: filters.Code = None,
    why: filters.Reason = None,
    order: filters.Order = None,
    event: filters.Event = None,
    since: filters.Since = None,
    until: filters.Until = None,
    state: filters.Wanted = State.open,
    limit: Annotated[int, typer.Option("--max", min=1, max=10_000, help="At most so many letters.")] = 50,
    after: Annotated[str | None, typer.Option(help="Go on after a page: what that gave as `next`.")] = None,
    json: Json = False,
) -> None:
    """List letters, the newest first, page by page."""
    chosen = filters.made(consumer, cause, code, why, order, event, since, until)
    place = _cursor(after)
    with desk.opened() as at:
        rows, more = at.database.transact(lambda tx: query.page(tx, chosen, state, many=limit, after=place))
    following = f"{view.iso(rows[-1]['failed_at'])}/{rows[-1]['letter_id']}" if more else None
    if json:
        terminal.as_json({"letters": [_plain(row) for row in rows], "next": following})
        return
    terminal.table(_LIST, [[str(view.iso(row[name]) or "")[:80] for name in _LIST] for row in rows])
    if following is not None:
        terminal.note(f"there are more: --after {following}")


@terminal.failures()
def stats(*, consumer: filters.Consumer = None, since: filters.Since = None, until: filters.Until = None, json: Json = False) -> None:
    """Count letters by consumer and state, with the oldest that is open, and the events that wait behind them."""
    chosen = filters.Filter(consumer=consumer, since=filters.moment("--since", since), until=filters.moment("--until", until))
    with desk.opened() as at:
        rows, parked, positions = at.database.transact(lambda tx: (query.stats(tx, chosen), query.parked(tx), query.positions(tx)))
    consumers: dict[str, dict[str, Any]] = {}
    for name in sorted({row["consumer"] for row in rows} | (parked.keys() if consumer is None else set())):
        own = [row for row in rows if row["consumer"] == name]
        still_open = [row for row in own if row["state"] in _WORDS[:4]]
        consumers[name] = {
            "states": {word: sum(row["letters"] for row in own if row["state"] == word) for word in _WORDS},
            "letters": sum(row["letters"] for row in own),
            "parked": parked.get(name, 0),
            "oldest_open_seconds": max((row["oldest_seconds"] for row in still_open), default=None),
            "last_failed_at": view.iso(max((row["last"] for row in own), default=None)),
        }
    if json:
        terminal.as_json({"consumers": consumers, "read": positions})
        return
    terminal.table(
        ("consumer", *_WORDS, "parked", "oldest open", "last failure"),
        [
            (name, *told["states"].values(), told["parked"], view.age(told["oldest_open_seconds"]), told["last_failed_at"])
            for name, told in consumers.items()
        ],
    )


@terminal.failures()
def sync(
    *,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read the topics from their beginning. History and states are kept.")] = False,
    json: Json = False,
) -> None:
    """Read the dead-letter topics on into the index, as every other command does first."""
    with desk.opened(sync=False) as at:
        report = desk.synced(at.settings, at.database, rebuild=rebuild)
    desk.told(report)
    if json:
        terminal.as_json({"read": report.read, "added": report.added, "done": report.done, "unreadable": report.unreadable})
        return
    done = f", {report.done} of them done: the inbox holds their events" if report.done else ""
    terminal.say(f"read {desk.counted(report.read, 'record')}, {desk.counted(report.added, 'letter')} new in the index{done}")


@terminal.failures()
def tailed(
    *,
    consumer: filters.Consumer = None,
    limit: Annotated[int | None, typer.Option("--max", min=1, help="End after so many letters.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON value a line, for scripts.")] = False,
) -> None:
    """Show letters as they are written, from now on, until Ctrl-C."""
    tail.follow(consumer, limit=limit, json=json)


def _cursor(text: str | None) -> tuple[datetime, str] | None:
    if text is None:
        return None
    moment, slash, letter_id = text.partition("/")
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or not slash or not letter_id:
        raise terminal.usage(f"--after {text!r}: must be what a page gave as `next`")
    return found, letter_id


def _plain(row: query.Row) -> dict[str, Any]:
    return {name: view.iso(value) for name, value in row.items() if name != "stored_state"}


# In the order in which somebody on call needs them.
_COMMANDS: dict[str, Callable[..., None]] = {
    "groups": groups,
    "list": listed,
    "show": letter_command.show,
    "edit": change_command.edit,
    "replay": replay_command.replay,
    "runs": runs_command.listed,
    "discard": change_command.discard,
    "restore": change_command.restore,
    "pull": letter_command.pull,
    "stats": stats,
    "tail": tailed,
    "parked": parked_command.listed,
    "unpark": parked_command.unpark,
    "sync": sync,
    "archive": archive.archive,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
