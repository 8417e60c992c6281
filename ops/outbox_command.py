"""`orderflow outbox`: the rows that wait to be published, and those that the relay set aside."""

import enum
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from ops import terminal
from shared import config, database, outbox
from shared.database import Transaction

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="The rows that wait to be published, and those that the relay set aside.")


class Status(enum.StrEnum):
    """What became of a row."""

    pending = "pending"
    failed = "failed"
    sent = "sent"
    discarded = "discarded"
    all = "all"


Ids = Annotated[list[str] | None, typer.Argument(metavar="[EVENT_ID]...", help="The rows by their event ids.")]
Topic = Annotated[str | None, typer.Option(help="Only rows of this topic.")]
Aggregate = Annotated[str | None, typer.Option("--order", help="Only rows of this order (or other aggregate).")]
Kind = Annotated[str | None, typer.Option("--type", help="Only rows of this event type.")]
Every = Annotated[bool, typer.Option("--all", help="Every failed row, or every one that the filters leave.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

_COLUMNS = (
    "event_id",
    "status",
    "topic",
    "event_type",
    "aggregate_id",
    "producer",
    "attempts",
    "created_at",
    "due_at",
    "sent_at",
    "last_error",
)
_FILTER = """
  (:topic::text IS NULL OR topic = :topic::text) AND (:aggregate::text IS NULL OR aggregate_id = :aggregate::text)
  AND (:kind::text IS NULL OR event_type = :kind::text)
"""
_LIST = f"""
SELECT {", ".join(_COLUMNS)}, octet_length(payload), due_at <= clock_timestamp() FROM order_outbox_events
WHERE status = ANY(:statuses::text[]) AND {_FILTER} ORDER BY due_at, seq LIMIT :many::bigint
"""  # noqa: S608  the columns are constants
_COUNT = f"SELECT count(*) FROM order_outbox_events WHERE status = ANY(:statuses::text[]) AND {_FILTER}"  # noqa: S608  likewise
_CHOSEN = f"status = 'failed' AND (:every::boolean OR event_id = ANY(:ids::text[])) AND {_FILTER}"
_FAILED = f"SELECT event_id FROM order_outbox_events WHERE {_CHOSEN} ORDER BY due_at, seq"  # noqa: S608  likewise
# Due time and sequence stay, and with them the row's place among those of its key.
_RETRY = f"UPDATE order_outbox_events SET status = 'pending', attempts = 0, last_error = NULL WHERE {_CHOSEN} RETURNING event_id"  # noqa: S608
_DISCARD = f"""
UPDATE order_outbox_events SET status = 'discarded',
       last_error = left('discarded: ' || :reason::text || '; was: ' || coalesce(last_error, ''), 1024)
WHERE {_CHOSEN} RETURNING event_id
"""  # noqa: S608  likewise


@app.command(name="list")
@terminal.failures()
def listed(
    *,
    status: Annotated[
        list[Status] | None,
        typer.Option("--status", "-s", help="Only rows of this status; may be repeated.", show_default="pending, failed"),
    ] = None,
    topic: Topic = None,
    order: Aggregate = None,
    kind: Kind = None,
    limit: Annotated[int, typer.Option("--max", min=1, help="At most so many rows, the oldest first.")] = 100,
    json: Json = False,
) -> None:
    """List rows, the next to be published first."""
    chosen = status or [Status.pending, Status.failed]
    statuses = [of.value for of in (Status if Status.all in chosen else chosen)]
    filters = {"statuses": statuses, "topic": topic, "aggregate": order, "kind": kind}

    def work(tx: Transaction) -> tuple[list[dict[str, Any]], int]:
        rows = [dict(zip((*_COLUMNS, "bytes", "due"), row, strict=True)) for row in tx.run(_LIST, many=limit, **filters)]
        return rows, int(tx.run(_COUNT, **filters)[0][0])

    rows, count = _transact(work)
    if json:
        terminal.as_json([{key: _iso(value) for key, value in row.items()} for row in rows])
        return
    shown = ("event_id", "status", "topic", "aggregate_id", "attempts", "due_at", "bytes", "last_error")
    terminal.table(shown, [[_iso(row[name]) for name in shown] for row in rows])
    if count > len(rows):
        terminal.note(f"{len(rows)} of {count} rows; --max shows more")


@app.command()
@terminal.failures()
def retry(
    ids: Ids = None,
    *,
    every: Every = False,
    topic: Topic = None,
    order: Aggregate = None,
    kind: Kind = None,
    json: Json = False,
) -> None:
    """Have the relay publish failed rows again, in their old place among the rows of their key."""
    _chosen(ids, every)

    def work(tx: Transaction) -> list[str]:
        changed = [row[0] for row in tx.run(_RETRY, ids=ids or [], every=every, topic=topic, aggregate=order, kind=kind)]
        if changed:
            tx.run(f"NOTIFY {outbox.CHANNEL}")
        return changed

    _report("retried", ids, _transact(work), json=json)


@app.command()
@terminal.failures()
def discard(
    ids: Ids = None,
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it is kept in the row.")],
    every: Every = False,
    topic: Topic = None,
    order: Aggregate = None,
    kind: Kind = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Give up failed rows: they are never published, and later rows of their keys go on. The rows themselves are kept."""
    _chosen(ids, every)
    if not reason.strip():
        raise terminal.usage("--reason: say why")
    filters = {"ids": ids or [], "every": every, "topic": topic, "aggregate": order, "kind": kind}
    found = _transact(lambda tx: [row[0] for row in tx.run(_FAILED, **filters)])
    if found:
        terminal.confirm(f"Discard {len(found)} event{'' if len(found) == 1 else 's'}, never to be published?", yes=yes)
        filters |= {"ids": found, "every": False}  # what was asked about, and no row that failed since
        found = _transact(lambda tx: [row[0] for row in tx.run(_DISCARD, reason=reason, **filters)])
    _report("discarded", ids, found, json=json)


def _chosen(ids: list[str] | None, every: bool) -> None:
    if bool(ids) == every:
        raise terminal.usage("name event ids, or say --all (with --topic, --order or --type to narrow it down)")


def _report(verb: str, ids: list[str] | None, changed: list[str], *, json: bool) -> None:
    left = sorted(set(ids or ()) - set(changed))
    if json:
        terminal.as_json({verb: changed, "left": left})
    else:
        terminal.note(f"{verb} {len(changed)} row{'' if len(changed) == 1 else 's'}")
    if left:
        terminal.complain(f"there is no failed row {', '.join(left)} (`orderflow outbox list --status all` shows all)")
        raise typer.Exit(terminal.FAILED)


def _transact(work: Callable[[Transaction], T]) -> T:
    connected = database.connect("relay", config.load(), "orderflow outbox")
    try:
        return connected.transact(work)
    finally:
        connected.close()


def _iso(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
