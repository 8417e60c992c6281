"""Outcomes as HTTP answers, as metrics, and as a line in the log for each event that was not handled."""

import logging
from collections.abc import Sequence

import msgspec
from starlette.responses import Response

from shared import errors, events, problem, telemetry
from shared.grouping import Outcome

log = logging.getLogger(__name__)


_JSON = "application/json"
_GOOD = ("done", "duplicate", "parked")
_SINGLE = {
    outcome: Response(msgspec.json.encode({"outcome": outcome}), media_type=_JSON) for outcome in _GOOD
}  # sent as they are, again and again
_ENTRIES = {outcome: msgspec.json.encode({"status": 200, "outcome": outcome}) for outcome in _GOOD}


def single(outcome: Outcome) -> Response:
    """The answer to one event: 200 with its outcome, or a problem."""
    return problem.response(outcome) if isinstance(outcome, errors.OrderflowError) else _SINGLE[outcome]


def batch(outcomes: Sequence[Outcome]) -> Response:
    """The answer to a batch: one entry for each event, in request order; 200 when all were done or duplicates, else 207."""
    failed = any(isinstance(outcome, errors.OrderflowError) for outcome in outcomes)
    entries = [_failed(outcome) if isinstance(outcome, errors.OrderflowError) else _ENTRIES[outcome] for outcome in outcomes]
    return Response(b'{"results":[' + b",".join(entries) + b"]}", status_code=207 if failed else 200, media_type=_JSON)


def report(name: str, wanted: Sequence[events.Event | errors.Refused], outcomes: Sequence[Outcome], seconds: float) -> None:
    """Count a request of the function `name` and what became of its events.

    Each event that failed by its own fault gets a line in the log; those that must wait share one for each cause, for in an outage
    there are many of them.
    """
    telemetry.request_events(name).observe(len(outcomes))
    telemetry.delivery_seconds(name).observe(seconds)
    labels = [outcome.outcome if isinstance(outcome, errors.OrderflowError) else outcome for outcome in outcomes]
    found = set(labels)
    for label in found:
        telemetry.deliveries(name, label).inc(labels.count(label))
    if found <= _ENTRIES.keys():
        return
    waiting: dict[str, tuple[errors.Retryable, int]] = {}
    for event, outcome in zip(wanted, outcomes, strict=True):
        if isinstance(outcome, errors.Retryable):
            waiting[outcome.code] = outcome, waiting.get(outcome.code, (outcome, 0))[1] + 1
        elif isinstance(outcome, errors.OrderflowError):
            ids = {"event_id": event.event_id, "order_id": event.order_id} if isinstance(event, events.Event) else {}
            log.warning("an event was not handled", extra=_facts(name, outcome) | ids)
    for cause, count in waiting.values():
        log.warning("events must come again", extra=_facts(name, cause) | {"events": count})


def _facts(name: str, outcome: errors.OrderflowError) -> dict[str, object]:
    return {"function": name, "status": outcome.status, "code": outcome.code, "detail": problem.bounded(outcome.detail)}


def _failed(outcome: errors.OrderflowError) -> bytes:
    entry: dict[str, object] = {"status": outcome.status, "outcome": outcome.outcome, "code": outcome.code}
    entry["detail"] = problem.bounded(outcome.detail)
    if outcome.place:
        entry["place"] = problem.bounded(outcome.place, problem.PLACE_BYTES_MAX)
    if outcome.retry_after_s is not None:
        entry["retry_after_s"] = round(outcome.retry_after_s, 3)
    return msgspec.json.encode(entry)
