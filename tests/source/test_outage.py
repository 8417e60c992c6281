"""Not the event's fault: tried for as long as it takes, paused, probed, resumed."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests import stack
from tests.source import sinks
from tests.source.conftest import Group, StartSource


@pytest.mark.parametrize("status", [401, 409, 503])  # test_every_status_is_of_one_kind has them all
def test_L16_what_is_not_the_events_fault_is_never_a_letter(group: Group, start_source: StartSource, status: int) -> None:
    """More failures than there are retries, then an answer: handled, and no letter."""
    answers = iter([sinks.Reply(status)] * 5)
    group.sink.script = sinks.each(lambda _: next(answers, sinks.OK))
    group.produce(b"1")
    start_source(group, retry=1)
    group.wait_committed(1)
    assert len(group.sink.requests) == 6
    assert group.failed == []


def test_L16_a_function_that_is_away_costs_nothing(group: Group, start_source: StartSource) -> None:
    """Connections are refused for longer than all retries would take; then everything is handled once, without a letter."""
    group.sink.stop()
    group.produce(*(b'{"n": %d}' % n for n in range(20)))
    source = start_source(group, size=5, flight=2, retry=1)
    source.wait_state("paused", "probing")
    assert "cannot be reached" in source.status()["reason"]
    group.sink.start()
    group.wait_committed(20)
    assert sorted(group.sink.offsets) == list(range(20))
    assert group.failed == []


def test_a_batch_answered_503_holds_for_every_event_of_it(group: Group, start_source: StartSource) -> None:
    """A whole-batch 503 and a whole-batch 401 are tried again as they are, with no letter and no try counted."""
    answers = iter([sinks.away(), sinks.Reply(401), sinks.Reply(404), sinks.away()])
    group.sink.script = lambda request: next(answers, None) or sinks.each(lambda _: sinks.OK)(request)
    group.produce(*(b'{"n": %d}' % n for n in range(10)))
    start_source(group, size=10, retry=0)
    group.wait_committed(10)
    assert group.failed == []


def test_pause_probe_and_recovery(group: Group, start_source: StartSource) -> None:
    """After a second of 503 the source pauses and sends one event at a time; the first other answer ends that."""
    group.sink.script = lambda request: sinks.away()
    group.produce(*(b'{"n": %d}' % n for n in range(50)))
    source = start_source(group, size=10, flight=4)
    reason = source.wait_state("paused", "probing")["reason"]
    assert "503" in reason
    assert "database is away" in reason
    stack.eventually(lambda: source.metric("orderflow_source_requests_total", status="503") > 0, "the metric")
    # A probe is sent when nothing else is in flight: from the first one on there are no batches.
    seen = threading.Event()
    group.sink.script = lambda request: dataclasses.replace(sinks.away(), until=seen.is_set)
    stack.eventually(lambda: source.service.pump.probing, "a probe")
    first = len(group.sink.requests)
    group.sink.in_flight_max = 0
    seen.set()
    stack.eventually(lambda: len(group.sink.requests) >= first + 3, "more probes")
    probes = group.sink.requests[first:]
    assert [len(request.events) for request in probes] == [1] * len(probes)
    assert group.sink.in_flight_max == 1
    group.sink.script = sinks.each(lambda _: sinks.OK)
    group.wait_committed(50)
    assert source.status()["state"] == "running"
    assert source.metric("orderflow_source_paused_seconds_total") > 0
    assert group.failed == []


class _EarlyLoop(asyncio.SelectorEventLoop):
    """Its timers come 20 ms early. uvloop's do by 1 ms, now and then: it counts in whole milliseconds."""

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return super().call_later(max(0.0, delay - 0.02), callback, *args, context=context)


def test_a_timer_that_comes_early_ends_no_probing(group: Group, start_source: StartSource) -> None:
    """Nothing but the timer wakes a paused source. If it looks before it is time, it looks again."""
    group.sink.script = lambda request: sinks.away()
    group.produce(*(b'{"n": %d}' % n for n in range(5)))
    source = start_source(group, loop=_EarlyLoop())
    source.wait_state("paused", "probing")
    before = len(group.sink.requests)
    stack.eventually(lambda: len(group.sink.requests) >= before + 3, "more probes")
    group.sink.script = sinks.each(lambda _: sinks.OK)
    group.wait_committed(5)


def test_a_paused_source_keeps_its_partitions(group: Group, start_source: StartSource) -> None:
    """While it is paused the source goes on polling: its member stays in the group, its partition assigned, nothing more is fetched."""
    group.sink.script = lambda request: sinks.away()
    group.produce(b"1")
    source = start_source(group, settings={"kafka_group_protocol": "consumer"})
    source.wait_state("paused", "probing")
    time.sleep(4)  # longer than the test broker's session of 3 s
    assert source.status()["partitions"] == [0]
    group.sink.script = sinks.each(lambda _: sinks.OK)
    group.wait_committed(1)


def test_retry_after_is_honoured(group: Group, start_source: StartSource) -> None:
    """A 429 with Retry-After: 2 is not tried again before."""
    answers = iter([sinks.Reply(429, b"", {"retry-after": "2"})])
    group.sink.script = sinks.each(lambda _: next(answers, sinks.OK))
    group.produce(b"1")
    start_source(group)
    group.wait_committed(1)
    first, second = group.sink.requests
    assert second.at - first.at >= 2


def test_one_events_409_does_not_hold_up_the_others(group: Group, start_source: StartSource) -> None:
    """An event that is busy elsewhere for long waits alone, though nothing but its 409 came back for a while."""
    group.sink.script = sinks.each(lambda event: sinks.Reply(409, b"", {"retry-after": "1"}) if event.json == 0 else sinks.OK)
    group.produce(b"0")
    source = start_source(group)
    source.wait_state("paused", "probing")
    group.produce(b"1", key=b"other")
    stack.eventually(lambda: 1 in [event.json for event in group.sink.events], "the other event")
    group.sink.script = sinks.each(lambda _: sinks.OK)
    group.wait_committed(2)
    assert group.failed == []


def test_KAFKA_UNAVAILABLE_MAX_ends_in_a_letter(group: Group, start_source: StartSource) -> None:
    """With the setting an event that was nobody's fault for so long is dead-lettered as dependency_away; later ones get their own time."""
    group.sink.script = lambda request: sinks.away()
    group.produce(b"1", b"2")
    start_source(group, settings={"kafka_unavailable_max": 2.0})
    group.wait_committed(2)
    assert [(letter["reason"], letter["code"], letter["status"]) for letter in group.failed] == [
        ("dependency_away", "dependency_away", 503)
    ] * 2
    assert group.failed[0]["detail"] == "the database is away"
    assert group.letters.requests[0].at - group.sink.requests[0].at >= 2


def test_without_the_setting_no_outage_ends_in_a_letter(group: Group, start_source: StartSource) -> None:
    """A per-event 503 in a 207 is retried like any other, and its neighbours are not sent again."""
    answers = iter([{"status": 503, "retry_after_s": 0.2}] * 3)

    def answer(event: sinks.Event) -> sinks.Reply:
        found = next(answers, None) if event.json["n"] == 4 else None
        return sinks.Reply(503, {"code": "unavailable", **found}) if found else sinks.OK

    group.sink.script = sinks.each(answer)
    group.produce(*(b'{"n": %d}' % n for n in range(8)))
    start_source(group, size=8, retry=0)
    group.wait_committed(8)
    assert sorted(group.sink.offsets) == sorted([*range(8), 4, 4, 4])
    assert group.failed == []
