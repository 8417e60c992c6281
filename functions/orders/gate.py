"""How much one process of orders takes on: so many requests at once, so many a second. What is beyond is told at once to come again.

Two numbers and a moment, whoever asks and however often. It knows no client from another: that is for the gateway before it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

from shared import errors
from shared.config import Settings


class Gate:
    """The limits of this process."""

    def __init__(self, settings: Settings, now: Callable[[], float] = time.monotonic) -> None:
        self._at_once_max, self._at_work = settings.orders_concurrent_requests_max, 0
        self._per_second = settings.orders_requests_per_second_max
        # As many as come in a second, unless it is said: a client that sends its second's worth at its beginning is no flood.
        self._burst_max = settings.orders_burst_requests_max or max(1, round(self._per_second or 1))
        self._now = now
        self._left, self._left_at = float(self._burst_max), now()

    def admit(self) -> None:
        """Let a request begin to be read. Raises Overloaded."""
        self._demand_place()
        if self._per_second is None:
            return
        now = self._now()
        self._left = min(self._burst_max, self._left + (now - self._left_at) * self._per_second)
        self._left_at = now
        if self._left < 1:
            until_next_s = (1 - self._left) / self._per_second
            raise errors.Overloaded(
                f"more than {self._per_second:g} requests a second arrive here", code="too_many_requests", retry_after_s=until_next_s
            )
        self._left -= 1

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """A request that was read whole, while it is worked on: who is slow to send takes nobody's place. Raises Overloaded."""
        self._demand_place()
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    def _demand_place(self) -> None:
        if self._at_work >= self._at_once_max:
            raise errors.Overloaded(f"{self._at_once_max} requests are worked on here already", code="too_many_at_once")
