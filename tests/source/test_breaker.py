"""When nearly everything would become a letter the source pauses before the next one, and asks one event whether it is over."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from ops import child
from tests import stack
from tests.source import sinks
from tests.source.conftest import Group, RunningSource, StartSource, write_manifest

REFUSED = sinks.each(lambda _: sinks.refuse())
HEALED = sinks.each(lambda _: sinks.OK)


def values(count: int, start: int = 0) -> list[bytes]:
    return [b'{"n": %d}' % n for n in range(start, start + count)]


def offsets(group: Group) -> list[int]:
    return sorted(letter["offset"] for letter in group.failed)


def tripped(source: RunningSource) -> str:
    """Wait until the breaker has paused the source; the reason that it gives."""
    stack.eventually(lambda: str(source.status()["reason"]).startswith("breaker: "), "the breaker to trip")
    status = source.status()
    assert status["state"] == "paused"
    return str(status["reason"])


def probed(group: Group, times: int = 3) -> list[sinks.Request]:
    """Some more requests, which came after this was called."""
    seen = len(group.sink.requests)
    stack.eventually(lambda: len(group.sink.requests) >= seen + times, "probes")
    return group.sink.requests[seen:]


@pytest.mark.parametrize("size", [1, 50])
def test_the_twentieth_in_a_row_is_held_back_and_tried_again_until_it_passes(group: Group, start_source: StartSource, size: int) -> None:
    """19 letters are written and not one more; the 20th event is probed alone, the partition stays, and when it passes all go on."""
    group.sink.script = REFUSED
    group.produce(*values(60))
    source = start_source(group, size=size)
    reason = tripped(source)
    assert reason == "breaker: 20 in a row would become letters (invalid_event: invalid_event: is refused)"
    stack.eventually(lambda: len(group.failed) == 19, "the letters before it")
    group.wait_committed(19)
    stack.eventually(lambda: group.sink.in_flight == 0, "what was in flight to end")
    assert {tuple(event.offset for event in request.events) for request in probed(group)} == {(19,)}
    assert source.status()["partitions"] == [0]
    source.service.measure()
    assert source.metric("orderflow_source_paused", by="breaker") == 1
    assert source.metric("orderflow_source_breaker_trips_total") == 1
    group.sink.script = HEALED
    group.wait_committed(60)
    assert source.status()["state"] == "running"
    assert offsets(group) == list(range(19))
    source.service.measure()
    assert source.metric("orderflow_source_paused", by="breaker") == 0


def test_the_probe_waits_longer_and_longer(group: Group, start_source: StartSource) -> None:
    """From probe to probe the wait grows: no deployment that is broken is hammered."""
    group.sink.script = REFUSED
    group.produce(*values(2))
    source = start_source(group, settings={"breaker_consecutive_max": 1})
    tripped(source)
    stack.eventually(lambda: len(group.sink.requests) >= 6, "probes")
    times = [request.at for request in group.sink.requests]
    assert times[5] - times[4] >= 0.5 * 0.1 * 2**4
    assert group.failed == []
    assert {event.offset for event in group.sink.events} == {0}


def test_half_of_the_last_hundred_is_enough(group: Group, start_source: StartSource) -> None:
    """Good and bad in turn never make 20 in a row, but the 50th letter of a full window is held back."""
    group.sink.script = sinks.each(lambda event: sinks.refuse() if event.json["n"] % 2 else sinks.OK)
    group.produce(*values(300))
    source = start_source(group)
    assert tripped(source).startswith("breaker: 50 of the last 100 would become letters")
    group.wait_committed(99)
    assert offsets(group) == list(range(1, 99, 2))


def test_less_than_half_gets_its_letters(group: Group, start_source: StartSource) -> None:
    """49 bad events in every 100 are the events' own fault: each gets its letter, and the source never pauses."""
    bad = [n for n in range(400) if n % 2 and n % 100 < 98]
    group.sink.script = sinks.each(lambda event: sinks.refuse() if event.json["n"] in bad else sinks.OK)
    group.produce(*values(400))
    source = start_source(group)
    group.wait_committed(400)
    assert offsets(group) == bad
    assert source.metric("orderflow_source_breaker_trips_total") == 0


def test_zero_turns_it_off(group: Group, start_source: StartSource) -> None:
    """With 0 in the settings every bad event gets its letter, however many there are."""
    group.sink.script = REFUSED
    group.produce(*values(150))
    source = start_source(group, size=30, settings={"breaker_consecutive_max": 0, "breaker_window_records": 0})
    group.wait_committed(150)
    assert len(group.failed) == 150
    assert source.metric("orderflow_source_breaker_trips_total") == 0


def test_resumed_by_hand_it_counts_from_zero(group: Group, start_source: StartSource) -> None:
    """`resume` without a number lets as many letters through as the rule does at first: two more, then it pauses again."""
    group.sink.script = REFUSED
    group.produce(*values(10))
    source = start_source(group, settings={"breaker_consecutive_max": 3})
    tripped(source)
    stack.eventually(lambda: offsets(group) == [0, 1], "the first letters")
    source.call(lambda service: service.resume())
    stack.eventually(lambda: offsets(group) == [0, 1, 2, 3], "two more letters")
    tripped(source)
    probed(group)
    assert offsets(group) == [0, 1, 2, 3]
    assert source.metric("orderflow_source_breaker_trips_total") == 2


def test_so_many_letters_are_accepted_and_no_more(group: Group, start_source: StartSource) -> None:
    """`resume` with 5 lets five letters through, also out of one batch, and pauses before the sixth."""
    group.sink.script = REFUSED
    group.produce(*values(30))
    source = start_source(group, size=10, settings={"breaker_consecutive_max": 3})
    tripped(source)
    source.call(lambda service: service.resume(5))
    stack.eventually(lambda: len(group.failed) == 7, "five more letters")
    tripped(source)
    probed(group)
    assert len(group.failed) == 7
    source.call(lambda service: service.resume(1000))
    group.wait_committed(30)
    assert offsets(group) == list(range(30))


def test_what_counts_is_probed_too(group: Group, start_source: StartSource) -> None:
    """An event that is out of retries is no letter yet when the breaker trips; one good answer and it is handled."""
    group.sink.script = sinks.each(lambda _: sinks.Reply(500, {"code": "bug", "detail": "broken"}))
    group.produce(*values(4))
    source = start_source(group, retry=1, settings={"breaker_consecutive_max": 2})
    assert "(bug: broken)" in tripped(source)
    probed(group)
    group.sink.script = HEALED
    group.wait_committed(4)
    assert [letter["reason"] for letter in group.failed] == ["out_of_retries"]


def test_a_probe_that_gets_no_answer_or_meets_an_outage_is_still_the_probe(group: Group, start_source: StartSource) -> None:
    """A closed connection, then a 503 for more than a second: no letter, the same event again, and then it passes."""
    group.sink.script = REFUSED
    group.produce(*values(5))
    source = start_source(group, retry=1, settings={"breaker_consecutive_max": 2})
    tripped(source)
    group.sink.script = lambda request: sinks.CLOSE
    probed(group, 1)
    group.sink.script = lambda request: sinks.away()
    stack.eventually(lambda: "and its probe: 503" in str(source.status()["reason"]), "the outage in the reason")
    assert {event.offset for request in probed(group, 1) for event in request.events} == {1}
    group.sink.script = HEALED
    group.wait_committed(5)
    assert offsets(group) == [0]
    assert source.status()["state"] == "running"


def test_the_order_of_a_key_outlasts_the_breaker(group: Group, start_source: StartSource) -> None:
    """What waits behind the probe's key, and what the breaker stopped in the same batch, comes in its order afterwards."""
    group.sink.script = REFUSED
    for n in range(12):
        group.produce(b'{"n": %d}' % n, key=b"abc"[n % 3 : n % 3 + 1])
    source = start_source(group, size=10, flight=2, settings={"breaker_consecutive_max": 2})
    tripped(source)
    stack.eventually(lambda: group.sink.in_flight == 0, "what was in flight to end")
    handled: list[int] = []

    def heal(event: sinks.Event) -> sinks.Reply:
        handled.append(event.json["n"])
        return sinks.OK

    group.sink.script = sinks.each(heal)
    group.wait_committed(12)
    (lettered,) = offsets(group)
    for key in range(3):
        assert [n for n in handled if n % 3 == key] == [n for n in range(12) if n % 3 == key and n != lettered]


def test_paused_by_hand_not_even_the_probe_is_sent(group: Group, start_source: StartSource) -> None:
    """A pause by hand outranks the breaker's probes."""
    group.sink.script = REFUSED
    group.produce(*values(3))
    source = start_source(group, settings={"breaker_consecutive_max": 1})
    tripped(source)
    source.call(lambda service: service.pause("lunch"))
    stack.eventually(lambda: not source.service.pump.probing, "the probe that was on its way to end")
    seen = len(group.sink.requests)
    assert source.status()["reason"] == "lunch"
    time.sleep(1)
    assert len(group.sink.requests) == seen
    group.sink.script = HEALED
    source.call(lambda service: service.resume())
    group.wait_committed(3)
    assert group.failed == []


def test_a_letter_that_an_outage_asked_for_is_not_stopped(group: Group, start_source: StartSource) -> None:
    """KAFKA_UNAVAILABLE_MAX means what it says: its letters neither count nor wait."""
    group.sink.script = lambda request: sinks.away()
    group.produce(*values(5))
    source = start_source(group, settings={"breaker_consecutive_max": 2, "kafka_unavailable_max": 1.0})
    group.wait_committed(5)
    assert [letter["reason"] for letter in group.failed] == ["dependency_away"] * 5
    assert source.metric("orderflow_source_breaker_trips_total") == 0


def test_a_second_source_takes_over_what_the_breaker_held(group: Group, start_source: StartSource) -> None:
    """The first leaves with its breaker open: nothing was committed past the probe, so the next one handles it."""
    group.sink.script = REFUSED
    group.produce(*values(5))
    first = start_source(group, settings={"breaker_consecutive_max": 2})
    tripped(first)
    stack.eventually(lambda: len(group.failed) == 1, "the letter before it")
    group.wait_committed(1)
    first.stop()
    group.sink.script = HEALED
    start_source(group)
    group.wait_committed(5)
    assert offsets(group) == [0]


def test_the_control_takes_the_number(group: Group, start_process: Callable[..., stack.Process], tmp_path: Any) -> None:
    """POST /sources/NAME/resume {"accept_letters": 4}: four more letters; anything but a number above 0 is answered 422."""
    group.sink.script = REFUSED
    group.produce(*values(20))
    (port,) = child.free_ports(1)
    command: Sequence[str] = [sys.executable, "-m", "connectors.kafka_source", "--control-port", str(port)]
    path = write_manifest(tmp_path / "manifest.yaml", [group.document()])
    env = {"KAFKA_BROKERS": group.brokers, "SINK_URLS": group.sink_urls, "BREAKER_CONSECUTIVE_MAX": "3"}
    process = start_process([*command, "--manifest", str(path)], env, f"http://127.0.0.1:{port}")
    process.wait_ready()

    def status() -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{process.url}/sources", timeout=30).json()["sources"][group.name]
        return found

    stack.eventually(lambda: str(status()["reason"]).startswith("breaker: 3 in a row"), "the breaker to trip")
    resume = f"{process.url}/sources/{group.name}/resume"
    assert [httpx.post(resume, json={"accept_letters": bad}, timeout=30).status_code for bad in (0, -1, True, "4", 1.5)] == [422] * 5
    assert httpx.post(resume, json={"accept_letters": 4}, timeout=30).status_code == 200
    stack.eventually(lambda: len(group.failed) == 6 and status()["state"] == "paused", "four more letters")
    assert status()["breaker"] == {"open": True, "letters_in_a_row": 6, "letters_in_window": 6, "accept_letters": 0}
    assert 'orderflow_source_paused{by="breaker",source=' in httpx.get(f"{process.url}/metrics", timeout=30).text
