"""When a worker looks at the outbox, and from where on: one at a time, while the others wait for Kafka."""

import threading
import time
from collections.abc import Callable

from connectors.outbox_relay.rows import START, Position

# How often a look at the oldest rows interrupts a walk through a long queue: less and less while it finds nothing there to claim.
FRONT_INTERVAL_S, FRONT_INTERVAL_MAX_S = 0.1, 1.0


class Schedule:
    """A look begins at the oldest row. Where it left rows behind, the next goes on from there: a walk, so that thousands of rows that
    wait behind a failed one are passed once in a while and not each time. Only a look at the oldest finds rows that committed late.
    """

    def __init__(self, sweep_interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sweep_interval_s = sweep_interval_s
        self._change = threading.Condition()
        self._taken = False
        self._wanted = True
        self._beyond: Position | None = None
        self._interrupted = False
        self._front_at = 0.0
        self._front_interval_s = FRONT_INTERVAL_S
        self._look_at = 0.0
        self._kafka_away = False
        self._ended = False

    def wake(self) -> None:
        """Rows may be there: look soon."""
        with self._change:
            self._wanted = True
            self._change.notify()

    def turn(self) -> Position | None:
        """Wait for this worker's turn to look. Where to start, or None when the relay ends. `done` must follow."""
        with self._change:
            while not self._ended:
                now = self._clock()
                if now >= self._look_at:
                    self._wanted = True
                if not self._taken and not self._kafka_away and (self._wanted or self._beyond):
                    return self._take(now)
                self._change.wait(None if self._taken or self._kafka_away else max(0.0, self._look_at - now))
            return None

    def done(self, beyond: Position | None, *, look_in_s: float | None = None, found: bool = True) -> None:
        """The look is over, and `found` something: it left rows at `beyond`, or saw all, and then the next row is due in `look_in_s`."""
        with self._change:
            self._taken = False
            if self._interrupted:
                self._front_interval_s = FRONT_INTERVAL_S if found else min(self._front_interval_s * 2, FRONT_INTERVAL_MAX_S)
            if not (self._interrupted and beyond):
                self._beyond = beyond
            if look_in_s is not None:
                self._look_at = min(self._look_at, self._clock() + look_in_s)
            self._change.notify()

    def kafka_away(self) -> bool:
        """Nobody looks until `kafka_back`. Whether this call made it so: then the caller must find out when Kafka is back."""
        with self._change:
            first, self._kafka_away = not self._kafka_away, True
            return first

    def kafka_back(self) -> None:
        """Look again."""
        with self._change:
            self._kafka_away, self._wanted = False, True
            self._change.notify_all()

    def end(self) -> None:
        """No more turns."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    @property
    def ended(self) -> bool:
        """Whether the relay is to end."""
        return self._ended

    @property
    def is_kafka_away(self) -> bool:
        """Whether nobody looks because Kafka is away."""
        return self._kafka_away

    def _take(self, now: float) -> Position:
        self._taken = True
        front = self._wanted and now - self._front_at >= self._front_interval_s
        self._interrupted = front and self._beyond is not None
        if self._beyond and not front:
            return self._beyond
        self._wanted = False
        self._front_at = now
        self._look_at = now + self._sweep_interval_s
        return START
