"""What came back from a function, as one of five kinds: done, the event's fault, counted, not its fault, and no answer at all."""

import email.utils
import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

DETAIL_BYTES_MAX = 1024
PLACE_CHARACTERS_MAX = 128
RETRY_AFTER_MAX_S = 3600.0
_AT_FAULT = frozenset({400, 413, 415, 422})
_AWAY = frozenset({401, 403, 404, 405, 408, 409, 429, 503})
_LOST = frozenset({502, 504})
# What one entry of a batch's results may say; anything else makes the whole answer unreadable.
_ENTRY = frozenset({200, 409, 429, 500, 503}) | _AT_FAULT
_OUTCOME_BYTES_MAX = 4096


class Kind(enum.Enum):
    """Whose fault it was."""

    DONE = "done"
    REFUSED = "refused"  # the event's fault: its letter at once
    COUNTED = "failed"  # perhaps the event's: tried again a few times
    AWAY = "away"  # not the event's fault: tried again for as long as it takes
    LOST = "no_answer"  # sent, and nothing usable came back


class Response(Protocol):
    """What is read of an HTTP response; header names are in lower case."""

    @property
    def status_code(self) -> int:
        """200, 503, …"""

    @property
    def headers(self) -> Mapping[str, str]:
        """By name."""

    @property
    def content(self) -> bytes:
        """The body."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One kind of answer, and what it said. `status` is None where nothing came back."""

    kind: Kind
    status: int | None = None
    code: str = ""
    detail: str = ""
    retry_after_s: float | None = None
    outcome: str = ""
    place: str = ""


DONE = Answer(Kind.DONE, 200, outcome="done")
DUPLICATE = Answer(Kind.DONE, 200, outcome="duplicate")
PARKED = Answer(Kind.DONE, 200, outcome="parked")  # stored by the function, behind an open letter of its key
_DONE = {answer.outcome: answer for answer in (DONE, DUPLICATE, PARKED)}


class _Entry(msgspec.Struct):
    status: int
    outcome: str | None = None
    code: str | None = None
    detail: str | None = None
    retry_after_s: float | None = None
    place: str | None = None


class _Results(msgspec.Struct):
    results: list[_Entry]


class _Outcome(msgspec.Struct):
    outcome: str | None = None


class _Problem(msgspec.Struct):
    code: str | None = None
    detail: str | None = None
    title: str | None = None
    place: str | None = None


_results = msgspec.json.Decoder(_Results)
_problem = msgspec.json.Decoder(_Problem)
_outcome = msgspec.json.Decoder(_Outcome)


def of_single(response: Response) -> Answer:
    """The answer to one event. Any 2xx is done, and one that says so a duplicate or parked."""
    answer = of(response)
    if answer is not DONE or len(response.content) > _OUTCOME_BYTES_MAX:
        return answer
    try:
        return _DONE.get(_outcome.decode(response.content).outcome or "", DONE)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return DONE


def of(response: Response) -> Answer:
    """The answer to a request as a whole."""
    status = response.status_code
    # The watchdog's own 429 (max_inflight) is no riddle: it turned the request away before the function saw it.
    if status in _LOST or ("x-openfaas-internal" in response.headers and status != 429):
        return Answer(Kind.LOST, status, "no_answer", f"the platform answered {status} in place of the function")
    if 200 <= status < 300:
        return DONE
    code, detail, place = _said(response)
    return Answer(_kind(status), status, code or f"http_{status}", detail, retry_after_s(response.headers), place=place)


def of_batch(response: Response, events: int) -> Answer | list[Answer]:
    """The answers to a batch, event by event; one answer where it holds for the whole request."""
    whole = of(response)
    if whole.kind is not Kind.DONE:
        return whole
    if response.status_code not in {200, 207}:
        return _unreadable(response.status_code, f"{response.status_code} has no results of a batch")
    try:
        entries = _results.decode(response.content).results
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        return _unreadable(response.status_code, f"the results of the batch cannot be read: {exc}")
    if len(entries) != events:
        return _unreadable(response.status_code, f"the answer has {len(entries)} results for {events} events")
    found: list[Answer] = []
    for entry in entries:
        if entry.status == 200 and entry.outcome in _DONE:
            found.append(_DONE[entry.outcome])
        elif entry.status == 200 or entry.status not in _ENTRY:
            return _unreadable(response.status_code, f"a result says {entry.status} {entry.outcome!r}, which means nothing in a batch")
        else:
            found.append(_of_entry(entry))
    return found


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds (a number or an HTTP date), bounded; None where there is none that can be read."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
    return _bounded_s(seconds)


def cut(text: str) -> str:
    """`text` within DETAIL_BYTES_MAX bytes of UTF-8."""
    return text.encode("utf-8", "replace")[:DETAIL_BYTES_MAX].decode("utf-8", "ignore")


def _kind(status: int) -> Kind:
    if status in _AT_FAULT:
        return Kind.REFUSED
    return Kind.AWAY if status in _AWAY else Kind.COUNTED


def _of_entry(entry: _Entry) -> Answer:
    after = None if entry.retry_after_s is None else _bounded_s(entry.retry_after_s)
    code = entry.code or f"http_{entry.status}"
    return Answer(_kind(entry.status), entry.status, code, cut(entry.detail or ""), after, place=(entry.place or "")[:PLACE_CHARACTERS_MAX])


def _bounded_s(seconds: float) -> float | None:
    return min(max(seconds, 0.0), RETRY_AFTER_MAX_S) if seconds == seconds else None  # noqa: PLR0124  NaN alone differs from itself


def _said(response: Response) -> tuple[str, str, str]:
    """Code, detail and place of a problem+json body; the body itself as the detail where it is none."""
    try:
        problem = _problem.decode(response.content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", cut(response.content[:DETAIL_BYTES_MAX].decode("utf-8", "replace")), ""
    return (problem.code or "")[:128], cut(problem.detail or problem.title or ""), (problem.place or "")[:PLACE_CHARACTERS_MAX]


def _unreadable(status: int, detail: str) -> Answer:
    return Answer(Kind.LOST, status, "unreadable_answer", cut(detail))
