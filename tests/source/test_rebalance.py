"""Two sources of one group: partitions change hands without loss, and with nothing handled twice that was handled in time."""

import collections
import threading
from collections.abc import Iterator

import pytest

from tests import stack
from tests.source import sinks
from tests.source.conftest import Group, RunningSource, StartSource

PARTITIONS = 4
PROTOCOLS = ["classic", "consumer"]


@pytest.fixture
def wide(group: Group, make_topic: object) -> Group:
    """A group whose topic has four partitions."""
    group.topic = make_topic(partitions=PARTITIONS)  # type: ignore[operator]
    return group


@pytest.fixture
def trickle(wide: Group) -> Iterator[list[int]]:
    """Records that keep coming into all partitions; their numbers so far."""
    numbers: list[int] = []
    end = threading.Event()

    def produce() -> None:
        while not end.is_set():
            for partition in range(PARTITIONS):
                first = len(numbers)
                wide.produce(*(b'{"n": %d}' % n for n in range(first, first + 10)), partition=partition)
                numbers.extend(range(first, first + 10))
            end.wait(0.05)  # the function keeps pace, so that what is waited for comes soon

    thread = threading.Thread(target=produce)
    thread.start()
    yield numbers
    end.set()
    thread.join()


def owns(source: RunningSource) -> set[int]:
    return set(source.status()["partitions"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_D01_a_rebalance_loses_nothing_and_repeats_next_to_nothing(
    wide: Group, trickle: list[int], start_source: StartSource, protocol: str
) -> None:
    """A second source joins under load, the first leaves: every event is handled; what was in flight at the change was waited for."""
    wide.sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, after_s=0.02))
    settings = {"kafka_group_protocol": protocol}
    first = start_source(wide, size=20, flight=2, settings=settings)
    stack.eventually(lambda: len(owns(first)) == PARTITIONS, "all partitions")
    second = start_source(wide, size=20, flight=2, settings=settings)
    stack.eventually(lambda: owns(first) and owns(second) and owns(first) | owns(second) == set(range(PARTITIONS)), "shared partitions")
    assert not owns(first) & owns(second)
    first.stop()
    stack.eventually(lambda: len(owns(second)) == PARTITIONS, "all partitions of the second")
    produced = len(trickle)
    stack.eventually(lambda: {event.json["n"] for event in wide.sink.events} >= set(range(produced)), "every event")
    times = collections.Counter(event.json["n"] for event in wide.sink.events)
    repeated = sum(n - 1 for n in times.values())
    assert repeated <= 2 * 20 * 2, f"{repeated} of {len(times)}"  # no more than two hand-overs can have in flight


def test_L03_a_revoke_waits_for_what_is_in_flight_and_commits_it(wide: Group, start_source: StartSource) -> None:
    """The new owner begins behind what the old one, which goes on, had in flight at the revoke."""
    wide.sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, after_s=3.0))
    for partition in range(PARTITIONS):
        wide.produce(b"1", partition=partition)
    settings = {"shutdown_timeout": 20.0}
    first = start_source(wide, flight=PARTITIONS, settings=settings)
    stack.eventually(lambda: len(wide.sink.events) == PARTITIONS, "all in flight")
    second = start_source(wide, settings=settings)
    stack.eventually(lambda: len(owns(first)) == len(owns(second)) == PARTITIONS // 2, "shared partitions")
    for partition in range(PARTITIONS):
        wide.wait_committed(1, partition)
    assert len(wide.sink.events) == PARTITIONS


def test_O06_a_rebalance_during_a_backoff(wide: Group, start_source: StartSource) -> None:
    """Events wait for their retry when partitions change hands: each is delivered by its new owner, and none is stuck."""
    failing = threading.Event()
    failing.set()
    wide.sink.script = sinks.each(lambda _: sinks.Reply(500) if failing.is_set() else sinks.OK)
    for partition in range(PARTITIONS):
        wide.produce(b'{"n": 0}', b'{"n": 1}', key=b"same", partition=partition)
    first = start_source(wide, backoffDelay="PT1S", retry=5, flight=PARTITIONS)
    stack.eventually(lambda: wide.sink.events, "a failure")
    second = start_source(wide, backoffDelay="PT1S", retry=5, flight=PARTITIONS)
    stack.eventually(lambda: owns(first) and owns(second), "shared partitions")
    failing.clear()
    for partition in range(PARTITIONS):
        wide.wait_committed(2, partition)
    for partition in range(PARTITIONS):
        order = [event.json["n"] for event in wide.sink.events if event.attributes["knativekafkapartition"] == str(partition)]
        assert order[-1] == 1
        assert 1 not in order[:-1]
    assert wide.failed == []


def test_a_revoke_does_not_wait_for_ever(wide: Group, start_source: StartSource) -> None:
    """A request that outlives SHUTDOWN_TIMEOUT does not hold the partition: it is let go uncommitted and comes again."""
    wide.sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, after_s=3600.0))
    wide.produce(b"1")
    first = start_source(wide, settings={"shutdown_timeout": 0.5})
    stack.eventually(lambda: len(wide.sink.events) == 1, "the event in flight")
    first.stop()
    assert wide.committed() in {None, 0}
    wide.sink.script = sinks.each(lambda _: sinks.OK)
    start_source(wide)
    wide.wait_committed(1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_partition_that_was_lost_while_paused_flows_when_it_comes_back(wide: Group, start_source: StartSource, protocol: str) -> None:
    """Kafka's client remembers the pause of a partition beyond its revoke; who gets the partition again wants its records."""
    settings = {"kafka_group_protocol": protocol}
    first = start_source(wide, settings=settings)
    stack.eventually(lambda: len(owns(first)) == PARTITIONS, "all partitions")
    first.call(lambda service: service.pause("a test"))
    partitions = first.service.reader.assignment.partitions
    stack.eventually(lambda: all(partition.paused for partition in partitions.values()), "all to be paused")
    second = start_source(wide, settings=settings)
    stack.eventually(lambda: len(owns(first)) == len(owns(second)) == PARTITIONS // 2, "shared partitions")
    first.call(lambda service: service.resume())
    second.stop()
    stack.eventually(lambda: len(owns(first)) == PARTITIONS, "all partitions again")
    for partition in range(PARTITIONS):
        wide.produce(b"1", partition=partition)
    for partition in range(PARTITIONS):
        wide.wait_committed(1, partition)
