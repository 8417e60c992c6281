"""When nearly everything fails, the fault is hardly the events': the source pauses before it writes the next letter.

It trips when BREAKER_CONSECUTIVE_MAX records in a row, or the part BREAKER_RATIO_MAX of the last BREAKER_WINDOW_RECORDS settled ones,
would become letters; 0 turns a rule off. The record whose letter tripped it is the probe: it is sent again, alone and with capped
backoff, and when it passes the source goes on. A letter that KAFKA_UNAVAILABLE_MAX asks for is neither counted nor stopped: it is
wanted. What is counted lives in memory: a source that was killed counts again from zero.
"""

import logging
from collections import deque

from connectors.kafka_source import metrics, outage
from connectors.kafka_source.answers import Answer
from connectors.kafka_source.record import Record
from shared.config import Settings

log = logging.getLogger(__name__)


class Breaker:
    """The breaker of one source."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.reason: str | None = None
        self.probe: Record | None = None
        self.probe_at = 0.0
        self.accepted = 0  # letters that are let through, whatever the rules say
        self.in_a_row = 0
        self._waiting: Record | None = None  # the probe, while it is not on its way
        self._failures = 0
        self._passed_in_a_row = 0
        self._name = name
        self._consecutive_max = settings.breaker_consecutive_max
        self._ratio_max = settings.breaker_ratio_max
        self._window: deque[bool] = deque(maxlen=settings.breaker_window_records)
        self._letters = 0  # of the window
        self._forget_after = max(settings.breaker_consecutive_max, settings.breaker_window_records)

    @property
    def pending(self) -> bool:
        """Whether the probe is still ours: it waits, is on its way, or waits for the function's health."""
        return self.probe is not None and not self.probe.partition.closed

    @property
    def open(self) -> bool:
        """Whether the source is paused by it, and only the probe is sent."""
        return self.reason is not None

    def passed(self, records: int) -> None:
        """So many records were settled without a letter."""
        if not records:
            return
        self.in_a_row = 0
        self._passed_in_a_row += records
        if self._passed_in_a_row >= self._forget_after:
            self.accepted = 0  # what is left of it was meant for a trouble that is over
        if self._letters or len(self._window) < (self._window.maxlen or 0):
            for _ in range(min(records, self._window.maxlen or 0)):
                self._settled(letter=False)

    def lets(self, record: Record, answer: Answer) -> bool:
        """Whether `record`, which failed for good with `answer`, gets its letter now. If not, the source is paused."""
        if self.open:
            return False
        if self.accepted:
            self.accepted -= 1
        elif (rule := self._broken()) is not None:
            self.reason = f"breaker: {rule} would become letters ({answer.code}: {answer.detail})"[:300]
            self.probe, self._failures = record, 0
            metrics.breaker_trips.labels(self._name).inc()
            log.error(
                "paused before the next letter, whose record is tried again: mend what fails, or `orderflow sources resume` it",
                extra={"source": self._name, "reason": self.reason},
            )
            return False
        self.in_a_row += 1
        self._passed_in_a_row = 0
        self._settled(letter=True)
        return True

    def hold(self, record: Record, now: float, retry_after_s: float | None = None) -> float:
        """The probe did not pass, or has just become one. How long until it is sent again."""
        self._failures += 1
        wait_s = outage.backoff_s(self._failures, retry_after_s)
        self.probe = self._waiting = record
        self.probe_at = now + wait_s
        return wait_s

    def may_probe(self, now: float) -> bool:
        """Whether it is time for the probe, or for another one because that one is not ours any more."""
        return now >= self.probe_at and (self._waiting is not None or not self.pending)

    def take(self) -> Record | None:
        """The probe, which is now on its way; None when it is not ours any more, and another is to be `sent` in its place."""
        record, self._waiting = self._waiting, None
        return None if record is None or record.partition.closed else record

    def sent(self, record: Record) -> None:
        """`record` is the probe now, and on its way."""
        self.probe = record

    def gone(self, record: Record) -> None:
        """`record` is settled otherwise; if it was the probe, another takes its place."""
        if record is self.probe:
            self.probe = self._waiting = None

    def close(self, accept_letters: int | None = None) -> Record | None:
        """Go on, by hand: with every count at zero, or with them as they are and so many letters let through. What waited as the probe."""
        if accept_letters is not None:
            self.accepted = accept_letters
        else:
            self._reset()
        record, self._waiting = self._waiting, None
        self.reason = self.probe = None
        self.probe_at = 0.0
        return None if record is None or record.partition.closed else record

    def over(self) -> None:
        """The probe passed: go on, with every count at zero."""
        log.info("resumed: the probe passed", extra={"source": self._name})
        self.close()

    def status(self) -> dict[str, object]:
        """What `GET /sources` says of it."""
        return {"open": self.open, "letters_in_a_row": self.in_a_row, "letters_in_window": self._letters, "accept_letters": self.accepted}

    def _broken(self) -> str | None:
        """The rule that one more letter would break."""
        if self._consecutive_max and self.in_a_row + 1 >= self._consecutive_max:
            return f"{self.in_a_row + 1} in a row"
        size = self._window.maxlen
        if not size or not self._ratio_max or len(self._window) < size - 1:
            return None
        leaving = len(self._window) == size and self._window[0]
        letters = self._letters + 1 - leaving
        return f"{letters} of the last {size}" if letters >= self._ratio_max * size else None

    def _settled(self, *, letter: bool) -> None:
        if self._window.maxlen:
            if len(self._window) == self._window.maxlen:
                self._letters -= self._window[0]
            self._window.append(letter)
            self._letters += letter

    def _reset(self) -> None:
        self.in_a_row = self._letters = self._passed_in_a_row = 0
        self._window.clear()
