"""A request that was sent and got no answer: health first, then it counts, and halving finds the culprit."""

import itertools
import time

import pytest

from tests import stack
from tests.source import sinks, test_envelope
from tests.source.conftest import Group, StartSource

NO_ANSWERS = {
    "closed": sinks.CLOSE,
    "502": sinks.Reply(502),
    "504": sinks.Reply(504),
    "openfaas": sinks.Reply(500, b"Can't reach service", {"X-OpenFaaS-Internal": "proxy"}),
    "hangs": sinks.Reply(200, {"outcome": "done"}, after_s=30),
}


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_no_answer_is_tried_four_times_and_then_a_letter(group: Group, start_source: StartSource, kind: str) -> None:
    """An event to which no answer ever comes gets its letter after as many tries as one that fails, each after a healthy GET /health."""
    reply = NO_ANSWERS[kind]
    group.sink.script = lambda request: reply
    group.produce(b"1")
    start_source(group, timeout="PT0.5S" if kind == "hangs" else "PT10S")
    group.wait_committed(1)
    assert len(group.sink.requests) == 4
    tried = [request.at for request in (*group.sink.requests, *group.letters.requests)]
    between = [[at for at in group.sink.health_checks if before < at < after] for before, after in itertools.pairwise(tried)]
    assert [True] * 4 == [bool(checks) for checks in between]
    (letter,) = group.failed
    assert (letter["reason"], letter["attempts"]) == ("out_of_retries", 4)
    assert letter["status"] == (reply.status if kind in {"502", "504", "openfaas"} else None)


def test_nothing_is_sent_again_before_health_answers(group: Group, start_source: StartSource) -> None:
    """While GET /health does not answer 200 nothing is sent, and the outage costs one try at most."""
    group.sink.healthy = False
    group.sink.script = lambda request: sinks.CLOSE
    group.produce(b"1", b"2", b"3")
    source = start_source(group, retry=1, flight=2)
    stack.eventually(lambda: len(group.sink.health_checks) >= 4, "health checks")
    sent = len(group.sink.requests)
    source.wait_state("paused", "probing")
    assert sent == len(group.sink.requests) <= 2
    group.sink.script = sinks.each(lambda _: sinks.OK)
    group.sink.healthy = True
    group.wait_committed(3)
    assert group.failed == []


def test_D11_a_function_that_dies_of_one_event_of_a_batch(group: Group, start_source: StartSource) -> None:
    """Whichever batch holds the event dies with the function; halves find it, it gets its letter, all others are handled."""
    group.sink.script = sinks.each(lambda event: sinks.CLOSE if event.json["n"] == 77 else sinks.OK)
    group.produce(*(b'{"n": %d}' % n for n in range(120)))
    start_source(group, size=100, flight=2)
    group.wait_committed(120)
    assert [(letter["offset"], letter["reason"], letter["status"]) for letter in group.failed] == [(77, "out_of_retries", None)]
    alone = [request for request in group.sink.requests if [event.offset for event in request.events] == [77]]
    assert len(alone) == 3
    assert group.sink.in_flight == 0


def test_a_suspect_is_sent_alone(group: Group, start_source: StartSource) -> None:
    """Those that may have killed the function go one at a time, with nothing beside them, so that none is blamed for another."""
    tried: list[int] = []  # how many requests were in flight when the culprit came in
    beside: list[int] = []  # requests that came in while a suspected culprit was in flight

    def script(request: sinks.Request) -> sinks.Reply:
        if any(event.json["n"] == 5 for event in request.events):
            tried.append(group.sink.in_flight)
            return sinks.Reply(0, after_s=0.3)
        suspected = [other for other in group.sink.open if other is not request and other.events[0].json["n"] == 5]
        if len(tried) > 1 and suspected:
            beside.append(request.events[0].json["n"])
        return sinks.Reply(200, {"outcome": "done"}, after_s=0.02)

    group.sink.script = script
    group.produce(*(b'{"n": %d}' % n for n in range(12)))
    start_source(group, flight=4)
    while not group.failed:
        group.produce(b'{"n": 100}', b'{"n": 101}')
        time.sleep(0.05)
    group.wait_committed(group.end())
    assert [letter["offset"] for letter in group.failed] == [5]
    assert tried[1:] == [1, 1, 1]
    assert beside == []


@pytest.mark.parametrize("kind", ["too short", "null entry", "not JSON"])
def test_L20_a_malformed_answer_to_a_batch_acknowledges_nothing(group: Group, start_source: StartSource, kind: str) -> None:
    """Nothing of a batch whose results cannot be read is taken for done; all of it is sent again."""
    malformed = iter([sinks.Reply(200, test_envelope.MALFORMED[kind])])
    group.sink.script = lambda request: (next(malformed, None) if request.batch else None) or sinks.each(lambda _: sinks.OK)(request)
    group.produce(*(b'{"n": %d}' % n for n in range(4)))
    start_source(group, size=4)
    group.wait_committed(4)
    stack.eventually(lambda: sorted(group.sink.offsets) == sorted([*range(4)] * 2), "every event twice")
    assert group.failed == []


def test_a_202_without_results_acknowledges_no_batch(group: Group, start_source: StartSource) -> None:
    """202 and 204 are done for one event, but say nothing of the events of a batch."""
    group.sink.script = lambda request: sinks.Reply(202)
    group.produce(*(b'{"n": %d}' % n for n in range(4)))
    start_source(group, size=4)
    group.wait_committed(4)
    assert sorted(group.sink.offsets) == sorted([*range(4)] * 3)  # as four, as two, alone
    assert group.failed == []


def test_an_idle_connection_that_the_function_closed_costs_no_try(group: Group, start_source: StartSource) -> None:
    """A request after a pause longer than a server keeps connections open is made on a new one."""
    group.produce(b"1")
    start_source(group, retry=0)
    group.wait_committed(1)
    time.sleep(1.5)
    group.sink.stop()
    group.sink.start()
    group.produce(b"2")
    group.wait_committed(2)
    assert group.sink.health_checks == []
    assert group.failed == []


def test_what_waits_goes_on_when_all_that_got_no_answer_became_letters_meanwhile(group: Group, start_source: StartSource) -> None:
    """Health is back, and nothing is left of what was lost: what was ready all the time is sent, without anything new."""
    group.sink.healthy = False
    group.sink.script = lambda request: sinks.CLOSE
    group.produce(b"1")
    start_source(group, flight=1, settings={"kafka_unavailable_max": 1.0})
    stack.eventually(lambda: bool(group.sink.requests), "the request that gets no answer")
    group.sink.script = sinks.each(lambda _: sinks.OK)
    stack.eventually(lambda: bool(group.failed), "the letter of what was lost")
    group.produce(b"2")
    stack.eventually(lambda: len(group.sink.health_checks) >= 4, "looks at health")
    group.sink.healthy = True
    group.wait_committed(2)
    assert [(letter["offset"], letter["reason"]) for letter in group.failed] == [(0, "dependency_away")]
