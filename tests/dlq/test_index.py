"""The index: filled by dlq_router, caught up from the topics, rebuilt without forgetting."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from confluent_kafka import Producer

from ops import programs
from ops.dlq import inboxes, targets
from shared import config, letters
from tests import conftest, controls, stack
from tests.dlq.desk import ASSEMBLY, LETTER_LIMIT, ORDER, PAYMENT, Desk

FAILED_RECORD = "application/vnd.orderflow.failed-record+json"
EARLIER = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:9/orders"


def hand_in(router: stack.Process, payload: controls.Payload, **told: Any) -> httpx.Response:
    """A failed record, handed to dlq_router as our source does."""
    value = base64.b64encode(json.dumps(payload).encode()).decode()
    record = {
        "topic": "order.payment.completed", "partition": 3, "offset": 17, "timestamp": 1_795_000_000_000, "key": None, "value": value,
        "headers": [], "status": 500, "code": "bug", "detail": "ZeroDivisionError in main.py:33: nothing", "reason": "out_of_retries",
        "place": "ZeroDivisionError main.py:33", "attempts": 4,
    } | told  # fmt: skip
    url = f"{router.url}/assembly-service/order.payment.completed"
    return httpx.post(url, content=json.dumps(record), headers={"content-type": FAILED_RECORD}, timeout=30)


def row(desk: Desk, letter_id: str, columns: str) -> list[Any]:
    [found] = desk.database.run(f"SELECT {columns} FROM dlq_letters WHERE letter_id = :id", id=letter_id)
    return found


def test_dlq_router_indexes_a_letter_by_its_own_role(desk: Desk, start_function: conftest.StartFunction) -> None:
    """With its record's place, ids, cause and bytes, once the answer is out."""
    router = start_function("dlq_router", desk.env | desk.database.environment())
    payload = controls.paid()
    answer = hand_in(router, payload).json()
    count = "SELECT count(*) FROM dlq_letters"
    stack.eventually(lambda: desk.database.run(count) == [[1]], "the letter in the index")
    columns = "consumer, topic, partition, message_offset, event_id, event_type, order_id, letter_key, reason, error_code, place, attempts"
    assert row(desk, answer["letter_id"], f"{columns}, state, times, dlq_topic") == [
        "assembly-service", "order.payment.completed", 3, 17, payload["event_id"], "order.payment.completed", payload["order_id"],
        payload["order_id"], "out_of_retries", "bug", "ZeroDivisionError main.py:33", 4, "open", 1, desk.topic(ASSEMBLY),
    ]  # fmt: skip
    assert desk.listed() == [] or desk.listed()[0]["letter_id"] == answer["letter_id"]
    place = [desk.topic(ASSEMBLY), 0, 0, 1]
    assert row(desk, answer["letter_id"], "dlq_topic, dlq_partition, dlq_offset, times") == place


def test_without_postgresql_kafka_has_the_letter_and_the_next_command_finds_it(desk: Desk, start_function: conftest.StartFunction) -> None:
    """PostgreSQL away while a letter is written: 200 from Kafka; `list` reads the topic on, and counts the letter once."""
    router = start_function("dlq_router", desk.env | {"DLQ_POSTGRES_DSN": NOWHERE})
    hand_in(router, controls.paid(), offset=1)
    answers = [hand_in(router, controls.paid(), offset=offset).json() for offset in range(2, 12)]
    assert {answer["store"] for answer in answers} == {"kafka"}
    found = desk.listed()
    assert {answer["letter_id"] for answer in answers} < {letter["letter_id"] for letter in found}
    assert len(found) == 11
    assert {letter["times"] for letter in desk.listed()} == {1}


def test_letters_that_wait_for_postgresql_are_indexed_when_it_is_back(
    desk: Desk, start_function: conftest.StartFunction, private_postgres: Any
) -> None:
    """Without any command: the router itself goes on."""
    server = private_postgres()
    database = server.new_database()
    server.stop()
    router = start_function("dlq_router", desk.env | database.environment())
    assert hand_in(router, controls.paid()).json()["store"] == "kafka"
    server.start()
    stack.eventually(lambda: database.run("SELECT count(*) FROM dlq_letters") == [[1]], "the letter in the index")
    database.close()


def test_a_command_reads_on_from_where_the_last_one_ended(desk: Desk) -> None:
    """Each record is read once; `sync` says what it found."""
    desk.fails(ORDER, controls.assembled(), controls.assembled())
    desk.fails(PAYMENT, controls.paid())
    assert desk.dlq("sync", "--json").json() == {"read": 3, "added": 3, "done": 0, "unreadable": []}
    assert desk.dlq("sync", "--json").json()["read"] == 0
    [late] = desk.fails(ORDER, controls.assembled())
    assert desk.dlq("sync", "--json").json() | {"unreadable": []} == {"read": 1, "added": 1, "done": 0, "unreadable": []}
    assert [late] == [letter["letter_id"] for letter in desk.listed("--max", "1")]


def test_D13_a_letter_that_is_written_again_and_again_counts_once(desk: Desk) -> None:
    """The same failure five times is one; two later failures of the record are lines of its history; groups count distinct letters."""
    again = controls.assembled()
    first = desk.letter(ORDER, again, offset=5, now=EARLIER)
    second = desk.letter(ORDER, again, offset=5, now=EARLIER + timedelta(hours=1), code="bug", place="KeyError main.py:7")
    third = desk.letter(ORDER, again, offset=5, now=EARLIER + timedelta(hours=2), code="bug", place="KeyError main.py:7")
    assert first.letter_id == second.letter_id == third.letter_id
    other = desk.letter(ORDER, controls.assembled(), code="bug", place="KeyError main.py:7")
    desk.indexed(second)
    desk.write(ORDER, first, third, first, first, second, other, first, third)
    [group] = desk.dlq("groups", "--json").json()
    assert (group["letters"], group["error_code"], group["place"]) == (2, "bug", "KeyError main.py:7")
    shown = desk.dlq("show", first.letter_id, "--json").json()
    assert (shown["failed_at"], shown["last_failed_at"], shown["times"]) == ("2026-11-24T12:00:00Z", "2026-11-24T14:00:00Z", 3)
    assert [(line["at"], line["what"]) for line in shown["history"]] == [
        ("2026-11-24T13:00:00Z", "failed again"),
        ("2026-11-24T14:00:00Z", "failed again"),
    ]
    desk.dlq("sync", "--rebuild")
    assert desk.dlq("show", first.letter_id, "--json").json() == shown


def test_a_rebuild_adds_letters_and_keeps_history_and_states(desk: Desk) -> None:
    """Rows that were lost come back; a discarded letter stays discarded, a done one done, with every line of their history."""
    lost, given_up, done = desk.fails(ORDER, *(controls.assembled() for _ in range(3)))
    desk.dlq("sync")
    assert desk.dlq("discard", given_up, "--reason", "a test order", "--yes").code == 0
    desk.database.run("UPDATE dlq_letters SET state = 'done', state_reason = 'replayed by run r' WHERE letter_id = :id", id=done)
    desk.database.run("INSERT INTO dlq_history (letter_id, what, who, run_id) VALUES (:id, 'done', 'me', 'r')", id=done)
    desk.database.run("DELETE FROM dlq_letters WHERE letter_id = :id", id=lost)
    assert lost not in {letter["letter_id"] for letter in desk.listed("--state", "all")}
    assert desk.dlq("sync", "--rebuild", "--json").json() == {"read": 3, "added": 1, "done": 0, "unreadable": []}
    states = {letter["letter_id"]: (letter["state"], letter["state_reason"]) for letter in desk.listed("--state", "all")}
    assert states == {lost: ("open", None), given_up: ("discarded", "a test order"), done: ("done", "replayed by run r")}
    assert (desk.history(given_up), desk.history(done)) == (["discarded"], ["done"])


def test_a_done_letter_that_fails_again_is_open_again_and_a_discarded_one_is_not(desk: Desk) -> None:
    """Only a failure after it was done counts: reading the old one again changes nothing."""
    payloads = [controls.assembled(), controls.assembled()]
    old = [desk.letter(ORDER, payload, offset=n, now=EARLIER) for n, payload in enumerate(payloads)]
    desk.write(ORDER, *old)
    desk.dlq("sync")
    done, given_up = (letter.letter_id for letter in old)
    desk.database.run("UPDATE dlq_letters SET state = 'done' WHERE letter_id = :id", id=done)
    desk.database.run(
        "INSERT INTO dlq_history (letter_id, at, what, who) VALUES (:id, :at::timestamptz, 'done', 'me')",
        id=done,
        at=EARLIER + timedelta(minutes=1),
    )
    desk.dlq("discard", given_up, "--reason", "no", "--yes")
    desk.write(ORDER, *old)
    assert desk.listed() == []
    desk.write(ORDER, *(desk.letter(ORDER, payload, offset=n, now=EARLIER + timedelta(hours=1)) for n, payload in enumerate(payloads)))
    assert [(letter["letter_id"], letter["state"]) for letter in desk.listed()] == [(done, "failed again")]
    assert desk.history(given_up) == ["failed again", "discarded"]


def test_after_a_total_loss_letters_whose_events_were_handled_are_done(desk: Desk) -> None:
    """By the inbox of their own consumer; a claim without an effect, another order with the id, and another consumer's row do not count."""
    handled, claimed, reused, elsewhere = (controls.paid() for _ in range(4))
    ids = desk.fails(PAYMENT, handled, claimed, reused, elsewhere)
    notified = (
        "INSERT INTO notification_inbox_events (event_id, event_type, occurred_at, order_id, status, processed_at)"
        " VALUES (:id, 'order.payment.completed', now(), :order, :status, :at::timestamptz)"
    )
    desk.database.run(notified, id=handled["event_id"], order=handled["order_id"], status="sent", at=EARLIER)
    desk.database.run(notified, id=claimed["event_id"], order=claimed["order_id"], status="claimed", at=None)
    desk.database.run(notified, id=reused["event_id"], order="another", status="sent", at=EARLIER)
    desk.database.run(
        "INSERT INTO assembly_inbox_events (event_id, event_type, occurred_at, order_id)"
        " VALUES (:id, 'order.payment.completed', now(), :order)",
        id=elsewhere["event_id"],
        order=elsewhere["order_id"],
    )
    assert desk.dlq("sync", "--json").json() == {"read": 4, "added": 4, "done": 1, "unreadable": []}
    assert [letter["letter_id"] for letter in desk.listed("--state", "done")] == ids[:1]
    assert {letter["letter_id"] for letter in desk.listed()} == set(ids[1:])
    [line] = desk.dlq("show", ids[0], "--json").json()["history"]
    assert (line["what"], line["at"]) == ("done", "2026-11-24T12:00:00Z")


def test_a_dead_letter_topic_that_was_created_again_is_read_from_its_beginning(desk: Desk) -> None:
    """Offsets begin again, and letters below the old position are there all the same; the old letters stay."""
    desk.fails(ORDER, *(controls.assembled() for _ in range(5)))
    assert len(desk.listed()) == 5
    name = desk.topic(ORDER)
    admin = stack.AdminClient(stack.CLIENT | {"bootstrap.servers": desk.brokers})
    admin.delete_topics([name])[name].result(stack.PATIENCE_S)
    stack.eventually(lambda: name not in admin.list_topics(timeout=5).topics, "the topic to be gone")
    assert "there is no topic" in desk.dlq("list").err
    desk.kafka.make_topic(1, LETTER_LIMIT, name)
    [new] = desk.fails(ORDER, controls.assembled())
    found = desk.listed()
    assert len(found) == 6
    assert new in {letter["letter_id"] for letter in found}


def test_records_that_are_no_letters_are_named_and_hold_nothing_up(desk: Desk) -> None:
    """Null, empty, no JSON, somebody's JSON, a letter with an impossible time: each named by its place; the letter behind them is there."""
    producer = Producer(stack.CLIENT | {"bootstrap.servers": desk.brokers})
    good = desk.letter(ORDER, controls.assembled())
    odd = json.loads(good.value) | {"failed_at": "9999-99-99T00:00:00Z"}
    for value in (None, b"", b"\xff", b'{"a": 1}', json.dumps(odd).encode()):
        producer.produce(desk.topic(ORDER), value)
    assert producer.flush(stack.PATIENCE_S) == 0
    desk.write(ORDER, good)
    ran = desk.dlq("sync", "--json")
    assert ran.json()["unreadable"] == [f"{desk.topic(ORDER)}[0]@{offset}" for offset in range(5)]
    assert "5 records on the dead-letter topics that are no letters" in ran.err
    assert [letter["letter_id"] for letter in desk.listed()] == [good.letter_id]
    assert "no letters" not in desk.dlq("list").err


def test_a_letter_that_postgresql_cannot_hold_as_it_is_has_a_row_all_the_same(desk: Desk) -> None:
    """NUL in a text, numbers beyond 32 bits, a key of 700 kB: its neighbours and it are listed."""
    odd = desk.letter(ORDER, b"\x00", key=b"\xff" * 700_000, partition=2**40, offset=2**62, attempts=2**40)
    body = json.loads(odd.value) | {"error_message": "a\x00b"}
    desk.write(ORDER, desk.letter(ORDER, controls.assembled()), type(odd)(**{**_fields(odd), "value": json.dumps(body).encode()}))
    found = {letter["letter_id"]: letter for letter in desk.listed()}
    assert len(found) == 2
    assert (found[odd.letter_id]["partition"], found[odd.letter_id]["message_offset"]) == (2**40, 2**62)
    assert found[odd.letter_id]["letter_key"].startswith("sha256:")


def _fields(made: Any) -> dict[str, Any]:
    return {name: getattr(made, name) for name in type(made).__slots__}


def test_without_kafka_the_index_answers_and_says_what_may_be_missing(desk: Desk, unused: str) -> None:
    """The letters that it has; a note on standard error; exit code 0."""
    known = desk.letter(ORDER, controls.assembled())
    desk.indexed(known)
    desk.env["KAFKA_BROKERS"] = unused
    ran = desk.dlq("list", "--json")
    assert [letter["letter_id"] for letter in ran.json()["letters"]] == [known.letter_id]
    assert "not caught up" in ran.err
    failed = desk.dlq("sync")
    assert (failed.code, failed.out) == (1, "")


def test_the_fingerprint_is_of_the_cause_and_never_of_a_text() -> None:
    """Consumer, reason, code and place; a code that is a sentence is no cause of its own."""
    made = letters.fingerprint(ORDER, "refused", "invalid_event", "amount")
    others = [
        (PAYMENT, "refused", "invalid_event", "amount"),
        (ORDER, "out_of_retries", "invalid_event", "amount"),
        (ORDER, "refused", "bug", "amount"),
        (ORDER, "refused", "invalid_event", None),
    ]
    assert len({made, *(letters.fingerprint(*other) for other in others)}) == 5
    texts = {letters.fingerprint(ORDER, "refused", f"Order {n} is unknown", None) for n in range(3)}
    assert len(texts) == 1


def test_refused_out_of_retries_and_dependency_away_are_three_causes(desk: Desk) -> None:
    """Whatever the text says, and however many orders it names."""
    for reason, code in (("refused", "invalid_event"), ("out_of_retries", "bug"), ("dependency_away", "database_away")):
        desk.fails(ORDER, *(controls.assembled() for _ in range(2)), reason=reason, code=code, detail=f"order {controls.new_id()}")
        desk.fails(ORDER, controls.assembled(), reason=reason, code=code, detail="another text")
    groups = desk.dlq("groups", "--json").json()
    assert sorted((group["reason"], group["error_code"], group["letters"], group["orders"]) for group in groups) == [
        ("dependency_away", "dependency_away", 3, 3),
        ("out_of_retries", "bug", 3, 3),
        ("refused", "invalid_event", 3, 3),
    ]


def test_every_consumer_has_its_inbox_by_both_its_names() -> None:
    """A letter from before a group was renamed finds its consumer too."""
    settings = config.Settings(overrides={"KAFKA_ORDER_CONSUMER_GROUP_ID": "renamed"})
    found = inboxes.by_group(settings)
    assert found["renamed"] == found[ORDER]
    assert found[ORDER].inbox == "order_inbox_events"


def test_the_manifests_are_those_that_up_reads() -> None:
    """The replay commands name their file again, for ops.programs is slow to import."""
    assert targets.MANIFEST == programs.MANIFEST
