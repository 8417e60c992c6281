"""Events of an order with an open letter wait behind it, and come after it: real functions, and the commands that send letters again."""

import itertools
import json
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition

from ops import child
from ops.dlq import change_command, parked_command
from shared import config, database, events, parked, parking
from tests import conftest, controls, stack
from tests.dlq import replaying
from tests.dlq.replaying import ASSEMBLED, ASSEMBLY, ORDER, PAYMENT, TOPICS, Bench
from tests.ops import commands
from tests.source import sinks

FUNCTIONS = {ORDER: "order_on_assembled", ASSEMBLY: "assembly_on_payment", PAYMENT: "notify", ASSEMBLED: "notify"}
ROLES = {ORDER: "order", ASSEMBLY: "assembly", PAYMENT: "notification", ASSEMBLED: "notification"}
ON = {"ORDER_PARKING": "true", "ASSEMBLY_PARKING": "true", "NOTIFICATION_PARKING": "true"}
OFFSETS = itertools.count(1000)
AT_THE_GATE = """
SELECT 1 FROM pg_locks JOIN pg_database AS d ON d.oid = database
WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
"""
Outcome = tuple[int, Any]

for made, name in ((parked_command.listed, "parked"), (parked_command.unpark, "unpark"), (change_command.discard, "discard")):
    replaying.app.command(name)(made)


class Order:
    """One consumer group's events of orders, sent to its function, and what became of them."""

    def __init__(self, bench: Bench, consumer: str, function: stack.Process, http: httpx.Client) -> None:
        self.bench, self.consumer, self.function, self.http = bench, consumer, function, http
        self.inbox = f"{ROLES[consumer]}_inbox_events"
        self.make = controls.paid if TOPICS[consumer] == "order.payment.completed" else controls.assembled

    def event(self, order_id: str, **changes: Any) -> controls.Payload:
        return self.make(order_id=order_id, event_id=f"{len(order_id)}{next(OFFSETS)}-{order_id}", **changes)

    def place(self) -> dict[str, str]:
        return {"kafkatopic": TOPICS[self.consumer], "knativekafkapartition": "0", "knativekafkaoffset": str(next(OFFSETS))}

    def send(self, payload: controls.Payload, **attributes: str) -> Outcome:
        """Deliver it as a source does. Status, and outcome or code."""
        answer = self.http.post(self.function.url, **controls.binary(payload, None, **(self.place() | attributes)))
        body = answer.json()
        return answer.status_code, body.get("outcome") or body.get("code")

    def fail(self, payload: controls.Payload) -> str:
        """A letter about it, open."""
        (letter_id,) = self.bench.fail(self.consumer, payload, offset=next(OFFSETS), key=payload["order_id"].encode())
        return letter_id

    def parked(self, *states: str) -> list[str]:
        """The ids of events that are parked, in their order."""
        rows = self.bench.database.run(
            "SELECT event_id FROM parked_events WHERE consumer = :consumer AND state = ANY(:states) ORDER BY seq",
            consumer=self.consumer, states=list(states or ("parked",)),
        )  # fmt: skip
        return [row[0] for row in rows]

    def handled(self, order_id: str | None = None) -> list[str]:
        """The ids of events that were handled, in that order."""
        done = "status = 'sent'" if "notification" in self.inbox else "true"
        sql = f"SELECT event_id FROM {self.inbox} WHERE {done} AND coalesce(order_id = :id, true) ORDER BY received_at"
        return [row[0] for row in self.bench.database.run(sql.replace(":id", ":id::text"), id=order_id)]


Start = Callable[..., Order]


@pytest.fixture
def start(bench: Bench, start_function: conftest.StartFunction) -> Iterator[Start]:
    """start(consumer, env=ON) -> its function with its own role, and that as the target of replays."""
    client = httpx.Client(timeout=30)

    def go(consumer: str, env: Mapping[str, str] = ON) -> Order:
        dsns = bench.database.environment()
        if consumer == ORDER:
            dsns["ORDER_POSTGRES_DSN"] = bench.database.dsn("orderflow_order")
        process = start_function(FUNCTIONS[consumer], dsns | dict(env))
        bench.sinks(**{FUNCTIONS[consumer]: process.url})
        return Order(bench, consumer, process, client)

    yield go
    client.close()


@pytest.mark.parametrize("consumer", [ORDER, ASSEMBLY, PAYMENT, ASSEMBLED])
def test_later_events_of_an_order_with_an_open_letter_are_parked(start: Start, bench: Bench, consumer: str) -> None:
    """They are answered 200 and stored byte for byte; they have no effect; other orders, and what was handled before, go as ever."""
    order = start(consumer)
    early, failed, later, last = (order.event("blocked") for _ in range(4))
    assert order.send(early) == (200, "done")
    order.fail(failed)
    body = json.dumps(later, indent=2).encode()
    answer = order.http.post(order.function.url, **controls.binary(later, body, **order.place(), traceparent=controls.TRACEPARENT))
    assert (answer.status_code, answer.json()) == (200, {"outcome": "parked"})
    other, batch = order.event("other"), order.event("third")
    assert order.send(other) == (200, "done")
    answer = order.http.post(order.function.url, **controls.batch([last, batch, early]))
    assert answer.status_code == 200
    assert [result["outcome"] for result in answer.json()["results"]] == ["parked", "done", "duplicate"]
    assert order.send(later) == (200, "parked")
    assert order.send(failed) == (200, "parked")
    assert order.parked() == [later["event_id"], last["event_id"]]
    assert order.handled() == [early["event_id"], other["event_id"], batch["event_id"]]
    (row,) = bench.database.run(
        "SELECT payload, context, order_id, letter_key FROM parked_events WHERE event_id = :id", id=later["event_id"]
    )
    assert (bytes(row[0]), row[2], row[3]) == (body, "blocked", "blocked")
    assert (row[1]["topic"], row[1]["partition"], row[1]["correlation_id"]) == (TOPICS[consumer], 0, "correlation-1")
    assert bench.database.run("SELECT count(*) FROM order_outbox_events WHERE aggregate_id = 'blocked'")[0][0] == (consumer == ASSEMBLY)
    metrics = order.http.get(f"{order.function.url}/metrics").text
    assert 'outcome="parked"' in metrics


def test_only_the_group_whose_letter_it_is_waits(start: Start) -> None:
    """notify serves two groups: a letter of the payments' holds up no assembly message of the same order."""
    order = start(PAYMENT)
    order.fail(order.event("one"))
    assembled = controls.assembled(order_id="one")
    answer = order.http.post(order.function.url, **controls.binary(assembled))
    assert answer.json() == {"outcome": "done"}
    assert order.send(order.event("one")) == (200, "parked")


def test_an_id_that_belongs_to_another_parked_event_is_refused(start: Start) -> None:
    """Two orders, both blocked, and one event id: the second is refused as ever, not swallowed."""
    order = start(ORDER)
    order.fail(order.event("one"))
    order.fail(order.event("two"))
    first = order.event("one")
    assert order.send(first) == (200, "parked")
    assert order.send(order.event("two") | {"event_id": first["event_id"]}) == (422, "event_id_reused")


@pytest.mark.parametrize("consumer", [ORDER, PAYMENT])
def test_a_replay_sends_the_letter_then_what_is_parked_then_new_ones_go(start: Start, bench: Bench, consumer: str) -> None:
    """In the order in which they came; two orders do not wait for each other; then nothing is blocked any more."""
    order = start(consumer)
    failed, *later = (order.event("one") for _ in range(5))
    other, other_later = order.event("two"), order.event("two")
    letters = [order.fail(failed), order.fail(other)]
    assert [order.send(event) for event in [*later, other_later]] == [(200, "parked")] * 5
    told = bench.replay("--all", "--yes", "--json").json()
    assert (told["done"], told["failed_again"], told["parked"]) == (2, 0, {"done": 5})
    assert order.handled("one") == [event["event_id"] for event in [failed, *later]]
    assert order.handled("two") == [other["event_id"], other_later["event_id"]]
    assert order.parked() == []
    assert sorted(order.parked("replayed")) == sorted(event["event_id"] for event in [*later, other_later])
    assert order.send(order.event("one")) == (200, "done")
    assert [bench.history(letter_id) for letter_id in letters] == [["replayed", "done"]] * 2
    assert bench.database.run("SELECT state FROM dlq_runs") == [["finished"]]


def test_what_arrives_during_a_replay_is_never_ahead_of_what_came_before(start: Start, bench: Bench) -> None:
    """A source goes on with the order while it is replayed: each event is parked or handled, and all are handled in their order."""
    order = start(ORDER)
    events = [order.event("one") for _ in range(20)]
    order.fail(events[0])
    for event in events[1:]:
        assert order.send(event) == (200, "parked")
    outcomes: list[str] = []

    def deliver() -> None:
        until = time.monotonic() + stack.PATIENCE_S
        while outcomes[-5:] != ["done"] * 5 and time.monotonic() < until:
            events.append(order.event("one"))
            outcomes.append(order.send(events[-1])[1])
            time.sleep(0.005)

    source = threading.Thread(target=deliver)
    source.start()
    stack.eventually(lambda: outcomes, "the first of them")
    told = bench.replay("--order", "one", "--yes", "--json").json()
    source.join()
    first_done = outcomes.index("done")
    assert set(outcomes[:first_done]) == {"parked"}
    assert set(outcomes[first_done:]) == {"done"}
    assert told["parked"] == {"done": 19 + first_done}
    assert order.parked() == []
    assert order.handled() == [event["event_id"] for event in events]


def test_a_key_does_not_become_free_while_an_event_is_being_parked(start: Start, bench: Bench) -> None:
    """Who replays waits for the commit of the parked row, and then finds it: it cannot be left behind."""
    order = start(ORDER)
    order.fail(order.event("one"))
    settings = config.Settings(parking={"order": True})
    parks = parking.Parking.of("order_on_assembled", "order_inbox_events", settings)
    assert parks is not None
    event = events.read(json.dumps(order.event("one")).encode(), events.known()).within(events.Context(topic=TOPICS[ORDER]))
    mine, theirs = (database.Database(bench.database.dsn(), settings=settings, application="test") for _ in range(2))
    found: list[Any] = []

    def look() -> None:
        found.append(theirs.transact(parked.Key(ORDER, "one").first, lock_timeout_ms=60_000))

    looking = threading.Thread(target=look)

    def park(tx: database.Transaction) -> None:
        assert parks.aside(tx, [event]) == {event.event_id: "parked"}
        bench.database.run("UPDATE dlq_letters SET state = 'done'")
        looking.start()
        stack.eventually(lambda: bench.database.run(AT_THE_GATE), "the other to wait at the gate")
        assert found == []

    mine.transact(park)
    looking.join()
    assert [waiting.event_id for waiting in found] == [event.event_id]
    mine.close()
    theirs.close()


def test_an_event_is_not_parked_behind_a_letter_that_is_done_in_the_meantime(start: Start, bench: Bench) -> None:
    """It found the letter open, waited for who was at the key, looked again, and was handled."""
    order = start(ORDER, ON | {"LOCK_TIMEOUT": "4s"})
    order.fail(order.event("one"))
    settings = config.Settings()
    mine = database.Database(bench.database.dsn(), settings=settings, application="test")
    outcomes: list[Outcome] = []
    sending = threading.Thread(target=lambda: outcomes.append(order.send(order.event("one"))))

    def free(tx: database.Transaction) -> None:
        assert parked.Key(ORDER, "one").first(tx) is None
        sending.start()
        stack.eventually(lambda: bench.database.run(AT_THE_GATE), "the event to wait at the gate")
        tx.run("UPDATE dlq_letters SET state = 'done'")

    mine.transact(free)
    sending.join()
    assert outcomes == [(200, "done")]
    mine.close()


def test_nobody_passes_by_guessing(start: Start, bench: Bench) -> None:
    """The marker of no run, of a run that has not sent this event, of one that was given up, and out of turn: all are parked."""
    order = start(ORDER)
    failed, first, second = (order.event("one") for _ in range(3))
    mine, others = order.fail(failed), order.fail(order.event("two"))
    assert order.send(first) == (200, "parked")
    bench.database.run("INSERT INTO dlq_runs (run_id, kind, target, who) VALUES ('run', 'letters', 'order-service', 'me')")
    item = "INSERT INTO dlq_run_items (run_id, n, letter_id, consumer, status) VALUES ('run', :n::int, :id, 'order-service', 'sent')"
    bench.database.run(item, n=1, id=others)
    for event in (failed, second):
        assert order.send(event, orderflowreplay="guessed") == (200, "parked")
        assert order.send(event, orderflowreplay="run") == (200, "parked")
    bench.database.run(item, n=2, id=mine)
    for change in ("status = 'selected'", "open = false", "consumer = 'assembly-service'"):
        bench.database.run(f"UPDATE dlq_run_items SET {change} WHERE n = 2")
        assert order.send(failed, orderflowreplay="run") == (200, "parked")
        bench.database.run("UPDATE dlq_run_items SET status = 'sent', open = true, consumer = 'order-service' WHERE n = 2")
    assert order.send(second, orderflowreplay="run") == (200, "parked")
    bench.database.run("UPDATE dlq_runs SET state = 'abandoned'")
    assert order.send(failed, orderflowreplay="run") == (200, "parked")
    assert order.handled() == []
    bench.database.run("UPDATE dlq_runs SET state = 'open'")
    assert order.send(failed, orderflowreplay="run") == (200, "done")
    assert order.send(first, orderflowreplay="run") == (200, "done")


def test_a_parked_event_that_fails_gets_a_letter_and_the_rest_waits_behind_it(
    start: Start, bench: Bench, new_sink: Callable[[], sinks.Sink]
) -> None:
    """Refused when its turn came, it is a letter that can be shown, edited and replayed; what came after it is not sent before."""
    order, sink = start(ORDER), new_sink()
    failed, bad, last = (order.event("one") for _ in range(3))
    order.fail(failed)
    assert [order.send(event) for event in (bad, last)] == [(200, "parked")] * 2
    bench.sinks(order_on_assembled=sink.url)
    sink.script = sinks.each(lambda event: sinks.refuse() if event.json["event_id"] == bad["event_id"] else sinks.OK)
    told = bench.replay("--all", "--yes", "--json").json()
    assert (told["done"], told["parked"]) == (1, {"failed_again": 1})
    assert order.parked() == [last["event_id"]]
    ((event_id, reason, code, value),) = bench.database.run(
        "SELECT event_id, reason, error_code, value FROM dlq_letters WHERE state = 'open'"
    )
    assert (event_id, reason, code) == (bad["event_id"], "refused", "invalid_event")
    assert bytes(bench.database.run("SELECT payload FROM order_outbox_events WHERE topic LIKE 'assembly.dlq%'")[0][0]) == bytes(value)
    sink.script = sinks.each(lambda _: sinks.OK)
    assert bench.replay("--all", "--yes", "--json").json()["parked"] == {"done": 1}
    assert [event.json["event_id"] for event in sink.events] == [e["event_id"] for e in (failed, bad, bad, last)]
    assert {event.attributes["orderflowreplay"] for event in sink.events} == {
        row[0] for row in bench.database.run("SELECT run_id FROM dlq_runs")
    }


def test_a_letter_that_lies_after_a_parked_event_is_sent_after_it(start: Start, bench: Bench) -> None:
    """Letter, parked, letter: a later record that was refused as it came does not overtake what was parked before it."""
    order = start(ORDER)
    events = [order.event("one") for _ in range(4)]
    order.fail(events[0])
    assert order.send(events[1]) == (200, "parked")
    order.fail(events[2])
    assert order.send(events[3]) == (200, "parked")
    assert bench.replay("--all", "--yes").code == 0
    assert order.handled() == [event["event_id"] for event in events]


def test_what_is_parked_before_a_letter_goes_before_it(start: Start, bench: Bench) -> None:
    """The letter that it waited behind was discarded; the replay of a later one sends it first."""
    order = start(ORDER)
    events = [order.event("one") for _ in range(4)]
    void = order.fail(events[0])
    assert order.send(events[1]) == (200, "parked")
    later = order.fail(events[2])
    assert order.send(events[3]) == (200, "parked")
    assert commands.run(replaying.app, "discard", void, "--reason", "void", "--yes", env=bench.env).code == 0
    assert bench.replay(later, "--yes").code == 0
    assert order.handled() == [event["event_id"] for event in events[1:]]


def test_after_a_discard_unpark_lets_the_order_go_on(start: Start, bench: Bench) -> None:
    """Nothing holds the parked events up then, and `parked` says so; a key whose letter is open is left alone."""
    order = start(ORDER)
    letter_id = order.fail(order.event("one"))
    other = order.fail(order.event("two"))
    one, two = order.event("one"), order.event("two")
    assert [order.send(event) for event in (one, two)] == [(200, "parked")] * 2
    assert commands.run(replaying.app, "discard", letter_id, "--reason", "void", "--yes", env=bench.env).code == 0
    assert order.send(later := order.event("one")) == (200, "parked")
    listed = commands.run(replaying.app, "parked", "--json", env=bench.env).json()
    assert [(row["order"], row["events"], row["behind"]) for row in listed] == [("one", 2, []), ("two", 1, [other])]
    assert commands.run(replaying.app, "unpark", "--yes", "--json", env=bench.env).json()["parked"] == {"done": 2}
    assert order.handled() == [one["event_id"], later["event_id"]]
    assert order.parked() == [two["event_id"]]
    assert "no event is parked" in commands.run(replaying.app, "unpark", "--yes", env=bench.env).err


def test_a_replay_that_was_killed_is_resumed_and_none_is_handled_twice(
    start: Start, bench: Bench, start_process: conftest.StartProcess
) -> None:
    """kill -9 in the middle of the parked events: the key stays blocked, and the next run goes on where it was."""
    order = start(ASSEMBLY)
    events = [order.event("one") for _ in range(40)]
    order.fail(events[0])
    assert {order.send(event) for event in events[1:]} == {(200, "parked")}
    process = start_process(bench.command("replay", "--all", "--yes", "--rate", "4"), bench.env)
    stack.eventually(lambda: len(order.handled()) >= 4, "the first of them")
    process.kill()
    assert order.send(last := order.event("one")) == (200, "parked")
    assert bench.replay("--resume", bench.run_id(), "--rate", "100000").code == 0
    assert order.parked() == []
    assert order.handled() == [event["event_id"] for event in [*events, last]]
    assert bench.database.run("SELECT count(*) FROM order_outbox_events") == [[41]]


def test_a_replay_waits_for_who_holds_the_key(start: Start, bench: Bench, start_process: conftest.StartProcess) -> None:
    """Nothing of the order is sent while another session holds it, everything of others is; then the rest follows."""
    order = start(ORDER)
    bench.env |= ON
    held, free = order.event("held"), order.event("free")
    for event in (held, free):
        order.fail(event)
    holder = database.Database(bench.database.dsn(), settings=config.Settings(), application="test")
    with holder.session() as session:
        assert parked.Key(ORDER, "held").hold(session)
        process = start_process(bench.command("replay", "--all", "--yes"), bench.env)
        stack.eventually(lambda: order.handled() == [free["event_id"]], "the other order to be handled")
        time.sleep(1)
        assert order.handled() == [free["event_id"]]
        assert process.alive()
    assert process.wait() == 0, process.text
    assert order.handled() == [free["event_id"], held["event_id"]]
    holder.close()


def test_two_replays_of_one_order_send_each_event_once(start: Start, bench: Bench, start_process: conftest.StartProcess) -> None:
    """Each has one of the letters; whichever comes first, what is parked follows the second in its order."""
    order = start(ORDER)
    first, second = order.event("one"), order.event("one")
    letters = [order.fail(first), order.fail(second)]
    later = [order.event("one") for _ in range(30)]
    assert {order.send(event) for event in later} == {(200, "parked")}
    processes = [start_process(bench.command("replay", letter_id, "--yes", "--rate", "50"), bench.env) for letter_id in letters]
    assert [process.wait() for process in processes] == [0, 0], [process.text for process in processes]
    assert sorted(order.handled()) == sorted(event["event_id"] for event in [first, second, *later])
    assert order.handled()[-30:] == [event["event_id"] for event in later]
    assert 'outcome="duplicate"' not in order.http.get(f"{order.function.url}/metrics").text


def test_off_it_changes_nothing(start: Start, bench: Bench) -> None:
    """Without the setting an order with an open letter goes on, and its function needs no right to the tables of letters."""
    bench.database.run("REVOKE ALL ON dlq_letters, parked_events, dlq_runs, dlq_run_items FROM orderflow_order")
    bench.database.run(
        "REVOKE SELECT (letter_id, consumer, letter_key, event_id, event_type, order_id, state) ON dlq_letters FROM orderflow_order"
    )
    order = start(ORDER, {"ORDER_PARKING": "false"})
    order.fail(order.event("one"))
    assert order.send(order.event("one")) == (200, "done")
    assert order.send(order.event("one"), orderflowreplay="run") == (200, "done")
    with_it = start(ORDER)
    assert with_it.send(order.event("one")) == (503, "permission")


def test_the_router_answers_only_when_the_index_has_the_letter(
    bench: Bench,
    start_function: conftest.StartFunction,
    make_topic: conftest.MakeTopic,
    private_postgres: Callable[..., stack.PostgresServer],
) -> None:
    """With parking on and its database away a letter is answered 503, though Kafka has it, and is not written again when it comes again."""
    server = private_postgres()
    made = server.new_database()
    topics = {name: make_topic(1, {"max.message.bytes": "2162688"}) for name in ("ORDER_ASSEMBLY_COMPLETED", "NOTIFICATION")}
    env = {f"KAFKA_{name}_DLQ_TOPIC": topic for name, topic in topics.items()}
    env |= {"KAFKA_BROKERS": bench.brokers, "DLQ_POSTGRES_DSN": made.dsn("orderflow_dlq"), "ORDER_PARKING": "true"}
    router = start_function("dlq_router", env)
    server.stop()

    def fail(path: str, offset: int) -> Outcome:
        body = {"topic": "order.assembly.completed", "partition": 0, "offset": offset, "key": None, "value": "e30=", "headers": []}
        headers = {"content-type": "application/vnd.orderflow.failed-record+json"}
        answer = httpx.post(router.url + path, json=body | {"code": "bad", "reason": "refused"}, headers=headers, timeout=30)
        return answer.status_code, answer.json().get("code")

    parks, parks_not = "/order-service/order.assembly.completed", "/notification-assembly/order.assembly.completed"
    assert {fail(parks, 7) for _ in range(3)} == {(503, "not_indexed")}
    assert fail(parks_not, 7) == (200, None)
    server.start()
    stack.eventually(lambda: fail(parks, 7) == (200, None), "the database to be back")
    assert made.run("SELECT message_offset, times, state FROM dlq_letters WHERE consumer = 'order-service'") == [[7, 1, "open"]]
    assert len(replaying.records(bench.brokers, topics["ORDER_ASSEMBLY_COMPLETED"], "reader")) == 1


def test_kill_9_of_the_function_between_loses_and_doubles_nothing(
    bench: Bench,
    start_function: conftest.StartFunction,
    start_process: conftest.StartProcess,
    make_topic: conftest.MakeTopic,
    tmp_path: Path,
) -> None:
    """Source, function, dlq_router: an order whose first event is refused waits, all others go on, however often the function is killed."""
    topic = make_topic()
    env = bench.env | ON | bench.database.environment()
    env |= {"ORDER_POSTGRES_DSN": bench.database.dsn("orderflow_order"), "KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC": topic}
    env |= {"KAFKA_ORDER_ASSEMBLY_COMPLETED_DLQ_TOPIC": make_topic(1, {"max.message.bytes": "2162688"})}
    env |= {"KAFKA_ORDER_CONSUMER_GROUP_ID": f"group-{uuid.uuid4().hex[:8]}"}
    function, router = start_function("order_on_assembled", env), start_function("dlq_router", env)
    blocked = [controls.assembled(order_id="blocked", event_id=f"b{n:03}") for n in range(60)]
    others = [controls.assembled(order_id=f"other-{n % 7}", event_id=f"o{n:03}") for n in range(120)]
    produce(
        bench.brokers,
        topic,
        [controls.without(blocked[0], "user_id"), *(e for trio in zip(blocked[1:], others[::2], others[1::2], strict=False) for e in trio)],
    )
    command = [
        sys.executable,
        "-m",
        "connectors.kafka_source",
        "--source",
        "order-on-assembled",
        "--control-port",
        str(child.free_ports(1)[0]),
    ]
    urls = f"order-on-assembled={function.url},dlq-router={router.url}"
    start_process([*command, "--manifest", str(manifest(tmp_path))], env | {"SINK_URLS": urls})
    for _ in range(3):
        time.sleep(0.4)
        function.kill()
        function.start()
        function.wait_ready()
    count = 1 + 3 * 59
    stack.eventually(lambda: committed(bench.brokers, env["KAFKA_ORDER_CONSUMER_GROUP_ID"], topic) == count, "all to be committed")
    parked = bench.database.run("SELECT event_id FROM parked_events ORDER BY seq")
    assert [row[0] for row in parked] == [event["event_id"] for event in blocked[1:]]
    handled = bench.database.run("SELECT event_id FROM order_inbox_events ORDER BY event_id")
    assert [row[0] for row in handled] == [event["event_id"] for event in others[: 2 * 59]]
    assert bench.database.run("SELECT consumer, letter_key, event_id FROM dlq_letters") == [
        [env["KAFKA_ORDER_CONSUMER_GROUP_ID"], "blocked", "b000"]
    ]


def manifest(folder: Path) -> Path:
    """The manifest of the sources, read one event at a time and two side by side, so that a kill meets something half done."""
    documents = list(yaml.safe_load_all(Path("infra/knative/sources.yaml").read_text(encoding="utf-8")))
    for document in documents:
        document["metadata"]["annotations"] |= {"orderflow.dev/batch-size": "3", "orderflow.dev/requests-in-flight": "2"}
    path = folder / "sources.yaml"
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return path


def produce(brokers: str, topic: str, payloads: Sequence[controls.Payload]) -> None:
    producer = Producer(stack.CLIENT | {"bootstrap.servers": brokers, "linger.ms": 5})
    for payload in payloads:
        producer.produce(topic, json.dumps(payload).encode(), key=payload["order_id"].encode())
    assert producer.flush(stack.PATIENCE_S) == 0


def committed(brokers: str, group: str, topic: str) -> int:
    consumer = Consumer(stack.CLIENT | {"bootstrap.servers": brokers, "group.id": group})
    try:
        return consumer.committed([TopicPartition(topic, 0)], timeout=stack.PATIENCE_S)[0].offset
    finally:
        consumer.close()
