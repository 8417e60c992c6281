"""From a choice to a run that may begin: written down whole, told, and agreed to."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from ops import terminal
from ops.dlq import old_runs, runs, selection, session, targets
from ops.dlq.selection import Frozen
from shared import errors
from shared.config import Settings
from shared.database import Database, Transaction

SHOWN = 1000  # of a dry run

Rate = Annotated[str | None, typer.Option("--rate", help="At most so many a second: 50, or 50/s.")]
Url = Annotated[str | None, typer.Option("--url", help="The function's address.", show_default="SINK_URLS, else where orderflow up put it")]
ToTopic = Annotated[
    str | None, typer.Option("--to-topic", metavar="TOPIC", help="Write the original records to this topic instead, for all who read it.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and to whom; send nothing.")]
Force = Annotated[
    bool, typer.Option("--force", help="Have the handler run again for events that it has handled: their inbox rows are removed first.")
]
InFlight = Annotated[int, typer.Option("--in-flight", min=1, max=256, help="So many at a time; those of one order one after another.")]
Resume = Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Go on with a run that was ended; its selection is kept.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

_FIRST = "SELECT coalesce(letter_id, ''), event_id, consumer, lane FROM dlq_run_items WHERE run_id = :run ORDER BY n LIMIT :many::int"
First = list[list[Any]]


def per_second(text: str | None) -> float | None:
    """A rate such as 50 or 50/s. Ends the command, exit code 2, when it is none."""
    if text is None:
        return None
    try:
        found = float(text.removesuffix("/s"))
    except ValueError:
        found = 0.0
    if not 0 < found < 1e6:
        raise terminal.usage(f"--rate {text!r}: must be a number of sends a second, such as 50 or 0.5/s")
    return found


@contextlib.contextmanager
def begun(kept: Database, kind: runs.Kind, told: Mapping[str, Any], options: session.Options) -> Iterator[runs.Run]:
    """A new run to be filled and asked about. It is removed again when it does not come to that."""
    old_runs.remove(kept)
    run = kept.transact(lambda tx: runs.create(tx, kind, "", told, options.told()))
    try:
        yield run
    except BaseException:
        kept.transact(lambda tx: runs.forget(tx, run))
        raise


def first(tx: Transaction, run: runs.Run) -> First:
    """Letter id, event id, consumer and key of the first that are to be sent."""
    return tx.run(_FIRST, run=run.run_id, many=SHOWN)


def agreed(
    settings: Settings, kept: Database, run: runs.Run, frozen: Frozen, options: session.Options, *, what: str, yes: bool
) -> runs.Run:
    """The run with its selection complete, once someone has agreed to it. Ends the command where nothing is to be sent."""
    _end_if_empty(frozen, what)
    where = addresses(settings, frozen, options)
    many = f"{frozen.total} {what}{'' if frozen.total == 1 else 's'}"
    if options.to_topic is not None:
        question = f"Write {many} to {options.to_topic}, where EVERY consumer group of that topic gets them?"
    else:
        question = f"Send {many} to {', '.join(f'{group} at {at}' for group, at in where.items())}?"
    if options.force:
        terminal.note(
            "--force: rows of these events are removed from the consumers' inboxes, each just before its send, so their handlers run once "
            "more, with all effects. Events that they published before are not published again.",
            "bold yellow",
        )
    terminal.confirm(question, yes=yes)
    more = options.told()
    if options.force and options.to_topic is None:
        more["forced_before"] = session.force_before(settings, frozen.by_consumer)
    target = f"topic {options.to_topic}" if options.to_topic else ", ".join(frozen.by_consumer)
    begins = kept.transact(lambda tx: selection.complete(tx, run, target, more))
    terminal.note(f"run {run.run_id}")
    return begins


def addresses(settings: Settings, frozen: Frozen, options: session.Options) -> dict[str, str]:
    """Where each consumer's items go. Raises Refused for a consumer without a function."""
    if options.to_topic is not None:
        return dict.fromkeys(frozen.by_consumer, f"topic {options.to_topic}")
    if options.url is not None and len(frozen.by_consumer) > 1:
        raise errors.Refused(f"--url is of one function, and this is about {', '.join(frozen.by_consumer)}: say --consumer")
    found = targets.sources(settings, url=options.url)
    return {group: targets.source_of(found, group).sink for group in frozen.by_consumer}


def would(settings: Settings, frozen: Frozen, options: session.Options, shown: First, *, what: str, json: bool) -> None:
    """Say what a run would do. Ends the command where it would do nothing."""
    _end_if_empty(frozen, what)
    where = addresses(settings, frozen, options)
    columns = ["letter_id", "event_id", "consumer", "key"]
    if json:
        told: dict[str, Any] = {"dry_run": True, "total": frozen.total, "too_old": frozen.too_old}
        told["consumers"] = {group: {"items": count, "to": where[group]} for group, count in frozen.by_consumer.items()}
        told["taken"] = [{"run": taken.run_id, "letters": taken.letters} for taken in frozen.taken]
        terminal.as_json(told | {"first": [dict(zip(columns, row, strict=True)) for row in shown]})
        return
    terminal.table(columns, shown)
    for group, count in frozen.by_consumer.items():
        terminal.note(f"{count} would be sent to {group} at {where[group]}")
    terminal.note("nothing was sent" + (f"; of {frozen.total} the first {len(shown)} are shown" if frozen.total > len(shown) else ""))


def told(frozen: Frozen) -> None:
    """Say what was asked for and is left out."""
    for taken in frozen.taken:
        more = f" and {taken.letters - len(taken.letter_ids)} more" if taken.letters > len(taken.letter_ids) else ""
        terminal.note(
            f"left out, for the open run {taken.run_id} has {'it' if taken.letters == 1 else 'them'}: {', '.join(taken.letter_ids)}{more}"
            f" (`orderflow dlq replay --resume {taken.run_id}` or `orderflow dlq runs --abandon {taken.run_id}`)",
            "yellow",
        )
    if frozen.too_old:
        terminal.note(
            f"left out: {frozen.too_old} so old that the inbox may have forgotten them: a second effect is possible; --force sends them",
            "yellow",
        )


def _end_if_empty(frozen: Frozen, what: str) -> None:
    if not frozen.total:
        terminal.note(f"there is no {what} to be sent")
        raise typer.Exit(terminal.FAILED if frozen.taken or frozen.too_old else 0)
