"""Settings come from the environment, are checked whole, and never show a secret."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import config, errors, topics

SECRET = "hunter2-secret-that-is-long-enough"
NEARER = "nearer-secret-that-is-long-enough"


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """This process's environment is `variables`, and nothing else, until the end of the block."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def load(**variables: str) -> config.Settings:
    with environment(**variables):
        return config.load()


def faults(**variables: str) -> tuple[str, ...]:
    with pytest.raises(errors.ConfigError) as caught:
        load(**variables)
    return caught.value.faults


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("APP_ENV", "docker", "docker"),
        ("LOG_LEVEL", "debug", "debug"),
        ("LOG_FORMAT", "json", "json"),
        ("KAFKA_BROKERS", "a:1, b:2", "a:1,b:2"),
        ("KAFKA_TOPIC", "play", "play"),
        ("KAFKA_RETRY_MAX_ATTEMPTS", "5", 5),
        ("KAFKA_RETRY_BACKOFF_BASE", "250ms", 0.25),
        ("KAFKA_UNAVAILABLE_MAX", "1h", 3600.0),
        ("POSTGRES_CONNECTIONS", "4", 4),
        ("POSTGRES_CONNECT_TIMEOUT", "2s", 2.0),
        ("LOCK_TIMEOUT", "100ms", 0.1),
        ("STATEMENT_TIMEOUT", "4s", 4.0),
        ("DELIVERY_DEADLINE", "15s", 15.0),
        ("SHUTDOWN_TIMEOUT", "0s", 0.0),
        ("DRAIN_DELAY", "1s", 1.0),
        ("EVENT_BYTES_MAX", "2048", 2048),
        ("BATCH_BYTES_MAX", "4096", 4096),
        ("GROUP_EVENTS_MAX", "10", 10),
        ("QUEUE_EVENTS_MAX", "10", 10),
        ("ORDERS_CONCURRENT_REQUESTS_MAX", "8", 8),
        ("ORDERS_REQUESTS_PER_SECOND_MAX", "2.5", 2.5),
        ("ORDERS_BURST_REQUESTS_MAX", "5", 5),
        ("ASSEMBLY_DURATION", "1m30s", 90.0),
        ("ORDER_ITEM_PRICE_KOPECKS", "0", 0),
        ("IDEMPOTENCY_KEY_TTL", "2h", 7200.0),
        ("PUBLIC_PATH_PREFIX", "/function/orders", "/function/orders"),
        ("TELEGRAM_CHAT_ID", "-100", "-100"),
        ("TELEGRAM_TIMEOUT", "3", 3.0),
        ("NOTIFICATION_LEASE", "12s", 12.0),
        ("DLQ_ARCHIVE_BUCKET", "letters", "letters"),
        ("DLQ_PRODUCER_TIMEOUT", "4s", 4.0),
        ("RELAY_SWEEP_INTERVAL", "2s", 2.0),
        ("INBOX_RETENTION", "40d", 3_456_000.0),
        ("OUTBOX_RETENTION", "7d12h", 648_000.0),
        ("REMOVAL_INTERVAL", "2m", 120.0),
        ("SINK_URLS", "notify=http://n:1", "notify=http://n:1"),
        ("SINK_URL_TEMPLATE", "http://g/{name}", "http://g/{name}"),
    ],
)
def test_a_setting_is_read_from_the_environment(name: str, text: str, value: object) -> None:
    assert getattr(load(**{name: text}), name.lower()) == value


def test_an_empty_setting_is_one_that_is_not_set(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(SECRET)

    settings = load(KAFKA_BROKERS="", ASSEMBLY_DURATION="", TELEGRAM_BOT_TOKEN="", TELEGRAM_BOT_TOKEN_FILE=str(token))

    assert (settings.kafka_brokers, settings.assembly_duration) == ("localhost:19092", 10.0)
    assert settings.telegram_bot_token is not None
    assert settings.telegram_bot_token.get_secret_value() == SECRET


def test_an_empty_file_is_a_setting_that_is_not_set(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.write_text("\n")

    assert load(TELEGRAM_BOT_TOKEN_FILE=str(nothing)).telegram_bot_token is None


def test_an_empty_delivery_token_is_a_fault_and_no_open_door(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.write_text("\n")

    with pytest.raises(errors.ConfigError, match=r"DELIVERY_TOKEN_FILE: .*nothing is empty"):
        load(DELIVERY_TOKEN_FILE=str(nothing))
    for name, empty in (("DELIVERY_TOKEN", ""), ("DELIVERY_TOKEN", " "), ("DELIVERY_TOKEN_FILE", "")):
        (fault,) = faults(**{name: empty})
        assert fault == f"{name}: is empty, and without a token everybody may deliver; unset it where that is meant"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("s" * 31, "at least 32 characters"),
        (f"{SECRET} short", "at least 32 characters"),
        (f"{SECRET}\u00e9", "letters, digits"),
        (f"{SECRET},{NEARER}", "letters, digits"),
        (f"{SECRET}\n{NEARER}\n{'3' * 32}", "and there are 3"),
    ],
)
def test_a_delivery_token_that_is_weak_or_cannot_be_sent_is_a_fault_that_does_not_show_it(text: str, rule: str) -> None:
    (fault,) = faults(DELIVERY_TOKEN=text)

    assert (True, True) == (fault.startswith("DELIVERY_TOKEN: "), rule in fault)
    assert not any(token in fault for token in (SECRET, NEARER, "3" * 32))


def test_a_file_holds_two_delivery_tokens_while_one_takes_the_others_place(tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.write_text(f"{SECRET}\n{NEARER}\n")

    settings = load(DELIVERY_TOKEN_FILE=str(both))

    assert [SECRET, NEARER] == [token.get_secret_value() for token in settings.delivery_token]
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("app_env", "brokers", "server"), [("local", "localhost:19092", "localhost:15432"), ("docker", "kafka:9092", "postgres:5432")]
)
def test_app_env_chooses_where_kafka_and_postgresql_are_by_default(app_env: str, brokers: str, server: str) -> None:
    settings = load(APP_ENV=app_env)

    assert settings.kafka_brokers == brokers
    assert settings.postgres_dsn("order") == f"postgresql://order_user:order_password@{server}/orders"


def test_a_consumer_without_a_dsn_uses_that_of_orders() -> None:
    settings = load(ORDER_POSTGRES_DSN="postgresql://a@h/order", ASSEMBLY_POSTGRES_DSN="postgresql://a@h/assembly")

    assert {name: settings.postgres_dsn(name) for name in ("order", "assembly", "notification", "dlq", "relay")} == {
        "order": "postgresql://a@h/order",
        "assembly": "postgresql://a@h/assembly",
        "notification": "postgresql://a@h/order",
        "dlq": "postgresql://a@h/order",
        "relay": "postgresql://a@h/order",
    }


def test_retries_of_a_consumer_come_before_the_general_ones_and_none_leaves_it_to_the_manifest() -> None:
    settings = load(KAFKA_RETRY_MAX_ATTEMPTS="5", ORDER_KAFKA_RETRY_MAX_ATTEMPTS="1", NOTIFICATION_KAFKA_RETRY_BACKOFF_BASE="2s")

    assert settings.retry("order") == config.Retry(max_attempts=1, backoff_base_s=None)
    assert settings.retry("notification") == config.Retry(max_attempts=5, backoff_base_s=2.0)
    assert settings.retry("assembly") == config.Retry(max_attempts=5, backoff_base_s=None)


def test_kafka_security_takes_librdkafkas_own_names(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    given = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "KAFKA_SSL_CA_LOCATION": "/ca.pem"}

    client = load(KAFKA_BROKERS="b:1", KAFKA_SASL_PASSWORD_FILE=str(file), **given).kafka_client()

    assert client == {
        "bootstrap.servers": "b:1",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "ssl.ca.location": "/ca.pem",
        "sasl.password": SECRET,
    }


@pytest.mark.parametrize(
    "name", ["DELIVERY_TOKEN", "TELEGRAM_BOT_TOKEN", "ORDER_POSTGRES_DSN", "RELAY_POSTGRES_DSN", "KAFKA_SASL_PASSWORD"]
)
def test_a_secret_may_stand_in_a_file_and_the_setting_itself_comes_before_it(name: str, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")

    from_file, from_both = load(**{f"{name}_FILE": str(file)}), load(**{f"{name}_FILE": str(file), name: NEARER})

    assert SECRET in _revealed(from_file)
    assert NEARER in _revealed(from_both)
    assert SECRET not in _revealed(from_both)


def _revealed(settings: config.Settings) -> list[str]:
    secrets = [*settings.delivery_token, settings.telegram_bot_token, *settings.postgres_dsns.values(), *settings.kafka_security.values()]
    return [of.get_secret_value() for of in secrets if of is not None]


@pytest.mark.parametrize(
    "name", ["DELIVERY_TOKEN", "TELEGRAM_BOT_TOKEN", "ORDER_POSTGRES_DSN", "KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD"]
)
def test_a_secret_is_shown_by_no_repr_no_text_and_no_dump(name: str) -> None:
    settings = load(**{name: SECRET})

    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump()), f"{vars(settings)}"):
        assert SECRET not in shown
    assert SECRET in _revealed(settings)


def test_every_fault_is_listed_with_its_setting_and_no_fault_shows_a_value_of_a_secret(tmp_path: Path) -> None:
    found = faults(
        APP_ENV="moon",
        KAFKA_BROKERS="broker",
        KAFKA_RETRY_MAX_ATTEMPTS="-1",
        ORDER_KAFKA_RETRY_MAX_ATTEMPTS="many",
        NOTIFICATION_KAFKA_RETRY_BACKOFF_BASE="0s",
        ASSEMBLY_DURATION="soon",
        ORDER_ITEM_PRICE_KOPECKS="1.5",
        TELEGRAM_ENABLED="perhaps",
        DELIVERY_TOKEN=SECRET,
        TELEGRAM_BOT_TOKEN_FILE=str(tmp_path / "missing"),
    )

    assert {fault.partition(":")[0] for fault in found} == {
        "APP_ENV",
        "KAFKA_BROKERS",
        "KAFKA_RETRY_MAX_ATTEMPTS",
        "ORDER_KAFKA_RETRY_MAX_ATTEMPTS",
        "NOTIFICATION_KAFKA_RETRY_BACKOFF_BASE",
        "ASSEMBLY_DURATION",
        "ORDER_ITEM_PRICE_KOPECKS",
        "TELEGRAM_ENABLED",
        "TELEGRAM_BOT_TOKEN_FILE",
    }
    assert SECRET not in "".join(found)


def test_a_secret_whose_file_cannot_be_read_is_a_fault_when_all_else_is_well(tmp_path: Path) -> None:
    (fault,) = faults(DELIVERY_TOKEN_FILE=str(tmp_path / "missing"))

    assert fault.startswith(f"DELIVERY_TOKEN_FILE: {tmp_path / 'missing'} cannot be read: ")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"TELEGRAM_ENABLED": "true"}, ["TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID"]),
        ({"TELEGRAM_TIMEOUT": "15s"}, ["TELEGRAM_TIMEOUT"]),
        ({"STATEMENT_TIMEOUT": "20s"}, ["STATEMENT_TIMEOUT"]),
        ({"LOCK_TIMEOUT": "6s"}, ["STATEMENT_TIMEOUT"]),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(variables: dict[str, str], named: list[str]) -> None:
    assert [fault.partition(":")[0] for fault in faults(**variables)] == named


@pytest.mark.parametrize("name", ["RETRIES", "OVERRIDES", "POSTGRES_DSNS", "KAFKA_SECURITY"])
def test_a_variable_that_is_no_setting_of_ours_changes_nothing(name: str) -> None:
    assert load(**{name: "3"}) == load()


@pytest.mark.parametrize(
    ("text", "value"), [("10s", 10.0), ("500ms", 0.5), ("1m30s", 90.0), ("2h", 7200.0), ("1.5s", 1.5), ("7", 7.0), (3, 3.0)]
)
def test_a_duration_has_units(text: object, value: float) -> None:
    assert config.seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "10 s", "-1s", "1s1m", "ten", True, None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        config.seconds(text)


def test_every_topic_and_group_setting_of_the_catalogue_renames_what_it_names() -> None:
    declared = topics.read()
    names = {topic.setting for topic in declared.all()} | {consumer.setting for _, consumer in declared.consumers()}

    named = topics.catalogue(load(**{name: f"my-{name.lower()}" for name in names}))

    assert {topic.name for topic in named.all()} == {f"my-{topic.setting.lower()}" for topic in declared.all()}
    assert {of.group for _, of in named.consumers()} == {f"my-{of.setting.lower()}" for _, of in declared.consumers()}


def test_settings_cannot_be_changed_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().kafka_brokers = "x:1"  # type: ignore[misc]


def test_the_settings_of_the_process_are_read_once() -> None:
    assert config.settings() is config.settings()
