"""The event's fault, and what counts: how often, how late, and what the letter says."""

import itertools

import pytest

from tests import stack
from tests.source import sinks
from tests.source.conftest import Group, StartSource


@pytest.mark.parametrize("status", [415, 422])
def test_a_refusal_is_dead_lettered_at_once(group: Group, start_source: StartSource, status: int) -> None:
    """What is the event's fault is tried once."""
    group.sink.script = sinks.each(lambda _: sinks.Reply(status, {"code": "no", "detail": "never"}))
    group.produce(b"1")
    start_source(group)
    group.wait_committed(1)
    assert len(group.sink.requests) == 1
    assert [(letter["status"], letter["reason"], letter["attempts"]) for letter in group.failed] == [(status, "refused", 1)]


@pytest.mark.parametrize("status", [500, 302])
def test_O09_what_counts_is_tried_four_times(group: Group, start_source: StartSource, status: int) -> None:
    """500, and every answer without a meaning of its own: the first try and 3 more, then the letter."""
    group.sink.script = sinks.each(lambda _: sinks.Reply(status, b"<html>oops</html>"))
    group.produce(b"1")
    start_source(group)
    group.wait_committed(1)
    assert len(group.sink.requests) == 4
    (letter,) = group.failed
    assert (letter["status"], letter["reason"], letter["attempts"]) == (status, "out_of_retries", 4)
    assert (letter["code"], letter["detail"]) == (f"http_{status}", "<html>oops</html>")


def test_retries_wait_1_2_and_4_seconds(group: Group, start_source: StartSource) -> None:
    """PT0.5S, exponential: the retries come no earlier than 1 s, 2 s and 4 s after the answer before."""
    group.sink.script = sinks.each(lambda _: sinks.Reply(500))
    group.produce(b"1")
    start_source(group, backoffDelay="PT0.5S")
    group.wait_committed(1)
    times = [request.at for request in group.sink.requests]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert [wait >= least for wait, least in zip(waits, (1, 2, 4), strict=True)] == [True] * 3, waits


def test_the_environment_sets_tries_and_waits(group: Group, start_source: StartSource) -> None:
    """KAFKA_RETRY_MAX_ATTEMPTS and KAFKA_RETRY_BACKOFF_BASE come before the manifest."""
    group.sink.script = sinks.each(lambda _: sinks.Reply(500))
    group.produce(b"1")
    source = start_source(group, settings={"kafka_retry_max_attempts": 1, "kafka_retry_backoff_base": 0.3})
    group.wait_committed(1)
    first, second = group.sink.requests
    assert second.at - first.at >= 0.3
    assert source.service.source.retries == 1


def test_one_bad_event_of_a_batch_does_not_hurt_its_neighbours(group: Group, start_source: StartSource) -> None:
    """Each event of a batch has its own answer: one is refused, one fails for good, the rest are handled once."""
    answers = {3: sinks.refuse(), 5: sinks.Reply(500, {"code": "bug", "detail": "broken"})}
    group.sink.script = sinks.each(lambda event: answers.get(event.json["n"], sinks.OK))
    group.produce(*(b'{"n": %d}' % n for n in range(10)))
    start_source(group, size=10)
    group.wait_committed(10)
    assert sorted((letter["offset"], letter["reason"], letter["attempts"]) for letter in group.failed) == [
        (3, "refused", 1),
        (5, "out_of_retries", 4),
    ]
    assert sorted(group.sink.offsets) == sorted([*range(10), 5, 5, 5])


def test_O01_a_failing_event_keeps_the_order_of_its_key(group: Group, start_source: StartSource) -> None:
    """While the first event of a key is tried again the second waits; another key passes."""
    failures = iter(range(2))
    group.sink.script = sinks.each(
        lambda event: sinks.Reply(500) if event.json["n"] == 0 and next(failures, None) is not None else sinks.OK
    )
    group.produce(b'{"n": 0}', b'{"n": 1}', key=b"a")
    group.produce(b'{"n": 2}', key=b"b")
    start_source(group, flight=2, backoffDelay="PT0.2S")
    group.wait_committed(3)
    order = [event.json["n"] for event in group.sink.events]
    assert [n for n in order if n != 2] == [0, 0, 0, 1]
    assert order.index(2) < len(order) - 1


def test_a_batch_answered_413_is_halved(group: Group, start_source: StartSource) -> None:
    """A batch that is too large as a whole is sent in parts; no event gets a letter for its neighbours' size."""
    group.sink.script = lambda request: sinks.Reply(413) if len(request.events) > 3 else sinks.each(lambda _: sinks.OK)(request)
    group.produce(*(b'{"n": %d}' % n for n in range(20)))
    start_source(group, size=20)
    group.wait_committed(20)
    assert group.failed == []


def test_a_batch_answered_400_is_halved_to_the_one_that_broke_it(group: Group, start_source: StartSource) -> None:
    """A whole-batch 400 may be one event's fault: it alone gets a letter."""

    def script(request: sinks.Request) -> sinks.Reply:
        broken = any(event.json["n"] == 7 for event in request.events)
        return sinks.Reply(400, {"code": "not_a_cloudevent"}) if broken else sinks.each(lambda _: sinks.OK)(request)

    group.sink.script = script
    group.produce(*(b'{"n": %d}' % n for n in range(16)))
    start_source(group, size=16)
    group.wait_committed(16)
    assert [letter["offset"] for letter in group.failed] == [7]


def test_a_function_without_batches_gets_single_events(group: Group, start_source: StartSource) -> None:
    """415 to a batch means that the function takes none: its events are sent one by one, in binary mode."""
    group.sink.script = lambda request: sinks.Reply(415) if request.batch else sinks.OK
    group.produce(*(b'{"n": %d}' % n for n in range(6)))
    start_source(group, size=6, flight=2)
    group.wait_committed(6)
    assert group.failed == []
    assert len([request for request in group.sink.requests if request.batch]) <= 2


def test_a_whole_batch_that_fails_with_500_finds_its_culprit(group: Group, start_source: StartSource) -> None:
    """A function that answers 500 for a batch because of one event: only that one is dead-lettered."""

    def script(request: sinks.Request) -> sinks.Reply:
        broken = any(event.json["n"] == 7 for event in request.events)
        return sinks.Reply(500) if broken else sinks.each(lambda _: sinks.OK)(request)

    group.sink.script = script
    group.produce(*(b'{"n": %d}' % n for n in range(16)))
    start_source(group, size=16)
    group.wait_committed(16)
    assert [(letter["offset"], letter["reason"]) for letter in group.failed] == [(7, "out_of_retries")]
    stack.eventually(lambda: group.sink.in_flight == 0, "nothing in flight")
