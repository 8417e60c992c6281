"""Odd payloads through real HTTP into a real database: never a 500, always the field and the rule, and what is taken is kept as it is."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import events
from tests import controls, stack
from tests.hostile.conftest import StartTarget
from tests.hostile.test_reading import ODD, element, fields, numbers, steady, times, written

through_http = settings(steady, max_examples=60)


@pytest.fixture(scope="module")
def client() -> Any:
    with httpx.Client(timeout=stack.PATIENCE_S) as made:
        yield made


def judged(answer: httpx.Response) -> None:
    """A 2xx, or a problem that says whose fault it was."""
    assert answer.status_code in {200, 207, 400, 413, 415, 422}, answer.text
    told = answer.json()
    for result in told.get("results", [told]):
        if result.get("outcome") in {"done", "duplicate"}:
            continue
        assert result["status"] in {400, 415, 422}, answer.text
        assert result["code"]
        assert result["detail"]


@pytest.mark.parametrize("name", ["assembly_on_payment", "order_on_assembled", "notify"])
@through_http
@given(data=st.data(), changes=st.dictionaries(fields, written, max_size=2), mode=st.sampled_from(["binary", "structured", "batch"]))
def test_no_payload_makes_a_function_fail(
    start_target: StartTarget, client: httpx.Client, name: str, data: Any, changes: dict[str, str], mode: str
) -> None:
    base = (controls.assembled if name == "order_on_assembled" else controls.paid)(event_id=data.draw(st.uuids().map(str)))
    payload = element(base, changes).encode("utf-8", "surrogatepass")
    around = controls.attributes(base)
    if mode == "binary":
        request = controls.binary(base, payload)
    else:
        whole = element(around | {"datacontenttype": controls.JSON}, {"data": payload.decode("utf-8", "surrogatepass")})
        whole = f"[{whole}, {whole}]" if mode == "batch" else whole
        content_type = controls.BATCH if mode == "batch" else controls.STRUCTURED
        request = {"headers": {"content-type": content_type}, "content": whole.encode("utf-8", "surrogatepass")}
    judged(client.post(start_target(name).process.url, **request))


@through_http
@given(
    changes=st.dictionaries(
        st.sampled_from(["user_id", "amount", "payment_method", "occurred_at", "event_version"]), numbers | times.map(json.dumps)
    )
)
def test_what_is_taken_is_stored_and_published_again_as_it_is(
    start_target: StartTarget, client: httpx.Client, changes: dict[str, str]
) -> None:
    """The user's id travels on in the event that is staged, and the inbox holds the time, to the microsecond."""
    target = start_target("assembly_on_payment")
    base = controls.paid()
    payload = element(base, changes).encode()
    answer = client.post(target.process.url, **controls.binary(base, payload))
    judged(answer)
    inbox = "SELECT occurred_at FROM assembly_inbox_events WHERE event_id = :id"
    outbox = "SELECT payload FROM order_outbox_events WHERE aggregate_id = :id"
    rows, staged = target.database.run(inbox, id=base["event_id"]), target.database.run(outbox, id=base["order_id"])
    if answer.status_code != 200:
        assert (rows, staged) == ([], [])
        return
    event = events.read(payload, events.known())
    assert [[event.occurred_at]] == rows
    made = events.read(bytes(staged[0][0]), events.known())
    assert (event.user_id, event.order_id) == (made.user_id, made.order_id)


@pytest.mark.parametrize("user", [*(each for each in ODD if each not in {"", " ", "x" * 200}), "\ufeff", "\u202eevil", "a" * 128])
def test_a_text_is_refused_by_name_or_travels_on_as_it_is(start_target: StartTarget, client: httpx.Client, user: str) -> None:
    target = start_target("assembly_on_payment")
    payload = controls.paid(user_id=user)
    answer = client.post(target.process.url, **controls.binary(payload))
    if answer.status_code == 422:
        assert answer.json()["code"] == "unreadable" or answer.json()["place"] == "user_id"
        assert any(character < " " or "\x7f" <= character <= "\x9f" or "\ud800" <= character <= "\udfff" for character in user)
        return
    assert answer.json() == {"outcome": "done"}
    [[staged]] = target.database.run("SELECT payload FROM order_outbox_events WHERE aggregate_id = :id", id=payload["order_id"])
    assert user == json.loads(bytes(staged))["user_id"]


def order(body: dict[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in body.items()) + "}"


item = st.dictionaries(st.sampled_from(["product_id", "quantity"]), written, max_size=2).map(
    lambda changes: order({"product_id": '"tea"', "quantity": "1"} | changes)
)


@through_http
@given(items=st.lists(item, max_size=4), user=st.sampled_from(ODD).map(json.dumps) | numbers)
def test_no_order_makes_the_api_fail_and_one_that_is_placed_is_found_as_it_is(
    start_target: StartTarget, client: httpx.Client, items: list[str], user: str
) -> None:
    target = start_target("orders")
    body = order({"user_id": user, "items": f"[{', '.join(items)}]"}).encode()
    answer = client.post(f"{target.process.url}/orders", content=body, headers={"content-type": controls.JSON})
    assert answer.status_code in {201, 400, 422}, answer.text
    told = answer.json()
    if answer.status_code == 201:
        assert told == client.get(f"{target.process.url}/orders/{told['id']}").json()
        assert json.loads(user) == told["user_id"]
        return
    assert told["errors"]
    assert all(fault["field"] and fault["rule"] and fault["detail"] for fault in told["errors"])
