"""How long rows are kept follows from contracts/topics.yaml, and a setting may only make it longer."""

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ops import child, contracts, home
from shared import config, errors, retention, topics
from tests.ops import commands

DAY_S = 86_400
INBOX = "order_inbox_events"
Declared = Callable[[str, str], topics.Catalogue]


@pytest.fixture
def declared(tmp_path: Path) -> Declared:
    """declared(old, new) -> topics.yaml with one change."""

    def change(old: str, new: str) -> topics.Catalogue:
        text = topics.PATH.read_text(encoding="utf-8")
        assert old in text
        (tmp_path / "topics.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
        return topics.read(tmp_path / "topics.yaml")

    return change


def settings(**values: object) -> config.Settings:
    return config.Settings.model_validate(values)


def test_D02_an_inbox_outlives_the_records_of_its_topics_and_of_its_letters() -> None:
    """Letters are kept for 30 days and a segment of one; a day is for clocks that differ."""
    assert 32 * DAY_S == retention.inbox_s(INBOX, settings())


def test_the_reach_follows_the_topics(declared: Declared) -> None:
    longer = declared("retention.ms: 604800000", f"retention.ms: {90 * DAY_S * 1000}")
    slower = declared("segment.ms: 86400000", f"segment.ms: {7 * DAY_S * 1000}")

    assert (92 * DAY_S, 38 * DAY_S) == (retention.inbox_s(INBOX, settings(), longer), retention.inbox_s(INBOX, settings(), slower))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("retention.ms: 604800000", "retention.ms: -1"),
        ("retention.ms: 2592000000", "retention.ms: -1"),
        ("cleanup.policy: delete", "cleanup.policy: compact"),
    ],
)
def test_where_a_topic_has_no_limit_nothing_is_ever_removed(declared: Declared, old: str, new: str) -> None:
    """Not even where a setting says how long: the record may come again after that."""
    changed = declared(old, new)

    assert math.inf == retention.inbox_s("assembly_inbox_events", settings(inbox_retention="40d"), changed)
    assert math.inf == retention.outbox_s(settings(), changed)


def test_a_compacted_topic_that_deletes_too_has_a_limit(declared: Declared) -> None:
    assert 32 * DAY_S == retention.inbox_s(INBOX, settings(), declared("cleanup.policy: delete", "cleanup.policy: compact,delete"))


def test_an_inbox_that_no_topic_names_forgets_nothing() -> None:
    assert math.inf == retention.inbox_s("retired_inbox_events", settings())


def test_a_topic_that_the_environment_names_otherwise_has_the_reach_of_its_row() -> None:
    renamed = settings(overrides={"KAFKA_ORDER_ASSEMBLY_COMPLETED_TOPIC": "a", "KAFKA_ORDER_ASSEMBLY_COMPLETED_DLQ_TOPIC": "b"})

    assert 32 * DAY_S == retention.inbox_s(INBOX, renamed) == retention.inbox_s(INBOX, renamed, topics.catalogue(renamed))


def test_a_setting_may_be_longer_but_never_shorter() -> None:
    """The setting is named, with the rule and where it comes from."""
    assert 40 * DAY_S == retention.inbox_s(INBOX, settings(inbox_retention="40d"))
    with pytest.raises(errors.ConfigError) as caught:
        retention.check(settings(inbox_retention="31d"))
    told = "INBOX_RETENTION: must be 32d or longer, not 31d: the topics of {} keep a record for up to 31d (retention.ms and segment.ms in"
    assert [told.format(f"{name}_inbox_events") for name in ("assembly", "notification", "order")] == [
        fault.partition(" contracts/topics.yaml")[0] for fault in caught.value.faults
    ]


def test_the_check_of_the_contracts_refuses_a_shorter_inbox() -> None:
    ran = commands.run(contracts.app, "check", env={"INBOX_RETENTION": "10d"})

    assert (1, 3) == (ran.code, ran.err.count("INBOX_RETENTION: must be 32d or longer, not 10d")), ran.err


def run(module: str, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [*commands.python(module), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=home.CHECKOUT, env=child.environment(**env), timeout=60)


def test_a_function_with_a_shorter_inbox_does_not_start() -> None:
    ran = run("shared.server", "--source", "functions/order_on_assembled/main.py", "--target", "handle", INBOX_RETENTION="10d")

    assert (2, True) == (ran.returncode, "INBOX_RETENTION: must be 32d or longer" in ran.stderr)


def test_the_relay_with_a_shorter_inbox_does_not_start() -> None:
    ran = run("connectors.outbox_relay", INBOX_RETENTION="10d")

    assert (2, True) == (ran.returncode, "INBOX_RETENTION: must be 32d or longer" in ran.stderr)


def test_the_outbox_keeps_a_row_as_long_as_its_cause_can_come_again_unless_told_otherwise() -> None:
    assert 32 * DAY_S == retention.outbox_s(settings())
    assert 40 * DAY_S == retention.outbox_s(settings(inbox_retention="40d"))
    assert 7 * DAY_S == retention.outbox_s(settings(outbox_retention="7d"))
