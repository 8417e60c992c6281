"""`orderflow replay`: a range of a topic, a file, the archive; to one function or all of a topic's; and `--force`."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from moto.server import ThreadedMotoServer

from ops.dlq import archive, archive_line, originals, supply
from tests import controls, stack
from tests.conftest import MakeTopic, StartFunction, StartProcess
from tests.dlq.replaying import ASSEMBLED, ASSEMBLY, ORDER, PAYMENT, Bench
from tests.ops import commands
from tests.source import sinks

NewSink = Callable[[], sinks.Sink]
archive_app = typer.Typer()
archive_app.command("archive")(archive.archive)
SETTING = "KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC"


@pytest.fixture
def topic(bench: Bench, make_topic: MakeTopic) -> str:
    """A topic of assembled orders."""
    bench.env[SETTING] = make_topic()
    return bench.env[SETTING]


def encoded(*payloads: dict[str, Any]) -> list[bytes]:
    return [json.dumps(payload).encode() for payload in payloads]


def test_a_range_of_a_topic_goes_to_all_its_consumers(bench: Bench, topic: str, new_sink: NewSink) -> None:
    """From an offset up to another, not included: each consumer of the topic gets each event, as its source would send it.

    All are of one order: only those are promised to arrive one after another.
    """
    first, second = new_sink(), new_sink()
    bench.sinks(order_on_assembled=first.url, notify=second.url)
    order = controls.new_id("order-")
    payloads = [controls.assembled(order_id=order) for _ in range(6)]
    bench.produce(topic, *encoded(*payloads), key=b"k")

    ran = bench.events("--topic", topic, "--from", "1", "--to", "4", "--yes")

    assert 0 == ran.code, ran.err
    assert [1, 2, 3] == first.offsets == second.offsets
    assert payloads[1:4] == [event.json for event in first.events]
    assert {"partition:0/offset:1", "partition:0/offset:2", "partition:0/offset:3"} == {event.attributes["id"] for event in first.events}
    assert f"{payloads[1]['event_id']}\tdone\t" in ran.out


def test_a_range_by_time_goes_to_one_function(bench: Bench, topic: str, new_sink: NewSink) -> None:
    """By RFC 3339 times of the records; only the consumer that is named gets them."""
    first, second = new_sink(), new_sink()
    bench.sinks(order_on_assembled=first.url, notify=second.url)
    bench.produce(topic, *encoded(controls.assembled(), controls.assembled()))
    time.sleep(0.02)
    start = datetime.now(UTC)
    time.sleep(0.02)
    bench.produce(topic, *encoded(controls.assembled()))
    time.sleep(0.02)
    end = datetime.now(UTC)
    time.sleep(0.02)
    bench.produce(topic, *encoded(controls.assembled()))

    ran = bench.events("--topic", topic, "--from", start.isoformat(), "--to", end.isoformat(), "--function", "notify", "--yes", "--json")

    assert (1, 1) == (ran.json()["done"], ran.json()["total"])
    assert ([], [2]) == (first.offsets, second.offsets)


def test_a_new_consumer_is_filled_and_knows_what_it_has(bench: Bench, topic: str, start_function: StartFunction) -> None:
    """The whole topic to a real function, twice: the second time all are duplicates, which count as done; a tombstone is refused."""
    function = start_function("order_on_assembled", bench.env)
    bench.sinks(order_on_assembled=function.url)
    payloads = [controls.assembled() for _ in range(50)]
    bench.produce(topic, *encoded(*payloads))

    ran = bench.events("--topic", topic, "--consumer", ORDER, "--yes", "--json")
    again = bench.events("--topic", topic, "--consumer", ORDER, "--yes", "--json")

    assert (50, 0) == (ran.json()["done"], ran.json()["duplicate"])
    assert (0, 50) == (again.json()["done"], again.json()["duplicate"])
    assert [[50]] == bench.database.run("SELECT count(*) FROM order_inbox_events")
    assert [[0]] == bench.database.run("SELECT count(*) FROM dlq_run_items WHERE item IS NOT NULL")  # a finished run keeps no bytes
    bench.produce(topic, None, key=b"order-1")
    tombstone = bench.events("--topic", topic, "--consumer", ORDER, "--from", "50", "--yes")
    assert (1, True) == (tombstone.code, "failed again\tunreadable" in tombstone.out), tombstone.out


def test_a_killed_replay_of_events_is_resumed(bench: Bench, topic: str, start_function: StartFunction, start_process: StartProcess) -> None:
    """kill -9 in the middle: the frozen events are sent on, though the topic may be gone by then, and none has a second effect."""
    function = start_function("order_on_assembled", bench.env)
    bench.sinks(order_on_assembled=function.url)
    bench.produce(topic, *encoded(*(controls.assembled() for _ in range(600))))
    process = start_process(bench.command("events", "--topic", topic, "--consumer", ORDER, "--yes", "--rate", "100"), bench.env)
    handled = "SELECT count(*) FROM order_inbox_events"
    stack.eventually(lambda: bench.database.run(handled)[0][0] >= 60, f"the first events: {process.text}")
    process.kill()
    assert bench.database.run(handled)[0][0] < 600

    told = bench.events("--resume", bench.run_id(), "--rate", "100000", "--json").json()

    assert (600, 600, 0) == (told["total"], told["done"] + told["duplicate"], told["left"])
    assert [[600]] == bench.database.run(handled)


def test_a_file_of_events_goes_to_the_consumers_of_their_types(bench: Bench, new_sink: NewSink, tmp_path: Path) -> None:
    """One structured CloudEvent a line; each goes to its own topic's consumers, as it is, without a place that it never had."""
    order_on_assembled, notify, assembly = new_sink(), new_sink(), new_sink()
    bench.sinks(order_on_assembled=order_on_assembled.url, notify=notify.url, assembly_on_payment=assembly.url)
    now = datetime.now(UTC).isoformat()
    paid, assembled = controls.paid(occurred_at=now), controls.assembled(occurred_at=now)
    lines = [json.dumps({n: v for n, v in controls.element(one, time=now).items() if "kafka" not in n}) for one in (paid, assembled)]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(lines) + "\n\n", encoding="utf-8")

    ran = bench.events("--file", str(file), "--yes")

    assert 0 == ran.code, ran.err
    assert [paid] == [event.json for event in assembly.events]
    assert [assembled] == [event.json for event in order_on_assembled.events]
    assert 2 == len(notify.events)
    (event,) = assembly.events
    assert (paid["event_id"], "order.payment.completed") == (event.attributes["id"], event.attributes["kafkatopic"])
    assert not [name for name in event.attributes if name.startswith("knativekafka")]


def test_a_file_that_is_wrong_is_refused_before_anything_is_sent(bench: Bench, new_sink: NewSink, tmp_path: Path) -> None:
    """The line is named; no run is left."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url, notify=sink.url)
    file = tmp_path / "events.jsonl"
    now = datetime.now(UTC).isoformat()
    good = json.dumps(controls.element(controls.assembled(), time=now))
    for line, fault in [
        ("{", "is not JSON"),
        ('{"id": "1"}', "no structured CloudEvent"),
        (good.replace("order.assembly", "x"), "--topic"),
    ]:
        file.write_text(f"{good}\n{line}\n", encoding="utf-8")
        ran = bench.events("--file", str(file), "--yes")
        assert (1, True, True) == (ran.code, "line 2" in ran.err, fault in ran.err), ran.err
    assert ([], [[0]]) == (sink.requests, bench.database.run("SELECT count(*) FROM dlq_runs"))


def test_an_event_older_than_the_inbox_remembers_needs_force(bench: Bench, new_sink: NewSink, tmp_path: Path) -> None:
    """It is left out and counted, exit code 1; with --force it is sent. An inbox remembers as long as a letter may wait, 31 days."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    fresh, old = datetime.now(UTC) - timedelta(days=30), datetime.now(UTC) - timedelta(days=32)
    file = tmp_path / "events.jsonl"
    elements = [controls.element(controls.assembled(occurred_at=at.isoformat()), time=at.isoformat()) for at in (fresh, old)]
    file.write_text("\n".join(json.dumps(element) for element in elements), encoding="utf-8")

    ran = bench.events("--file", str(file), "--consumer", ORDER, "--yes")
    assert (1, True, 1) == (ran.code, "left out: 1 so old" in ran.err, len(sink.requests)), ran.err

    forced = bench.events("--file", str(file), "--consumer", ORDER, "--yes", "--force")
    assert (0, 3) == (forced.code, len(sink.requests)), forced.err


def test_a_letter_older_than_the_inbox_remembers_needs_force(bench: Bench, new_sink: NewSink) -> None:
    """A letter may wait as long as its topic keeps it, 31 days, and so long the inbox remembers."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    bench.fail(ORDER, controls.assembled(), now=datetime.now(UTC) - timedelta(days=30))
    (old,) = bench.fail(ORDER, controls.assembled(), now=datetime.now(UTC) - timedelta(days=32))

    ran = bench.replay("--all", "--yes")
    assert (1, True, 1) == (ran.code, "left out: 1 so old" in ran.err, len(sink.requests)), ran.err
    assert (0, f"{old}\tdone\t\n") == ((forced := bench.replay("--all", "--yes", "--force")).code, forced.out)


def test_force_has_a_done_event_handled_once_more_and_published_once(bench: Bench, start_function: StartFunction) -> None:
    """Its inbox row is removed just before the send, which its history says; what it published is not published again."""
    function = start_function("assembly_on_payment", bench.env)
    bench.sinks(assembly_on_payment=function.url)
    payload = controls.paid()
    bench.fail(ASSEMBLY, payload)
    assert 0 == bench.replay("--all", "--yes").code
    bench.database.run("UPDATE assembly_inbox_events SET received_at = received_at - interval '1 hour'")
    outbox = "SELECT event_id, seq, status FROM order_outbox_events"
    published = bench.database.run(outbox)
    (letter_id,) = bench.fail(ASSEMBLY, payload)

    ran = bench.replay("--all", "--yes", "--force")

    assert (0, f"{letter_id}\tdone\tremoved {payload['event_id']} from assembly_inbox_events\n") == (ran.code, ran.out)
    assert "so their handlers run once more" in ran.err
    assert ["replayed", "forced", "done"] == bench.history(letter_id)
    assert [[True]] == bench.database.run("SELECT received_at > clock_timestamp() - interval '1 minute' FROM assembly_inbox_events")
    assert (1, published) == (len(published), bench.database.run(outbox))


def test_force_repeats_a_message_once_and_not_again_when_the_run_is_resumed(
    bench: Bench, topic: str, start_function: StartFunction
) -> None:
    """notify: a killed run that had sent an event does not remove the row that this send made."""
    function = start_function("notify", bench.env)
    bench.sinks(notify=function.url)
    payload = controls.assembled()
    bench.produce(topic, *encoded(payload))
    arguments = ("--topic", topic, "--consumer", ASSEMBLED, "--yes")
    assert 0 == bench.events(*arguments).code
    assert 0 == bench.events(*arguments, "--force").code
    assert 2 == function.text.count(f"event_id={payload['event_id']}") or 2 == function.text.count(payload["event_id"]), function.text
    # As kill -9 leaves it: sent, and its result not written down.
    bench.database.run("UPDATE dlq_runs SET state = 'open', heartbeat_at = 'epoch' WHERE run_id = :run", run=bench.run_id())
    bench.database.run(
        "UPDATE dlq_run_items SET status = 'sent', code = NULL, open = true, item = :item WHERE run_id = :run",
        run=bench.run_id(),
        item=originals.Original(topic, json.dumps(payload).encode()).pack(),
    )

    told = bench.events("--resume", bench.run_id(), "--json").json()

    assert (0, 1) == (told["done"], told["duplicate"])


def test_force_asks(bench: Bench, topic: str, new_sink: NewSink) -> None:
    """Without an answer nothing is removed and nothing sent; what it would do is said."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url)
    bench.produce(topic, *encoded(controls.assembled()))

    ran = bench.events("--topic", topic, "--consumer", ORDER, "--force")

    assert (2, []) == (ran.code, sink.requests)
    assert "rows of these events are removed from the consumers' inboxes" in ran.err
    assert [[0]] == bench.database.run("SELECT count(*) FROM dlq_runs")


def test_a_dry_run_counts_and_leaves_nothing(bench: Bench, topic: str, new_sink: NewSink) -> None:
    """How many would go to whom."""
    sink = new_sink()
    bench.sinks(order_on_assembled=sink.url, notify=sink.url)
    bench.produce(topic, *encoded(*(controls.assembled() for _ in range(3))))

    told = bench.events("--topic", topic, "--dry-run", "--json").json()

    assert (6, {ORDER: 3, ASSEMBLED: 3}) == (told["total"], {group: of["items"] for group, of in told["consumers"].items()})
    assert ([], [[0]]) == (sink.requests, bench.database.run("SELECT count(*) FROM dlq_runs"))


def test_what_is_asked_for_wrongly_is_said(bench: Bench, topic: str, tmp_path: Path) -> None:
    """One sentence each, and nothing is sent."""
    for arguments, fault in [
        (["--yes"], "say which events"),
        (["--topic", topic, "--from", "yesterday"], "--from: must be an offset, or a time"),
        (["--topic", topic, "--from", "2026-11-24T12:00:00"], "with its zone"),
        (["--topic", topic, "--consumer", PAYMENT, "--yes"], "has no such consumer"),
        (["--topic", "nowhere", "--yes"], "names none for it"),
        (["--file", str(tmp_path / "none"), "--yes"], "No such file"),
        (["--file", "x", "--from", "1"], "are of a topic"),
        (["--resume", "x", "--topic", topic], "--resume"),
    ]:
        ran = bench.events(*arguments)
        assert (True, True) == (ran.code in {1, 2}, fault in ran.err), (arguments, ran.err)


def test_events_of_the_archive_go_to_the_consumer_that_failed(bench: Bench, make_topic: MakeTopic, new_sink: NewSink) -> None:
    """Archived, and forgotten everywhere else: they are sent from S3, in a span of time, to nobody but their consumer."""
    sink, other = new_sink(), new_sink()
    bench.sinks(order_on_assembled=sink.url, notify=other.url)
    for name in bench.dead_letters.values():
        make_topic(name=name)
    payload = controls.assembled()
    bench.fail(ORDER, payload)
    bench.fail(ASSEMBLED, controls.assembled())
    rows = bench.database.run("DELETE FROM dlq_letters RETURNING value")
    bench.produce(bench.dead_letters["assembly.dlq"], *(bytes(value) for (value,) in rows))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        bench.env |= {"DLQ_ARCHIVE_BUCKET": "letters", "DLQ_ARCHIVE_ENDPOINT": "http://{}:{}".format(*server.get_host_and_port())}
        bench.env |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        kept = commands.run(archive_app, "--create-bucket", "--json", env=bench.env)
        assert 2 == kept.json()["letters"], kept.err

        later = bench.events("--archive", "--consumer", ORDER, "--from", (datetime.now(UTC) + timedelta(hours=1)).isoformat(), "--yes")
        ran = bench.events("--archive", "--consumer", ORDER, "--from", (datetime.now(UTC) - timedelta(hours=1)).isoformat(), "--yes")
    finally:
        server.stop()

    assert (0, "there is no event to be sent\n") == (later.code, later.err)
    assert 0 == ran.code, ran.err
    assert ([payload], []) == ([event.json for event in sink.events], other.requests)


def test_letters_of_the_archive_are_events_again(bench: Bench) -> None:
    """What the archive holds of a letter gives its record back; what is no letter is left out."""
    payload = controls.assembled()
    bench.fail(ORDER, payload, key=b"\x00", headers=(("a", None),))
    ((value,),) = bench.database.run("SELECT value FROM dlq_letters")
    contents = [bytes(value), b"no letter", b"{}", None]
    lines = [archive_line.of_record("t.dlq", 0, n, timestamp_ms=None, key=None, value=content) for n, content in enumerate(contents)]

    ((original, consumer),) = supply.of_archive(lines)

    assert (ORDER, "order.assembly.completed", b"\x00", (("a", None),)) == (consumer, original.topic, original.key, original.headers)
    assert payload == json.loads(original.value or b"")
