"""`orderflow dlq replay`: to the failed consumer alone, with its own id, in order, and what comes back."""

import json
import uuid
from collections.abc import Callable
from typing import Any

from tests import controls
from tests.conftest import MakeTopic, StartFunction
from tests.dlq import replaying
from tests.dlq.replaying import ASSEMBLED, ORDER, PAYMENT, Bench
from tests.source import sinks

NewSink = Callable[[], sinks.Sink]


def test_L14_a_letter_that_is_replayed_is_handled(bench: Bench, start_function: StartFunction) -> None:
    """fail → letter → replay: the handler runs, the letter is done, its history says by whom it was handled."""
    function = start_function("order_on_assembled", bench.env)
    bench.sinks(order_on_assembled=function.url)
    order_id = controls.new_id("order-")
    bench.database.run("INSERT INTO orders (id, user_id, status) VALUES (:id, 'user-7', 'paid')", id=order_id)
    (letter_id,) = bench.fail(ORDER, controls.assembled(order_id=order_id))

    ran = bench.replay(letter_id, "--yes")

    assert (0, f"{letter_id}\tdone\t\n") == (ran.code, ran.out), ran.err
    assert [["assembled"]] == bench.database.run("SELECT status FROM orders WHERE id = :id", id=order_id)
    assert {"done": 1} == bench.states()
    assert ["replayed", "done"] == bench.history(letter_id)


def test_a_letter_goes_with_its_own_id_and_its_place(bench: Bench, new_sink: NewSink) -> None:
    """The function gets the CloudEvent that the source would send it."""
    sink = new_sink()
    bench.sinks(notify=sink.url)
    paid = controls.paid()
    headers = tuple((f"ce_{name}", text.encode()) for name, text in controls.attributes(paid).items() if "kafka" not in name)
    bench.fail(PAYMENT, paid, key=b"\x00key", headers=(*headers, ("content-type", b"application/json")), partition=3, offset=2**33)

    assert 0 == bench.replay("--consumer", PAYMENT, "--yes").code

    (event,) = sink.events
    assert paid == event.json
    assert paid["event_id"] == event.attributes["id"]
    assert ("order.payment.completed", "3", str(2**33)) == tuple(
        event.attributes[name] for name in ("kafkatopic", "knativekafkapartition", "knativekafkaoffset")
    )


def test_O10_one_traceparent_goes_along_and_no_header_that_misleads(bench: Bench, new_sink: NewSink) -> None:
    """A record that was tried a few times has several traceparents, marks of replicators, and what a KafkaSource said of its failure."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    assembled = controls.assembled()
    attributes = controls.attributes(assembled) | {"knativeerrordest": "http://elsewhere", "knativeerrorcode": "500", "traceparent": "old"}
    headers = [(f"ce_{name}", text.encode()) for name, text in attributes.items()]
    headers += [("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"), ("Connection", b"close"), ("__replicator_id", b"dc2")]
    headers += [("traceparent", controls.TRACEPARENT.encode()), ("__connect.errors.topic", b"x"), ("transfer-encoding", b"chunked")]
    bench.fail(ORDER, assembled, headers=tuple(headers))

    assert 0 == bench.replay("--all", "--yes").code

    (request,) = sink.requests
    sent = request.headers
    assert controls.TRACEPARENT == sent["traceparent"]
    assert not [name for name in sent if "knativeerror" in name or "replicator" in name or "errors" in name or name == "ce-traceparent"]
    assert ("1.0", assembled["event_id"]) == (sent["ce-specversion"], sent["ce-id"])
    assert "transfer-encoding" not in sent


def test_D10_only_the_failed_consumer_gets_the_event(bench: Bench, new_sink: NewSink, make_topic: MakeTopic) -> None:
    """Other groups of the topic see nothing, over HTTP or on the topic itself."""
    failed, other = new_sink(), new_sink()
    topic = make_topic()
    bench.env["KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC"] = topic
    bench.sinks(order_on_assembled=failed.url, notify=other.url)
    bench.fail(ORDER, *(controls.assembled() for _ in range(5)))

    assert 0 == bench.replay("--consumer", ORDER, "--yes").code

    assert (5, []) == (len(failed.requests), other.requests)
    assert 0 == end_of(bench, topic)


def test_what_fails_again_stays_open_with_the_new_reason(bench: Bench, start_function: StartFunction) -> None:
    """A refusal is no loss: the letter is open, its history has the reason, the command's exit code is 1."""
    function = start_function("order_on_assembled", bench.env)
    bench.sinks(order_on_assembled=function.url)
    good, bad = bench.fail(ORDER, controls.assembled(), controls.without(controls.assembled(), "user_id"))

    ran = bench.replay("--consumer", ORDER, "--yes")

    assert 1 == ran.code
    results = dict(line.split("\t", 1) for line in ran.out.splitlines())
    assert "done\t" == results[good]
    assert results[bad].startswith("failed again\tinvalid_event: user_id")
    assert {"done": 1, "open": 1} == bench.states()
    assert ["replayed", "failed again"] == bench.history(bad)
    assert 1 == bench.replay("--state", "failed_again", "--all", "--yes").code


def test_three_retries_of_500_and_then_it_failed_again(bench: Bench, new_sink: NewSink) -> None:
    """A bug is tried four times in all, as in the source."""
    sink = new_sink()
    sink.script = sinks.each(lambda _: sinks.Reply(500, {"code": "bug", "detail": "ZeroDivisionError"}))
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, controls.assembled())

    ran = bench.replay("--all", "--yes")

    assert (1, 4) == (ran.code, len(sink.requests))
    assert "failed again\tbug: ZeroDivisionError" in ran.out


def test_O07_a_duplicate_is_done_and_sent_once(bench: Bench, start_function: StartFunction) -> None:
    """What the inbox knows is answered as a duplicate: it settles the letter, and nothing is sent again."""
    function = start_function("order_on_assembled", bench.env)
    bench.sinks(order_on_assembled=function.url)
    payload = controls.assembled()
    (first,) = bench.fail(ORDER, payload)
    assert 0 == bench.replay(first, "--yes").code
    (second,) = bench.fail(ORDER, payload)

    ran = bench.replay("--all", "--yes")

    assert (0, f"{second}\tduplicate\t\n") == (ran.code, ran.out)
    assert {"done": 2} == bench.states()
    assert 0 == bench.replay("--all", "--yes").code
    assert [["duplicate", 1]] == bench.database.run("SELECT status, attempts FROM dlq_run_items WHERE letter_id = :id", id=second)


def test_D02_a_done_event_is_not_handled_again_hours_later(bench: Bench, start_function: StartFunction) -> None:
    """The inbox's memory is not a window of minutes."""
    function = start_function("order_on_assembled", bench.env)
    bench.sinks(order_on_assembled=function.url)
    payload = controls.assembled()
    (letter_id,) = bench.fail(ORDER, payload)
    assert 0 == bench.replay(letter_id, "--yes").code
    bench.database.run("UPDATE order_inbox_events SET received_at = received_at - interval '2 days'")
    bench.fail(ORDER, payload)

    ran = bench.replay("--all", "--yes")

    assert "duplicate" in ran.out
    assert [[1]] == bench.database.run("SELECT count(*) FROM order_inbox_events")


def test_letters_of_one_order_go_in_their_original_order(bench: Bench, new_sink: NewSink) -> None:
    """Whatever the order of failing, an order's letters are sent one after another by their offsets; orders go side by side."""
    sink = new_sink()
    # The first answer waits for another order's letter, and so for one that is sent beside it.
    sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, until=lambda: len(sink.requests) > 1))
    bench.sinks(order_on_assembled=sink.url)
    orders = [controls.new_id("order-") for _ in range(6)]
    for offset in reversed(range(60)):
        bench.fail(ORDER, controls.assembled(order_id=orders[offset % 6]), offset=offset)

    assert 0 == bench.replay("--all", "--yes").code

    seen: dict[str, list[int]] = {}
    for event in sink.events:
        seen.setdefault(event.json["order_id"], []).append(event.offset)
    assert {order: list(range(n, 60, 6)) for n, order in enumerate(orders)} == seen
    assert 1 < sink.in_flight_max <= 6


def test_D04_only_the_new_version_of_an_edited_letter_is_sent(bench: Bench, new_sink: NewSink) -> None:
    """The superseded one cannot be sent by its id nor by a filter."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    order = controls.new_id("order-")
    old, new = bench.fail(ORDER, controls.assembled(order_id=order, user_id=""), controls.assembled(order_id=order))
    bench.database.run("UPDATE dlq_letters SET state = 'superseded', replaced_by = :new WHERE letter_id = :old", old=old, new=new)

    refused = bench.replay(old, "--yes")
    ran = bench.replay("--order", order, "--yes")

    assert (1, f"{old} is superseded by {new}" in refused.err) == (refused.code, True), refused.err
    assert (0, f"{new}\tdone\t\n") == (ran.code, ran.out)
    assert 1 == len(sink.requests)


def test_a_letter_that_is_closed_after_it_was_chosen_is_skipped(bench: Bench, new_sink: NewSink) -> None:
    """Chosen, then discarded by someone before its turn: it is not sent."""
    sink = new_sink()
    order = controls.new_id("order-")
    first, second = bench.fail(ORDER, *(controls.assembled(order_id=order) for _ in range(2)))

    def discard_the_next(_: sinks.Request) -> sinks.Reply:
        bench.database.run("UPDATE dlq_letters SET state = 'discarded' WHERE letter_id = :id", id=second)
        return sinks.OK

    sink.script = discard_the_next
    bench.sinks(order_on_assembled=sink.url)

    ran = bench.replay("--all", "--yes")

    assert (0, 1) == (ran.code, len(sink.requests))
    assert [f"{first}\tdone\t", f"{second}\tskipped\tnot_open: the letter is discarded, not open"] == ran.out.splitlines()


def test_O14_a_tombstone_is_replayed_as_the_null_that_it_was(bench: Bench, new_sink: NewSink, start_function: StartFunction) -> None:
    """No body, not an empty one, with and without a key; the real function refuses it once more."""
    sink = new_sink()
    bench.sinks(notify=sink.url)
    bench.fail(ASSEMBLED, None, b"", key=b"order-1")
    bench.fail(ASSEMBLED, None)

    assert 0 == bench.replay("--consumer", ASSEMBLED, "--yes").code
    assert {None: 2, b"": 1} == {data: [event.data for event in sink.events].count(data) for data in (None, b"")}
    assert {"b3JkZXItMQ=="} == {event.attributes["key"] for event in sink.events if "key" in event.attributes}

    function = start_function("order_on_assembled", bench.env)
    bench.sinks(order_on_assembled=function.url)
    bench.fail(ORDER, None, key=b"order-1")
    ran = bench.replay("--consumer", ORDER, "--yes")
    assert (1, True) == (ran.code, "failed again\tunreadable" in ran.out), ran.out


def test_a_dry_run_sends_nothing_and_takes_nothing(bench: Bench, new_sink: NewSink) -> None:
    """It says what would go where; nothing of it stays."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    ids = bench.fail(ORDER, *(controls.assembled() for _ in range(3)))

    told = bench.replay("--consumer", ORDER, "--dry-run", "--json").json()

    assert (3, {ORDER: {"items": 3, "to": f"{sink.url}/"}}) == (told["total"], told["consumers"])
    assert ids == [row["letter_id"] for row in told["first"]]
    assert ([], [[0]]) == (sink.requests, bench.database.run("SELECT count(*) FROM dlq_runs"))


def test_without_an_answer_nothing_is_sent_and_nothing_stays_taken(bench: Bench, new_sink: NewSink) -> None:
    """Nobody is there to agree: exit code 2, and the letters are free."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, controls.assembled())

    ran = bench.replay("--all")

    assert (2, True) == (ran.code, f"Send 1 letter to {ORDER} at {sink.url}/?" in ran.err)
    assert ([], [[0]]) == (sink.requests, bench.database.run("SELECT count(*) FROM dlq_run_items"))


def test_what_is_asked_for_wrongly_is_said(bench: Bench) -> None:
    """No letters named, an odd rate, an unknown id, a closed state: one sentence each."""
    assert (2, True) == ((ran := bench.replay("--yes")).code, "say which letters" in ran.err)
    assert (2, True) == ((ran := bench.replay("--all", "--rate", "fast")).code, "--rate" in ran.err)
    assert (2, True) == ((ran := bench.replay("--all", "--state", "done")).code, "only open letters" in ran.err)
    assert (1, True) == ((ran := bench.replay("nosuch", "--yes")).code, "there is no letter" in ran.err)
    assert (2, True) == ((ran := bench.replay("--all", "--resume", "x")).code, "--resume" in ran.err)
    assert (1, True) == ((ran := bench.replay("--resume", "x")).code, "there is no run x" in ran.err)
    assert (0, True) == ((ran := bench.replay("--all", "--yes")).code, "there is no letter to be sent" in ran.err)


def test_a_rate_is_an_upper_bound(bench: Bench, new_sink: NewSink) -> None:
    """5 letters at 4 a second take a second; half of it is left for a first one that arrives late."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, *(controls.assembled() for _ in range(5)))

    assert 0 == bench.replay("--all", "--yes", "--rate", "4/s").code

    times = [request.at for request in sink.requests]
    assert 5 == len(times)
    assert times[-1] - times[0] >= 0.5


def test_a_letter_goes_to_a_topic_only_when_that_is_asked_for(bench: Bench, new_sink: NewSink, make_topic: MakeTopic) -> None:
    """The record as it was, headers and all; the letter stays open, for nobody has said that it was handled."""
    sink, topic = new_sink(), make_topic()
    bench.sinks(order_on_assembled=sink.url)
    value = json.dumps(controls.assembled()).encode()
    (letter_id,) = bench.fail(ORDER, value, key=b"\xff\x00", headers=(("a", None), ("a", b"\x00"), ("traceparent", b"x")))

    ran = bench.replay("--all", "--yes", "--to-topic", topic)

    assert (0, []) == (ran.code, sink.requests), ran.err
    assert f"{letter_id}\twritten\tas {topic}[0]@0\n" == ran.out
    assert [(b"\xff\x00", value, [("a", None), ("a", b"\x00")])] == records(bench, topic)
    assert ({"open": 1}, ["replayed", "replayed"]) == (bench.states(), bench.history(letter_id))
    assert 1 == bench.runs("--json").json()[0]["written"]


def test_a_url_is_of_one_consumer(bench: Bench, new_sink: NewSink) -> None:
    """Letters of two consumers cannot go to one address; those of one can, wherever it is."""
    sink = new_sink()
    bench.fail(ORDER, controls.assembled())
    bench.fail(ASSEMBLED, controls.assembled())

    assert (1, True) == ((ran := bench.replay("--all", "--yes", "--url", sink.url)).code, "say --consumer" in ran.err)
    assert 0 == bench.replay("--consumer", ORDER, "--yes", "--url", f"{sink.url}/elsewhere").code
    assert ["/elsewhere"] == [request.path for request in sink.requests]


def test_letters_that_were_written_while_the_index_was_away_are_sent_too(bench: Bench, new_sink: NewSink, make_topic: MakeTopic) -> None:
    """The command reads the dead-letter topics on before it chooses."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    make_topic(config={"max.message.bytes": "2162688"}, name=bench.dead_letters["assembly.dlq"])
    (letter_id,) = bench.fail(ORDER, controls.assembled())
    ((value,),) = bench.database.run("DELETE FROM dlq_letters RETURNING value")
    bench.produce(bench.dead_letters["assembly.dlq"], bytes(value))

    ran = bench.replay("--consumer", ORDER, "--yes")

    assert (0, f"{letter_id}\tdone\t\n") == (ran.code, ran.out), ran.err


def end_of(bench: Bench, topic: str) -> int:
    """The end offset of partition 0."""
    return len(records(bench, topic))


def records(bench: Bench, topic: str) -> list[tuple[Any, Any, Any]]:
    """Key, value and headers of every record of partition 0."""
    return replaying.records(bench.brokers, topic, group=uuid.uuid4().hex)
