"""Secrets and what is personal are left out of every text, and nothing else is."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import config, masking


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The secrets of this test are none of the next."""
    before = set(masking._secrets)
    yield
    masking._secrets.clear()
    masking.keep_secret(before)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"user_id": "u-1", "order_id": "o-1"}', '{"user_id": ***, "order_id": "o-1"}'),
        ("{'userId': 'u-1', 'amount': 5}", "{'userId': ***, 'amount': 5}"),
        ("OrderPaid(event_id='e', user_id='u \\' 1', amount=5)", "OrderPaid(event_id='e', user_id=***, amount=5)"),
        ('value: "{\\"user_id\\": \\"u-1\\", \\"amount\\": 5}"', 'value: "{\\"user_id\\": ***, \\"amount\\": 5}"'),
        ('received=b\'{"user_id": "u-1"}\' n=1', "received=b'{\"user_id\": ***}' n=1"),
        ("Key (user_id)=(u-1) already exists.", "Key (user_id)=*** already exists."),
        ('{"chat_id": 4711}', '{"chat_id": ***}'),
        ('{"user_id": "u-1', '{"user_id": ***'),
        ("home_street=Elm&x=1", "home_street=***&x=1"),
        ("[type=string_type, input_value={'a': 'u-1'}, input_type=dict]", "[type=string_type, input_value=***, input_type=dict]"),
    ],
)
def test_the_value_of_a_personal_field_is_left_out_however_it_is_written(text: str, shown: str) -> None:
    assert shown == masking.text(text)


@pytest.mark.parametrize(
    "text",
    [
        "user_id: String should have at least 1 character; amount: must be positive",
        'cannot connect to 127.0.0.1:5432/orders as orderflow_order: password authentication failed for user "orderflow_order" (28P01)',
        "Kafka refuses orderflow-relay: its KAFKA_SASL_… or KAFKA_SSL_… settings are wrong",
        "ORDERFLOW_ORDER_PASSWORD: must be printable ASCII characters",
        "event_type: 'a' is not handled here, only order.payment.completed",
    ],
)
def test_what_is_no_field_stays(text: str) -> None:
    assert text == masking.text(text)


def test_texts_that_are_to_be_hidden_are_only_hidden_as_words() -> None:
    assert "*** of order user-12, ***, *** a" == masking.text("user-1 of order user-12, user-1, user-1 a", ["user-1", ""])


def test_a_secret_is_left_out_wherever_it_stands_and_a_dsn_s_in_both_spellings() -> None:
    masking.keep_secret(["postgresql://a:p%2Fss%20word@host/db", "token-4711", "short", None])

    assert "***, ***, Bearer *** and bot***/send, short" == masking.text(
        "p/ss word, p%2Fss%20word, Bearer token-4711 and bottoken-4711/send, short"
    )
    assert "postgresql://a:***@host/db" == masking.text("postgresql://a:p%2Fss%20word@host/db")


def test_the_settings_know_every_secret_of_theirs_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "DELIVERY_TOKEN": f"{'1' * 32} {'2' * 32}", "TELEGRAM_BOT_TOKEN": "s-telegram", "RELAY_POSTGRES_DSN": "postgresql://r:s-relay@h/d",
        "KAFKA_SASL_PASSWORD": "s-sasl", "KAFKA_SSL_KEY_PASSWORD": "s-key", "KAFKA_SASL_USERNAME": "somebody",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SSL_CA_LOCATION": "/ca.crt",
        "TELEGRAM_CHAT_ID": "42",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    assert {"1" * 32, "2" * 32, "s-telegram", "postgresql://r:s-relay@h/d", "s-sasl", "s-key"} == set(config.Settings().secrets())


def test_json_stays_readable_for_a_person() -> None:
    text = json.dumps({"message": "m", "payload": {"email": "a@b", "items": [{"product_id": "p"}]}})
    assert '{"message": "m", "payload": {"email": ***, "items": [{"product_id": "p"}]}}' == masking.text(text)


@given(st.text(alphabet="aser_id\"\\':= ", max_size=200))
def test_any_text_can_be_masked_and_masking_is_done_once(text: str) -> None:
    once = masking.text(text)

    assert masking.text(once) == once


@pytest.mark.parametrize(
    "text",
    ["a" * 200_000, "user_id" * 50_000, 'user_id="' * 50_000, "a:" * 200_000, '\\"' * 200_000, "input_value=" * 5000],
)
def test_a_long_text_of_any_kind_takes_no_more_than_its_length(text: str) -> None:
    """One that went through it again from each place would take minutes."""
    assert masking.text(text)
