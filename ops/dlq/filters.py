"""Which letters a command is about: its options, and the condition that they make on `dlq_letters AS letter`."""

import enum
import re
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from ops import terminal

_AGO = re.compile(r"(\d{1,6})\s*(s|m|h|d|w)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class State(enum.StrEnum):
    """What became of a letter. `selected` and `sent` say how far an open run is with it: sent is not yet done."""

    open = "open"
    failed_again = "failed_again"
    selected = "selected"
    sent = "sent"
    done = "done"
    discarded = "discarded"
    superseded = "superseded"
    all = "all"


# The word that a person sees. An open letter that failed once more says so; one that a run has at hand says how far that is.
WORD = """
CASE WHEN letter.state <> 'open' THEN letter.state
     ELSE coalesce((SELECT item.status FROM dlq_run_items AS item WHERE item.letter_id = letter.letter_id AND item.open LIMIT 1),
                   CASE WHEN EXISTS (SELECT FROM dlq_history AS h WHERE h.letter_id = letter.letter_id AND h.what = 'failed again')
                        THEN 'failed again' ELSE 'open' END) END
"""
_CONDITIONS = {
    "consumer": "letter.consumer = :consumer::text",
    "cause": "starts_with(letter.fingerprint, :cause::text)",
    "code": "letter.error_code = :code::text",
    "reason": "letter.reason = :reason::text",
    "order": "letter.order_id = :order::text",
    "event": "letter.event_id = :event::text",
    "since": "letter.failed_at >= :since::timestamptz",
    "until": "letter.failed_at < :until::timestamptz",
}
_STATES = {
    State.open: "letter.state = 'open'",
    State.failed_again: f"letter.state = 'open' AND ({WORD}) = 'failed again'",
    State.selected: f"letter.state = 'open' AND ({WORD}) = 'selected'",
    State.sent: f"letter.state = 'open' AND ({WORD}) = 'sent'",
    State.done: "letter.state = 'done'",
    State.discarded: "letter.state = 'discarded'",
    State.superseded: "letter.state = 'superseded'",
    State.all: "TRUE",
}

Consumer = Annotated[str | None, typer.Option("--consumer", "-c", help="Only letters of this consumer group.")]
Cause = Annotated[
    str | None, typer.Option("--cause", "--group", "-g", help="Only letters of this cause: its fingerprint, or how it begins.")
]
Code = Annotated[str | None, typer.Option("--code", help="Only letters with this error code.")]
Reason = Annotated[str | None, typer.Option("--why", help="Only refused, out_of_retries or dependency_away.")]
Order = Annotated[str | None, typer.Option("--order", "-o", help="Only letters of this order.")]
Event = Annotated[str | None, typer.Option("--event", help="Only letters of the event with this id.")]
Since = Annotated[str | None, typer.Option("--since", help="Only letters that failed since then: 2h, 7d, or 2026-01-31T12:00:00Z.")]
Until = Annotated[str | None, typer.Option("--until", help="Only letters that failed before then.")]
Wanted = Annotated[State, typer.Option("--state", "-s", help="Only letters of this state.")]


@dataclass(frozen=True, slots=True)
class Filter:
    """What the options name; None is everything."""

    consumer: str | None = None
    cause: str | None = None
    code: str | None = None
    reason: str | None = None
    order: str | None = None
    event: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def named(self) -> dict[str, Any]:
        """The filters that were given, as parameters of `where`."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def where(self, state: State = State.open) -> str:
        """The condition on `letter`."""
        return " AND ".join([f"({_STATES[state]})", *(f"({_CONDITIONS[name]})" for name in self.named())])


def made(  # noqa: PLR0917  the options in their order
    consumer: str | None, cause: str | None, code: str | None, reason: str | None, order: str | None, event: str | None,
    since: str | None, until: str | None,
) -> Filter:  # fmt: skip
    """The filter of a command's options. Ends the command, exit code 2, when a time cannot be read."""
    return Filter(consumer, cause, code, reason, order, event, moment("--since", since), moment("--until", until))


def moment(option: str, text: str | None) -> datetime | None:
    """A point in time: how long ago, or RFC 3339, UTC where it has no time zone. Ends the command, exit code 2, when it is neither."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago:
        return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNIT_S[ago[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise terminal.usage(f"{option} {text!r}: must be how long ago (90s, 2h, 7d) or a time such as 2026-01-31T12:00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
