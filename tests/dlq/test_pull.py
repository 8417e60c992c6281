"""`orderflow dlq pull`: a letter becomes a test that fails for the same reason and names nobody."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import home
from ops.dlq import fixture, redaction
from tests import conftest, controls
from tests.dlq.desk import ORDER, PAYMENT, Desk
from tests.letters import running

PERSONAL = {"user_id": "user-Anna.7", "email": "Anna@example.org", "shipping": {"address": {"city": "Omsk", "n": 12}}, "phone": 79135550142}


def test_a_pulled_letter_fails_until_its_cause_is_mended(desk: Desk, start_function: conftest.StartFunction) -> None:
    """Red with the same code as in production; green once the handler takes it (here: the fixture's amount mended by hand)."""
    payload = controls.paid(amount="12", **PERSONAL)
    [letter_id] = desk.fails(PAYMENT, payload, place="amount", key=payload["order_id"].encode())
    ran = desk.dlq("pull", letter_id, "--out", str(desk.folder / "red.json"))
    assert ran.out.strip() == str(desk.folder / "red.json")
    notify = start_function("notify", desk.env | desk.database.environment())
    red = fixture.read(desk.folder / "red.json")
    assert (red.function, red.record.key) == ("notify", payload["order_id"].encode())
    result = running.outcome(red, notify.url)
    assert (result.status, result.code) == ("failed_again", "invalid_event")
    assert running.verdict(red, result).startswith("invalid_event: amount: ")
    text = (desk.folder / "red.json").read_text(encoding="utf-8")
    (desk.folder / "green.json").write_text(text.replace('\\"amount\\":\\"12\\"', '\\"amount\\":12'), encoding="utf-8")
    green = fixture.read(desk.folder / "green.json")
    assert running.verdict(green, running.outcome(green, notify.url)) == ""


def test_a_letter_that_is_rightly_refused_stays_refused(desk: Desk, start_function: conftest.StartFunction) -> None:
    """--expect refused: green as long as the function refuses it for the same reason."""
    [letter_id] = desk.fails(ORDER, b'{"event_type": "order.assembly.completed"', code="unreadable")
    printed = desk.dlq("pull", letter_id, "--expect", "refused", "--out", "-").out
    (desk.folder / "poison.json").write_text(printed, encoding="utf-8")
    function = start_function("order_on_assembled", desk.env | desk.database.environment())
    poison = fixture.read(desk.folder / "poison.json")
    assert running.verdict(poison, running.outcome(poison, function.url)) == ""


def test_nothing_personal_is_left_and_the_shape_is_kept(desk: Desk) -> None:
    """Names, places and numbers of customers are gone from value, headers and key; what the event is about stays."""
    payload = controls.paid(**PERSONAL)
    headers = (("ce_id", payload["event_id"].encode()), ("x-customer", b"Anna 7"))
    [letter_id] = desk.fails(PAYMENT, payload, headers=headers, key=b"anna")
    text = desk.dlq("pull", letter_id, "--redact", "--out", "-").out
    told = json.loads(text)
    assert not [word for word in ("Anna", "anna", "example", "Omsk", "79135550142") if word in text]
    record = told["record"]
    value = json.loads(record["value"]["text"])
    assert {name: value[name] for name in ("event_id", "order_id", "amount")} == {
        name: payload[name] for name in ("event_id", "order_id", "amount")
    }
    assert [len(value["user_id"]), value["user_id"][4], value["email"].count("@")] == [len("user-Anna.7"), "-", 1]
    assert record["headers"][0] == ["ce_id", {"text": payload["event_id"]}]
    assert desk.dlq("pull", letter_id, "--out", "-").out == text
    assert "Anna" in desk.dlq("pull", letter_id, "--plain", "--out", "-").out


def test_a_value_that_is_cut_off_is_redacted_and_stays_cut_off(desk: Desk) -> None:
    """Field by field; what nobody can read is not taken without --plain."""
    cut, binary = desk.fails(PAYMENT, b'{"order_id": "o-1", "user_id": "Anna", "email": "Anna@ex', b"\xff\xfeAnna")
    value = json.loads(desk.dlq("pull", cut, "--out", "-").out)["record"]["value"]["text"]
    assert value.startswith('{"order_id": "o-1", "user_id": "')
    assert "Anna" not in value
    assert not value.endswith("}")
    ran = desk.dlq("pull", binary, "--out", "-")
    assert (ran.code, "--plain" in ran.err) == (1, True)
    assert desk.dlq("pull", binary, "--plain", "--out", "-").code == 0


def test_a_file_that_is_there_is_not_written_over(desk: Desk) -> None:
    """By default the file lies in tests/letters, named after consumer, error and letter."""
    [letter_id] = desk.fails(PAYMENT, controls.paid())
    path = home.CHECKOUT / "tests" / "letters" / f"notification_payment-invalid_event-{letter_id[:8]}.json"
    try:
        assert desk.dlq("pull", letter_id).out.strip() == str(path)
        ran = desk.dlq("pull", letter_id)
        assert (ran.code, "--force" in ran.err) == (2, True)
        assert desk.dlq("pull", letter_id, "--force").code == 0
    finally:
        path.unlink()


@given(st.text(max_size=60))
def test_redaction_keeps_length_and_kinds_and_is_the_same_each_time(text: str) -> None:
    made = redaction.text(text)
    assert len(made) == len(text)
    assert made == redaction.text(text)
    for before, after in zip(text, made, strict=True):
        for kind in (string.ascii_lowercase, string.ascii_uppercase, string.digits):
            assert (before in kind) <= (after in kind)
        assert before.isalnum() == after.isalnum()


@pytest.mark.parametrize("name", ["user_id", "userId", "customer-id", "billing_address", "Email", "home_phone"])
def test_personal_fields_are_known_by_their_names(name: str) -> None:
    assert redaction.is_personal(name)
    assert not any(redaction.is_personal(other) for other in ("event_id", "order_id", "amount", "event_type", "occurred_at"))
