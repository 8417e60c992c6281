"""Letters as they come, straight from their topics: for this not even the database has to answer."""

import json as jsonlib
import sys
from typing import Any

from ops import tail, terminal
from ops.dlq import desk, view
from shared import config, errors, letters, topics


def follow(consumer: str | None, *, limit: int | None, json: bool) -> None:
    """Print each new letter once, until Ctrl-C or `limit`. Raises Unavailable without Kafka."""
    settings = config.load()
    names = [topic.name for topic in topics.catalogue(settings).dead_letter_topics]
    shown: set[tuple[str, Any]] = set()
    try:
        with tail.tail(settings, names) as now, terminal.until_interrupted() as interrupted:
            _catch_up()
            terminal.note("waiting for new letters; Ctrl-C ends it")
            while (limit is None or len(shown) < limit) and not interrupted():
                now.read(0.5)
                found, now.records = now.records, []
                for message in found:
                    value: Any = message.value()
                    try:
                        entry = letters.read(value or b"")
                    except errors.Refused:
                        terminal.note(f"{message.topic()}[{message.partition()}]@{message.offset()} is no letter", "yellow")
                        continue
                    if consumer in {None, entry.consumer} and (entry.letter_id, entry.failed_at) not in shown:
                        shown.add((entry.letter_id, entry.failed_at))
                        _print(entry, json=json)
                    if limit is not None and len(shown) >= limit:
                        return
    except KeyboardInterrupt:
        return


def _catch_up() -> None:
    """So that what is seen here can be asked for by its id."""
    try:
        with desk.opened():
            return
    except errors.OrderflowError as exc:
        terminal.note(f"the index does not answer: {exc.detail}", "yellow")


def _print(entry: letters.Entry, *, json: bool) -> None:
    names = ("letter_id", "consumer", "topic", "partition", "message_offset", "event_type", "event_id", "order_id", "reason", "error_code")
    facts = {name: getattr(entry, name) for name in (*names, "place", "error_message", "fingerprint", "attempts")}
    if json:
        sys.stdout.write(jsonlib.dumps(facts | {"failed_at": view.iso(entry.failed_at)}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    where = f"{entry.error_code}{f' at {entry.place}' if entry.place else ''}"
    line = f"{view.iso(entry.failed_at)}  {entry.letter_id}  {entry.consumer}  {entry.order_id or '-'}  {entry.reason}: {where}: "
    terminal.say(terminal.printable((line + entry.error_message).encode("utf-8", "replace")))
    sys.stdout.flush()
