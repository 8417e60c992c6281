"""Which offset of a partition may be committed: the first one that is not settled, and never past it."""

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from connectors.kafka_source.record import Record

BYTES_MAX = 8 << 20  # values held in memory for one partition; one larger record is still taken


class Mark(NamedTuple):
    """An offset that may be committed, and how many of the records that arrived lie before it."""

    offset: int
    settled: int


class Partition:
    """One partition while it is assigned.

    The consumer's thread counts what arrives and what is committed, the event loop what is settled. What both look at is one
    attribute, replaced whole.
    """

    def __init__(self, topic: str, number: int, offset: int, topic_id: str | None) -> None:
        self.topic = topic
        self.number = number
        self.number_text = str(number)
        self.number_bytes = self.number_text.encode()
        self.topic_id = topic_id
        self.closed = False  # nothing more is delivered from it
        # the consumer's thread
        self.committed = Mark(offset, 0)
        self.expected = offset
        self.arrived = 0
        self.arrived_bytes = 0
        self.paused = False
        self._turn_from = 0
        self.high: int | None = None
        # the event loop
        self.mark = self.committed
        self.settled_bytes = 0
        self.lanes: dict[bytes, deque[Record] | None] = {}
        self._pending: deque[Record] = deque()
        self._position = offset

    def accept(self, record: "Record") -> None:
        """`record` is the next; offsets between it and the last are gaps (transactions, compaction)."""
        if not self._pending:
            self.mark = Mark(record.offset, self.mark.settled)
        self._pending.append(record)
        self._position = record.offset + 1

    def reached(self, offset: int) -> None:
        """The end of the partition is at `offset`: what lies before it and never arrived were gaps."""
        self._position = max(self._position, offset)
        if not self._pending:
            self.mark = Mark(self._position, self.mark.settled)

    def settle(self) -> None:
        """Some of its records are done: handled, or their letters are safe."""
        pending = self._pending
        settled = self.mark.settled
        while pending and pending[0].done:
            self.settled_bytes += pending.popleft().size
            settled += 1
        if settled != self.mark.settled:
            self.mark = Mark(pending[0].offset if pending else self._position, settled)

    def begin_turn(self) -> None:
        """Partitions are resumed: each is to bring records once before any is paused."""
        self._turn_from = self.arrived

    @property
    def had_its_turn(self) -> bool:
        """Whether it has brought records since partitions were last resumed."""
        return self.arrived > self._turn_from

    @property
    def ahead(self) -> int:
        """How many records lie between the committed offset and the newest that arrived."""
        return self.arrived - self.committed.settled

    @property
    def idle(self) -> bool:
        """Whether everything that arrived is settled."""
        return self.mark.settled == self.arrived

    @property
    def held_bytes(self) -> int:
        """The bytes of values that are not settled."""
        return self.arrived_bytes - self.settled_bytes

    def full(self, records_max: int) -> bool:
        """Whether no more should be fetched for now."""
        return self.ahead >= records_max or self.held_bytes >= BYTES_MAX

    def lag(self) -> int | None:
        """Records between the committed offset and the end, as last heard; None before that."""
        return None if self.high is None else max(0, max(self.high, self.expected) - max(self.committed.offset, 0))
