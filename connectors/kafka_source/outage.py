"""When a dependency is away: after a second of nothing else the source pauses, and probes with one event at a time.

It resumes on the first other answer.
"""

import asyncio
import random
import time
from collections.abc import Callable

PAUSE_AFTER_S = 1.0
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 5.0


def backoff_s(n: int, retry_after_s: float | None) -> float:
    """How long to wait after the nth answer in a row (from 1) that was nobody's fault: doubling, capped, jittered; at least Retry-After."""
    wait = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(n - 1, 30))
    return max(retry_after_s or 0.0, wait * random.uniform(0.5, 1.0))  # noqa: S311  jitter


def call_at(moment: float, then: Callable[[], None]) -> None:
    """Call `then` in this event loop when `moment` has come by time.monotonic().

    A loop counts in milliseconds of its own, so a timer may come a little early: whoever then asked the clock would do nothing, for ever.
    """
    asyncio.get_running_loop().call_later(moment - time.monotonic(), _due, moment, then)


def _due(moment: float, then: Callable[[], None]) -> None:
    if time.monotonic() < moment:
        asyncio.get_running_loop().call_later(0.001, _due, moment, then)
    else:
        then()


class Outage:
    """Since when nothing but "not the event's fault" has come back."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.paused_at: float | None = None
        self.reason: str | None = None
        self.probe_at = 0.0
        self._failures = 0

    @property
    def paused(self) -> bool:
        """Whether only probes are sent."""
        return self.paused_at is not None

    def failed(self, now: float, reason: str) -> bool:
        """Another such answer. True when the source pauses because of it."""
        if self.since is None:
            self.since = now
        self.reason = reason
        if self.paused or now - self.since < PAUSE_AFTER_S:
            return False
        self.paused_at = now
        return True

    def wait_s(self, now: float, retry_after_s: float | None) -> float:
        """How long until the next probe, which is then set."""
        self._failures += 1
        wait = backoff_s(self._failures, retry_after_s)
        self.probe_at = now + wait
        return wait

    def over(self, now: float) -> float | None:
        """Another answer came. How long the source was paused, if it was."""
        paused_s = None if self.paused_at is None else now - self.paused_at
        self.since = self.paused_at = self.reason = None
        self._failures, self.probe_at = 0, 0.0
        return paused_s
