"""The offset that may be committed, and the order of keys, under every order of answers."""

from typing import Any

from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka_source.lanes import Lanes
from connectors.kafka_source.partition import BYTES_MAX, Partition
from connectors.kafka_source.record import Record


def record(of: Partition, offset: int, key: bytes | None = None, value: bytes = b"") -> Record:
    message: Any = Message(of.topic, of.number, offset, key, value)
    of.arrived += 1
    made = Record(message, of, offset, 0.0)
    of.arrived_bytes += made.size
    return made


def settle(one: Record) -> None:
    one.done = True
    one.partition.settle()


offsets_with_gaps = st.lists(st.integers(1, 5), min_size=1, max_size=40).map(lambda steps: [sum(steps[: n + 1]) for n in range(len(steps))])


@given(offsets=offsets_with_gaps, data=st.data())
def test_the_committed_offset_never_passes_an_unsettled_record(offsets: list[int], data: st.DataObject) -> None:
    """Whatever order the answers come in: the mark is the first offset that is not settled, and the end when all are."""
    partition = Partition("t", 0, 0, None)
    records = [record(partition, offset) for offset in offsets]
    for one in records:
        partition.accept(one)
    open_offsets = set(offsets)
    for one in data.draw(st.permutations(records)):
        settle(one)
        open_offsets.discard(one.offset)
        assert partition.mark.offset == min(open_offsets, default=offsets[-1] + 1)
        assert partition.mark.settled == sum(offset < partition.mark.offset for offset in offsets)
    assert partition.idle
    assert partition.held_bytes == 0


def test_the_end_of_the_partition_covers_gaps_only_when_nothing_is_open() -> None:
    """Records that never come (transactions) count as settled once everything before them is."""
    partition = Partition("t", 0, 0, None)
    one = record(partition, 3)
    partition.accept(one)
    partition.reached(9)
    assert partition.mark.offset == 3
    settle(one)
    assert partition.mark.offset == 9
    partition.reached(12)
    assert partition.mark.offset == 12


def test_a_partition_is_full_by_records_and_by_bytes() -> None:
    """No more is fetched when too many records, or too many bytes, are held; what is settled makes room again."""
    partition = Partition("t", 0, 0, None)
    records = [record(partition, n, value=b"x" * (BYTES_MAX // 2)) for n in range(2)]
    for one in records:
        partition.accept(one)
    assert partition.full(100)
    settle(records[0])
    assert not partition.full(100)
    assert partition.full(2)
    partition.committed = partition.mark
    assert not partition.full(2)


events = st.lists(st.sampled_from([b"a", b"b", b"c", None]), max_size=40)


@given(keys=events, data=st.data())
def test_lanes_keep_the_order_of_every_key(keys: list[bytes | None], data: st.DataObject) -> None:
    """However answers come in, of a key at most one record is out, they leave in their order, and none is lost."""
    partition = Partition("t", 0, 0, None)
    lanes = Lanes(ordered=True)
    for offset, key in enumerate(keys):
        lanes.add(record(partition, offset, key))
    out: list[Record] = []
    left: list[Record] = []
    while True:
        while (one := lanes.next()) is not None:
            out.append(one)
        assert len({one.key for one in out if one.key}) == len([one for one in out if one.key])
        if not out:
            break
        done = data.draw(st.sampled_from(out))
        out.remove(done)
        if data.draw(st.booleans()):
            lanes.again([done])
            continue
        left.append(done)
        lanes.finish(done)
    assert sorted(one.offset for one in left) == list(range(len(keys)))
    for key in (b"a", b"b", b"c"):
        ours = [one.offset for one in left if one.key == key]
        assert ours == sorted(ours)


def test_O06_records_of_a_partition_that_was_taken_away_hold_up_nothing() -> None:
    """When it comes back, what waits for a retry from before is not delivered, and its key is free."""
    gone, ours = Partition("t", 0, 0, None), Partition("t", 0, 0, None)
    lanes = Lanes(ordered=True)
    in_backoff = record(gone, 0, b"k")
    lanes.add(in_backoff)
    assert lanes.next() is in_backoff
    lanes.add(record(gone, 1, b"k"))
    lanes.add(record(gone, 2, b"other"))
    kept = record(ours, 0, b"k")
    lanes.add(kept)
    gone.closed = True
    assert lanes.next() is kept
    lanes.again([in_backoff])
    assert lanes.next() is None
