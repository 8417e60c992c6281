"""Order per key: of each key of a partition at most one record is ready or on its way; the others wait in its lane.

Lanes belong to their partition: when it is taken away they go with it, and what still waits for a retry holds up nobody.
"""

from collections import deque
from collections.abc import Iterable

from connectors.kafka_source.record import Record


class Lanes:
    """What is ready to be sent, oldest first. Records without a key have no order; nor has anything when `ordered` is false."""

    def __init__(self, *, ordered: bool) -> None:
        self.ready: deque[Record] = deque()
        self._ordered = ordered

    def add(self, record: Record) -> None:
        """`record` has arrived."""
        key = record.key
        if key is None or not self._ordered:
            self.ready.append(record)
            return
        waiting = record.partition.lanes
        if key not in waiting:
            waiting[key] = None
            self.ready.append(record)
            return
        lane = waiting[key]
        if lane is None:
            lane = waiting[key] = deque()
        lane.append(record)

    def finish(self, record: Record) -> None:
        """`record` is settled: the next of its key is ready."""
        key = record.key
        if key is None or not self._ordered:
            return
        waiting = record.partition.lanes
        lane = waiting[key]
        if lane:
            self.ready.append(lane.popleft())
        else:
            del waiting[key]

    def again(self, records: Iterable[Record]) -> None:
        """`records`, which were taken, are ready once more, before all others."""
        self.ready.extendleft(reversed(list(records)))

    def next(self) -> Record | None:
        """The next record whose partition is still ours."""
        while self.ready:
            record = self.ready.popleft()
            if not record.partition.closed:
                return record
        return None
