"""What readers of bytes from outside promise, whatever they are given.

Nothing but the project's own refusals is raised. A refusal becomes an answer of at most 1,024 bytes that says what is wrong. Two ways to
the same reading agree. What is accepted can be stored in PostgreSQL, published again, and read again as the same.
"""

import dataclasses
import json
from collections.abc import Callable

from connectors.kafka_source import answers, http1
from shared import answer, cloudevent, delivery, errors, events, literals, problem

ANSWER_BYTES_MAX = 1024
EVENTS_MAX = 20


class Broken(Exception):
    """A promise that was not kept."""


def batch(body: bytes) -> None:
    """The body of a batch is refused as a whole, or each of its events has a result."""
    try:
        found = cloudevent.read_batch(body, EVENTS_MAX)
    except errors.Refused as refusal:
        refused(refusal)
        return
    if len(found) > EVENTS_MAX:
        raise Broken(f"{len(found)} events were taken")
    outcomes = [delivered(one) for one in found]
    told = json.loads(bytes(answer.batch([outcome or "done" for outcome in outcomes]).body))
    if len(told["results"]) != len(found):
        raise Broken("not one result for each event")


def delivered(read: cloudevent.Read) -> errors.Refused | None:
    """What the pipe makes of it before anything is stored: a refusal, or an event."""
    outcome = delivery._event(read, dict(events.known()))
    if isinstance(outcome, errors.Refused):
        refused(outcome)
        return outcome
    assert isinstance(read, cloudevent.Delivery)  # noqa: S101  for the type checker: a refusal stays one
    if outcome.received != read.payload:
        raise Broken("an event does not know what it came in")
    same(_reading(read.payload, events.read), _reading(read.payload, events.read_with_care))
    literals.array([text for text in dataclasses.astuple(outcome.context) if isinstance(text, str)])
    event(outcome)
    return None


def event(event: events.Event) -> None:
    """An event can be stored and published, and is the same when it is read again."""
    literals.array([event.event_id, event.event_type, event.order_id, event.user_id])
    literals.array([event.occurred_at])
    for name, text in event.headers().items():
        if not name or not text or "\x00" in text:
            raise Broken(f"not a record header: {name!r}: {text!r}")
    again = events.read(event.value(), events.known())
    if again != event or again.value() != event.value():
        raise Broken("an event that is published and read again is another one")


def _reading(payload: bytes, read: Callable[..., events.Event]) -> object:
    try:
        return read(payload, events.known())
    except errors.Refused as refusal:
        return type(refusal), refusal.detail, refusal.code, refusal.place


def refused(refusal: errors.Refused) -> None:
    """A refusal has an answer that a KafkaSource keeps whole."""
    body = bytes(problem.response(refusal).body)
    if len(body) > ANSWER_BYTES_MAX or not json.loads(body)["detail"]:
        raise Broken(f"an answer that is too long or says nothing: {body!r}")


def answered(response: http1.Response) -> None:
    """An answer to one event, or to a batch, is of one kind for each event, and what it says has its bounds."""
    found = [answers.of_single(response)]
    for events_sent in (1, 3):
        several = answers.of_batch(response, events_sent)
        found += several if isinstance(several, list) else [several]
    for one in found:
        if len(one.detail.encode()) > answers.DETAIL_BYTES_MAX or len(one.place) > answers.PLACE_CHARACTERS_MAX:
            raise Broken(f"an answer without bounds: {one!r}")
        if one.retry_after_s is not None and not 0 <= one.retry_after_s <= answers.RETRY_AFTER_MAX_S:
            raise Broken(f"to come again after {one.retry_after_s}")


def same(one: object, other: object) -> None:
    """Two ways to the same reading agree."""
    if one != other and repr(one) != repr(other):  # NaN is not itself
        raise Broken(f"two ways disagree: {one!r} and {other!r}")
