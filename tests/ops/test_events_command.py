"""`orderflow event`: events made by hand, sent to a real function and a real topic."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from cloudevents.http import from_json

from ops import events_command, specimens, topics_command
from shared import events
from tests import controls
from tests.conftest import MakeTopic, StartFunction
from tests.ops import commands
from tests.stack import TestDatabase


def new(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = commands.run(events_command.app, "new", *arguments).json()
    return found


def send(*arguments: str, given: object = "", env: Mapping[str, str] | None = None) -> commands.Ran:
    text = given if isinstance(given, str) else json.dumps(given)
    return commands.run(events_command.app, "send", *arguments, given=text, env=env)


@pytest.mark.parametrize("kind", ["order.payment.completed", "OrderPaid", "order.assembly.completed"])
def test_new_prints_an_event_that_the_sdk_and_our_models_both_accept(kind: str) -> None:
    printed = new(kind)

    sdk = from_json(json.dumps(printed))
    ours = events.read(json.dumps(printed["data"]).encode(), events.known())
    assert (sdk["id"], sdk["subject"], sdk["type"]) == (ours.event_id, ours.order_id, ours.event_type)


def test_new_takes_attributes_and_fields_and_keeps_those_that_repeat_each_other_equal() -> None:
    made = new("OrderPaid", "-e", "id=event-1", "-e", "tenant=north", "-d", "order_id=007", "-d", "amount=5", "-d", "meta.note=hi")

    assert (made["id"], made["data"]["event_id"]) == ("event-1", "event-1")
    assert (made["subject"], made["partitionkey"], made["data"]["order_id"]) == ("007", "007", "007")
    assert (made["tenant"], made["data"]["amount"], made["data"]["meta"]) == ("north", 5, {"note": "hi"})


def test_new_makes_many_events_each_with_ids_of_its_own() -> None:
    made = commands.run(events_command.app, "new", "OrderAssembled", "-n", "3").lines()

    assert len({of["id"] for of in made}) == len({of["subject"] for of in made}) == 3


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["-e", "foo"], "-e 'foo': must be name=value"),
        (["-e", "=x"], "must be name=value"),
        (["-d", "amount"], "--data 'amount': must be name=value"),
        (["-e", "id="], "id: an attribute cannot be empty"),
        (["-e", "not_a_name=x"], "a-z and 0-9"),
        (["-e", "data=x"], "is not data"),
        (["-e", "type=x"], "type: it is the argument TYPE"),
        (["-e", "specversion=0.3"], "specversion: must be 1.0"),
        (["-e", "time=noon"], "RFC 3339"),
        (["-d", "amount=-1"], "amount: Input should be greater than or equal to 0"),
        (["-d", "amount=ten"], "amount: Input should be a valid integer"),
        (["-d", "event_id=a", "-e", "id=b"], "is not the payload's event_id"),
    ],
)
def test_new_refuses_what_would_not_be_valid_and_names_it(arguments: list[str], fault: str) -> None:
    ran = commands.run(events_command.app, "new", "OrderPaid", *arguments)

    assert (ran.code, ran.out) == (2, "")
    assert fault in ran.err


def test_new_names_the_types_that_there_are() -> None:
    ran = commands.run(events_command.app, "new", "order.lost")

    assert (ran.code, "order.payment.completed, order.assembly.completed" in ran.err) == (2, True)


def test_new_makes_a_poison_event_when_told_so() -> None:
    made = new("OrderPaid", "-d", "amount=ten", "-d", "order_id=order-1", "--invalid")

    assert (made["data"]["amount"], made["subject"], made["id"]) == ("ten", "order-1", made["data"]["event_id"])


def test_send_writes_to_a_topic_the_very_record_that_our_outbox_would(kafka_brokers: str, make_topic: MakeTopic) -> None:
    topic, trace = make_topic(), controls.TRACEPARENT
    event = new("OrderPaid", "-e", f"traceparent={trace}", "-e", "causationid=cause-1", "-e", "correlationid=first-1")

    assert send(topic, given=event, env={"KAFKA_BROKERS": kafka_brokers}).code == 0

    ours = events.OrderPaid.model_validate(event["data"]).within(events.Context("first-1", "cause-1", trace))
    (record,) = commands.run(topics_command.app, "consume", topic, "--until-end", "--json", env={"KAFKA_BROKERS": kafka_brokers}).lines()
    assert {header["name"]: header["value"] for header in record["headers"]} == ours.headers()
    assert (record["key"], record["value"]) == (ours.order_id, ours.value().decode())


def test_send_writes_every_event_of_a_file_to_a_topic(kafka_brokers: str, make_topic: MakeTopic) -> None:
    topic, env = make_topic(), {"KAFKA_BROKERS": kafka_brokers}
    lines = commands.run(events_command.app, "new", "OrderPaid", "-n", "3").out

    assert send(topic, given=lines, env=env).code == 0
    assert send(topic, given=[json.loads(line) for line in lines.splitlines()], env=env).code == 0

    records = commands.run(topics_command.app, "consume", topic, "--until-end", "--json", env=env).lines()
    assert [json.loads(of["value"])["event_id"] for of in records] == 2 * [json.loads(line)["id"] for line in lines.splitlines()]


def test_send_names_functions_and_topics_when_there_is_neither(kafka_brokers: str) -> None:
    ran = send("no.such", given=new("OrderPaid"), env={"KAFKA_BROKERS": kafka_brokers})

    assert ran.code == 1
    assert "neither a function (orders," in ran.err
    assert "nor a topic" in ran.err


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("1", "must be a JSON object"),
        ('{"id": "a"}', "specversion, source, type missing"),
        ('{"specversion": "0.3", "id": "a", "source": "s", "type": "t"}', "specversion must be 1.0"),
        ('{"specversion": "1.0", "id": "a", "source": "s", "type": "t"}\n{"x"}', "line 2: is not JSON"),
        ('[{"specversion": "1.0", "id": "a", "source": "s", "type": "t"}, 7]', "event 2: must be a JSON object"),
    ],
)
def test_send_refuses_a_file_that_holds_no_events_and_says_where(given: str, fault: str) -> None:
    ran = send("notify", given=given)

    assert (ran.code, fault in ran.err) == (2, True)


def test_send_delivers_to_a_function_and_shows_its_answer(start_function: StartFunction, database: TestDatabase) -> None:
    env = {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order")}
    url = start_function("order_on_assembled", env).url
    event = new("OrderAssembled")

    answers = [send("order-on-assembled", "--url", url, "--json", given=event).json() for _ in range(2)]
    binary = send("order_on_assembled", "--url", url, "--mode", "binary", "--json", given=event).json()

    assert [of["outcome"] for (of,) in [*answers, binary]] == ["done", "duplicate", "duplicate"]
    assert database.run("SELECT event_id FROM order_inbox_events") == [[event["id"]]]


def test_send_delivers_an_array_as_a_batch_and_fails_when_one_event_is_refused(
    start_function: StartFunction, database: TestDatabase
) -> None:
    url = start_function("order_on_assembled", {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order")}).url
    good, bad = new("OrderAssembled"), new("OrderAssembled", "-d", "user_id=", "--invalid")

    ran = send("order_on_assembled", "--url", url, "--json", given=[good, bad])

    assert ran.code == 1
    assert [(of["id"], of["status"], of["outcome"]) for of in json.loads(ran.out)] == [
        (good["id"], 200, "done"),
        (bad["id"], 422, "refused"),
    ]
    assert send("order_on_assembled", "--url", url, given=[good]).code == 0


def test_send_carries_the_shared_token_and_shows_a_401_without_it(start_function: StartFunction, database: TestDatabase) -> None:
    token = uuid.uuid4().hex
    env = {"ORDER_POSTGRES_DSN": database.dsn("orderflow_order"), "DELIVERY_TOKEN": token}
    url = start_function("order_on_assembled", env).url
    event = new("OrderAssembled")

    assert send("order_on_assembled", "--url", url, given=event, env={"DELIVERY_TOKEN": token}).code == 0
    refused = send("order_on_assembled", "--url", url, given=event)
    assert (refused.code, "401" in refused.out) == (1, True)
    assert token not in refused.out + refused.err


def test_send_says_which_address_gave_no_answer(unused_address: str) -> None:
    ran = send("notify", "--url", f"http://{unused_address}", given=new("OrderPaid"))

    assert (ran.code, unused_address in ran.err) == (1, True)


def test_an_event_without_data_or_key_is_a_record_without_value_and_key() -> None:
    events_read, batch = specimens.read(b'{"specversion": "1.0", "id": "a", "source": "/s", "type": "t", "n": 3}')

    record = specimens.record(events_read[0])

    assert (batch, record.key, record.value) == (False, None, None)
    assert dict(record.headers) == {"ce_specversion": b"1.0", "ce_id": b"a", "ce_source": b"/s", "ce_type": b"t", "ce_n": b"3"}


def test_binary_data_of_a_structured_event_reaches_the_record_byte_for_byte() -> None:
    (event,), _ = specimens.read(b'{"specversion": "1.0", "id": "a", "source": "/s", "type": "t", "data_base64": "/wA="}')

    assert specimens.record(event).value == b"\xff\x00"
