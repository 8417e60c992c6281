"""What is delivered, in which order, and what is committed."""

import collections
import threading
import time
from base64 import b64decode

from tests import stack
from tests.conftest import MakeTopic
from tests.source import sinks
from tests.source.conftest import Group, StartSource

FIRST, SECOND = "1" * 32, "2" * 32


def test_a_record_is_delivered_and_its_offset_committed(group: Group, start_source: StartSource) -> None:
    """A record arrives as one binary CloudEvent; then its offset is committed and the lag is 0."""
    group.produce(b'{"n": 1}')
    source = start_source(group)
    group.wait_committed(1)
    assert [event.json for event in group.sink.events] == [{"n": 1}]
    stack.eventually(lambda: source.status()["lag"] == 0, "lag 0")
    assert source.status()["state"] == "running"


def test_a_batch_is_what_has_arrived(group: Group, start_source: StartSource) -> None:
    """Records that are there when a request slot is free travel in batches of the size given; none twice, none missing."""
    group.produce(*(b'{"n": %d}' % n for n in range(1200)))

    def all_there() -> bool:
        return sum(partition.arrived for partition in list(source.service.reader.assignment.partitions.values())) == 1200

    group.sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, until=all_there))
    source = start_source(group, size=500, flight=2)
    group.wait_committed(1200)
    assert sorted(event.json["n"] for event in group.sink.events) == list(range(1200))
    assert max(len(request.events) for request in group.sink.requests) == 500
    assert source.metric("orderflow_source_records_total", outcome="done") == 1200


def test_a_batch_holds_one_event_of_a_key_and_keeps_their_order(group: Group, start_source: StartSource) -> None:
    """Events of a key go one after another, other keys beside them."""
    for n in range(40):
        group.produce(b'{"n": %d}' % n, key=b"key-%d" % (n % 4))
    start_source(group, size=100, flight=2)
    group.wait_committed(40)
    for request in group.sink.requests:
        keys = [event.json["n"] % 4 for event in request.events]
        assert len(keys) == len(set(keys))
    for key in range(4):
        assert [event.json["n"] for event in group.sink.events if event.json["n"] % 4 == key] == list(range(key, 40, 4))


def test_unordered_lets_events_of_a_key_overtake(group: Group, start_source: StartSource) -> None:
    """With `ordering: unordered` a slow event of a key does not hold up the next one."""
    both = sinks.Reply(200, {"outcome": "done"}, until=lambda: len(group.sink.requests) == 2)
    group.sink.script = sinks.each(lambda event: both if event.json["n"] == 0 else sinks.OK)
    group.produce(b'{"n": 0}', b'{"n": 1}', key=b"k")
    start_source(group, flight=2, ordering="unordered")
    group.wait_committed(2)
    assert group.sink.in_flight_max == 2


def test_L03_nothing_is_committed_before_it_is_handled(group: Group, start_source: StartSource) -> None:
    """While the first record is being handled nothing is committed, though all others are done; then all are."""
    checked = threading.Event()
    first = sinks.Reply(200, {"outcome": "done"}, until=checked.is_set)
    group.sink.script = sinks.each(lambda event: first if event.json["n"] == 0 else sinks.OK)
    group.produce(*(b'{"n": %d}' % n for n in range(10)))
    start_source(group, flight=4)
    stack.eventually(lambda: len(group.sink.events) == 10, "all to be delivered")
    time.sleep(0.5)  # what is wrong would be committed in this time
    assert group.committed() in {None, 0}
    checked.set()
    group.wait_committed(10)


def test_L04_a_failed_record_is_not_stepped_over(group: Group, start_source: StartSource) -> None:
    """Record 5 fails, 6 to 9 pass: the offset stays at 5, and after a restart 5 comes again."""
    group.sink.script = sinks.each(lambda event: sinks.away() if event.json["n"] == 5 else sinks.OK)
    group.produce(*(b'{"n": %d}' % n for n in range(10)))
    source = start_source(group, flight=2)
    stack.eventually(lambda: {event.json["n"] for event in group.sink.events} == set(range(10)), "all to be tried")
    group.wait_committed(5)
    source.stop()
    assert group.committed() == 5
    group.sink.script = sinks.each(lambda _: sinks.OK)
    group.sink.requests.clear()
    start_source(group, flight=2)
    group.wait_committed(10)
    assert 5 in {event.json["n"] for event in group.sink.events}
    assert group.failed == []


def test_L22_a_500_holds_the_offset_and_comes_again(group: Group, start_source: StartSource) -> None:
    """An answer 500 is no acknowledgement: the offset is held and the event delivered again."""
    answers = iter([sinks.Reply(500, b"oops")])
    group.sink.script = sinks.each(lambda _: next(answers, sinks.OK))
    group.produce(b'{"n": 1}')
    start_source(group)
    group.wait_committed(1)
    assert group.sink.offsets == [0, 0]
    assert group.failed == []


def test_L09_letters_never_go_to_the_source_topic(group: Group, start_source: StartSource) -> None:
    """After a record was dead-lettered its own topic is as long as before."""
    group.sink.script = sinks.each(lambda _: sinks.refuse())
    group.produce(b'{"n": 1}', b'{"n": 2}')
    start_source(group)
    group.wait_committed(2)
    assert group.end() == 2
    assert [letter["offset"] for letter in group.failed] == [0, 1]


def test_L05_a_dead_letter_sink_that_fails_holds_the_offset(group: Group, start_source: StartSource) -> None:
    """Without a safe letter nothing past the record is committed; when the sink is back the letter is written and all goes on."""
    group.sink.script = sinks.each(lambda event: sinks.refuse() if event.json["n"] == 2 else sinks.OK)
    group.letters.script = lambda _: sinks.away()
    group.produce(*(b'{"n": %d}' % n for n in range(5)))
    start_source(group)
    stack.eventually(lambda: len(group.letters.requests) >= 3, "the letter to be tried again and again")
    group.wait_committed(2)
    group.letters.stop()
    time.sleep(0.3)
    assert group.committed() == 2
    group.letters.start()
    group.letters.script = lambda _: sinks.OK
    group.wait_committed(5)
    assert group.sink.offsets.count(2) == 1


def test_a_letter_holds_the_record_byte_for_byte(group: Group, start_source: StartSource) -> None:
    """Topic, place, time, key, value and headers (order, repeats, nulls) arrive in the letter, with what went wrong."""
    refusal = sinks.Reply(422, {"code": "bad_amount", "detail": "bad_amount: is refused", "place": "amount"})
    group.sink.script = sinks.each(lambda _: refusal)
    group.produce(b"\xff\xfe", key=b"\x00\x01", headers=[("a", b"1"), ("b", None), ("a", b"\xff")])
    start_source(group)
    group.wait_committed(1)
    (letter,) = group.failed
    (request,) = group.letters.requests
    assert request.path == f"/{group.name}/{group.topic}"
    assert request.headers["content-type"] == "application/vnd.orderflow.failed-record+json"
    assert (letter["topic"], letter["partition"], letter["offset"]) == (group.topic, 0, 0)
    assert (b64decode(letter["key"]), b64decode(letter["value"])) == (b"\x00\x01", b"\xff\xfe")
    assert [(name, value and b64decode(value)) for name, value in letter["headers"]] == [("a", b"1"), ("b", None), ("a", b"\xff")]
    assert abs(letter["timestamp"] / 1000 - time.time()) < 120
    assert (letter["status"], letter["code"], letter["detail"]) == (422, "bad_amount", "bad_amount: is refused")
    assert (letter["place"], letter["reason"], letter["attempts"]) == ("amount", "refused", 1)


def test_records_ahead_are_bounded(group: Group, start_source: StartSource) -> None:
    """Behind a record that hangs no more than records-ahead-max are delivered."""
    group.sink.script = sinks.each(lambda event: sinks.away() if event.json["n"] == 0 else sinks.OK)
    group.produce(*(b'{"n": %d}' % n for n in range(300)))
    start_source(group, size=10, flight=2, records_ahead_max=40)
    stack.eventually(lambda: len({event.offset for event in group.sink.events}) >= 20, "some to be delivered")
    time.sleep(1)
    assert max(group.sink.offsets) < 40
    group.sink.script = sinks.each(lambda _: sinks.OK)
    group.wait_committed(300)


def test_a_slow_function_has_little_of_its_topic_in_memory(group: Group, start_source: StartSource) -> None:
    """While nothing is answered the source fetches no more than twice what the next requests need, and then goes on."""
    held = threading.Event()
    group.sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, until=held.is_set))
    group.produce(*(b'{"n": %d}' % n for n in range(2000)))
    source = start_source(group, size=50, flight=2)
    partitions = source.service.reader.assignment.partitions
    stack.eventually(lambda: any(partition.paused for partition in list(partitions.values())), "it to fetch no more")
    group.produce(*(b'{"n": %d}' % n for n in range(2000, 4000)))
    assert [True] == [partition.arrived <= 2000 and partition.paused for partition in partitions.values()]
    held.set()
    group.wait_committed(4000)
    assert [*range(4000)] == sorted(group.sink.offsets)


def test_the_shared_token_is_sent(group: Group, start_source: StartSource) -> None:
    """With DELIVERY_TOKEN both the function and the dead-letter sink get it: the first, where one is about to take the other's place."""
    group.sink.script = sinks.each(lambda _: sinks.refuse())
    group.produce(b"1")
    start_source(group, settings={"delivery_token": f"{FIRST} {SECOND}"})
    group.wait_committed(1)
    assert group.sink.requests[0].headers["authorization"] == f"Bearer {FIRST}"
    assert group.letters.requests[0].headers["authorization"] == f"Bearer {FIRST}"


def test_a_slow_function_hears_of_every_partition(group: Group, make_topic: MakeTopic, start_source: StartSource) -> None:
    """Each has more than is ever held in memory, and none waits until the others are empty."""
    group.topic = make_topic(partitions=4)
    for partition in range(4):
        group.produce(*(b'{"n": %d}' % n for n in range(6000)), partition=partition)
    group.sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, after_s=0.02))
    start_source(group, size=20, flight=2)
    stack.eventually(lambda: len(group.sink.events) >= 8000, "a third of them")
    heard = collections.Counter(event.attributes["knativekafkapartition"] for event in group.sink.events[:8000])
    assert len(heard) == 4, heard
    assert min(heard.values()) >= 20, heard


def test_paused_by_hand(group: Group, start_source: StartSource) -> None:
    """A source paused by hand delivers nothing and says why; resumed, it goes on."""
    source = start_source(group)
    source.wait_state("running")
    source.call(lambda service: service.pause("a deployment"))
    assert (source.status()["state"], source.status()["reason"]) == ("paused", "a deployment")
    group.produce(b"1")
    time.sleep(0.7)
    assert group.sink.requests == []
    source.call(lambda service: service.resume())
    group.wait_committed(1)
