"""`orderflow topics` on a real broker."""

import re
import signal
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from ops import declared, topics_command
from shared import config, errors, topics
from tests.conftest import MakeTopic, StartProcess
from tests.ops import commands
from tests.stack import CLIENT, eventually


@pytest.fixture
def environment(kafka_brokers: str) -> dict[str, str]:
    """The broker, and a name of this test's own for every declared topic."""
    mark = uuid.uuid4().hex[:8]
    return {"KAFKA_BROKERS": kafka_brokers} | {topic.setting: f"{mark}.{topic.name}" for topic in topics.read().all()}


def run(environment: dict[str, str], *arguments: str, given: bytes | str = b"") -> commands.Ran:
    return commands.run(topics_command.app, *arguments, env=environment, given=given)


def admin(brokers: str) -> AdminClient:
    return AdminClient(CLIENT | {"bootstrap.servers": brokers})


def settings_of(brokers: str, topic: str) -> dict[str, str]:
    client = admin(brokers)
    (future,) = client.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    return {name: str(entry.value) for name, entry in future.result().items()}


def test_create_makes_every_declared_topic_under_the_name_that_the_environment_gives(
    environment: dict[str, str], kafka_brokers: str
) -> None:
    made = run(environment, "create", "--json").json()

    there = admin(kafka_brokers).list_topics(timeout=10).topics
    for topic in topics.read().all():
        name = environment[topic.setting]
        assert len(there[name].partitions) == topic.partitions
        found = settings_of(kafka_brokers, name)
        assert {key: found[key] for key in topic.config} == dict(topic.config)
    assert [of["action"] for of in made] == ["created"] * len(topics.read().all())


def test_create_says_aloud_that_one_broker_means_one_replica(environment: dict[str, str]) -> None:
    ran = run(environment, "create", environment["KAFKA_TOPIC"])

    assert ran.code == 0
    assert "replicas 1 instead of 3, min.insync.replicas 1 instead of 2" in ran.err


@pytest.mark.parametrize(("brokers", "local", "made"), [(1, False, (1, 1)), (2, True, (2, 2)), (3, False, (3, 2)), (5, False, (3, 2))])
def test_replicas_are_limited_to_one_broker_or_when_told_so(brokers: int, local: bool, made: tuple[int, int]) -> None:
    found = declared.fitted(topics.read().topics[0], brokers, local=local)

    assert (found.replication_factor, found.min_insync_replicas) == made


def test_brokers_that_may_only_be_away_for_now_are_waited_for() -> None:
    with pytest.raises(errors.Refused, match=r"3 replicas are declared and 2 brokers answer; .*--local"):
        declared.fitted(topics.read().topics[0], 2, local=False)


def test_create_grows_partitions_and_shows_other_differences_without_changing_them(
    environment: dict[str, str], make_topic: MakeTopic, kafka_brokers: str
) -> None:
    small = make_topic(1, {"retention.ms": "1000"}, name=environment["KAFKA_ORDER_PAYMENT_COMPLETED_TOPIC"])
    large = make_topic(3, name=environment["KAFKA_TOPIC"])

    made = {of["topic"]: of for of in run(environment, "create", "--json").json()}

    assert made[small]["action"] == "grown"
    assert any(note == "retention.ms is 1000, declared is 604800000" for note in made[small]["notes"])
    assert settings_of(kafka_brokers, small)["retention.ms"] == "1000"
    eventually(lambda: len(admin(kafka_brokers).list_topics(small, timeout=5).topics[small].partitions) == 8, "8 partitions")
    assert made[large]["action"] == "differs"
    assert any("partitions are 3, declared are 1; they only ever grow" in note for note in made[large]["notes"])


def test_create_with_apply_changes_the_settings_that_differ(environment: dict[str, str], make_topic: MakeTopic, kafka_brokers: str) -> None:
    topic = make_topic(1, {"retention.ms": "1000"}, name=environment["KAFKA_TOPIC"])

    assert run(environment, "create", "--apply", topic, "--json").json()[0]["action"] == "changed"

    eventually(lambda: settings_of(kafka_brokers, topic)["retention.ms"] == "604800000", "the setting to change")
    assert run(environment, "create", topic, "--json").json()[0]["action"] == "unchanged"


def test_create_refuses_a_topic_that_is_not_declared(environment: dict[str, str]) -> None:
    ran = run(environment, "create", "no.such.topic")

    assert (ran.code, "no.such.topic: not declared" in ran.err) == (2, True)


def test_list_shows_declared_topics_that_are_missing(environment: dict[str, str]) -> None:
    run(environment, "create", environment["KAFKA_TOPIC"])

    found = {of["topic"]: of for of in run(environment, "list", "--json").json()}

    assert found[environment["KAFKA_TOPIC"]]["partitions"] == 1
    missing = found[environment["KAFKA_ORDER_PAYMENT_COMPLETED_TOPIC"]]
    groups = [consumer.group for topic, consumer in topics.read().consumers() if topic.event == "OrderPaid"]
    assert (missing["partitions"], missing["declared"], missing["groups"]) == (None, True, groups)


def test_describe_shows_partitions_offsets_and_the_settings_of_the_topic_itself(environment: dict[str, str], make_topic: MakeTopic) -> None:
    topic = make_topic(2, {"retention.ms": "7000"})
    assert run(environment, "produce", topic, "one", "--partition", "1").code == 0

    (found,) = run(environment, "describe", topic, "--json").json()

    assert [(part["number"], part["first_offset"], part["next_offset"]) for part in found["partitions"]] == [(0, 0, 0), (1, 0, 1)]
    assert found["config"] == {"retention.ms": "7000"}
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", found["topic_id"])


def test_delete_asks_and_without_a_terminal_deletes_nothing_until_told_yes(environment: dict[str, str], make_topic: MakeTopic) -> None:
    topic = make_topic()

    unanswered = run(environment, "delete", topic)
    assert (unanswered.code, "--yes" in unanswered.err) == (2, True)
    assert run(environment, "describe", topic).code == 0

    assert run(environment, "delete", topic, "--yes").code == 0
    assert run(environment, "describe", topic).code == 1


def test_a_record_comes_back_with_its_key_headers_and_bytes(environment: dict[str, str], make_topic: MakeTopic, tmp_path: Path) -> None:
    topic, file = make_topic(), tmp_path / "value"
    file.write_bytes(b"\xff\x00 binary\n")
    writes = [("plain", "-k", "key", "-H", "a=1", "-H", "a=2=3"), ("--file", str(file)), ("--null", "-k", "gone")]
    assert [run(environment, "produce", topic, *write).code for write in writes] == [0, 0, 0]
    assert run(environment, "produce", topic, given=b"from standard input\n").code == 0

    found = run(environment, "consume", topic, "--until-end", "--json").lines()

    assert [(of["key"], of.get("value")) for of in found] == [("key", "plain"), (None, None), ("gone", None), (None, "from standard input")]
    assert found[0]["headers"] == [{"name": "a", "value": "1"}, {"name": "a", "value": "2=3"}]
    assert found[1]["value_base64"] == "/wAgYmluYXJ5Cg=="
    assert [of["offset"] for of in found] == [0, 1, 2, 3]


def test_produce_writes_a_record_a_line_and_takes_keys_from_the_lines(environment: dict[str, str], make_topic: MakeTopic) -> None:
    topic = make_topic()

    ran = run(environment, "produce", topic, "--lines", "--key-separator", ":", "--json", given="k1:v1\n\nk2:v:2\nv3\n")

    assert [of["offset"] for of in ran.json()] == [0, 1, 2]
    found = run(environment, "consume", topic, "--until-end", "--json").lines()
    assert [(of["key"], of["value"]) for of in found] == [("k1", "v1"), ("k2", "v:2"), (None, "v3")]


def test_produce_fails_and_says_why_when_the_topic_is_missing_or_the_broker_refuses(
    environment: dict[str, str], make_topic: MakeTopic
) -> None:
    missing = run(environment, "produce", "no.such.topic", "x")
    refused = run(environment, "produce", make_topic(config={"max.message.bytes": "2000"}), "x" * 5000)

    assert (missing.code, "there is no topic no.such.topic" in missing.err) == (1, True)
    assert (refused.code, "MSG_SIZE_TOO_LARGE" in refused.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["x", "-H", "novalue"], "must be NAME=VALUE"),
        (["x", "--null"], "one of them"),
        (["x", "--lines"], "--lines"),
        (["--key-separator", ":"], "needs --lines"),
        (["--file", "/no/such/file"], "No such file"),
    ],
)
def test_produce_names_what_is_wrong_with_its_arguments(environment: dict[str, str], arguments: list[str], fault: str) -> None:
    ran = run(environment, "produce", "a.topic", *arguments)

    assert (ran.code, fault in ran.err) == (2, True)


def test_a_broker_that_is_away_is_named(unused_address: str) -> None:
    ran = run({"KAFKA_BROKERS": unused_address}, "list")

    assert (ran.code, unused_address in ran.err) == (1, True)


def test_a_wrong_setting_is_a_usage_error_that_names_it() -> None:
    ran = run({"KAFKA_BROKERS": "no-port"}, "list")

    assert (ran.code, "KAFKA_BROKERS" in ran.err) == (2, True)


def test_consume_shows_control_characters_as_escapes(environment: dict[str, str], make_topic: MakeTopic, kafka_brokers: str) -> None:
    topic = make_topic()
    producer = Producer(CLIENT | {"bootstrap.servers": kafka_brokers})
    producer.produce(topic, b"\x1b[31mred\nnext \\ \xc3\xa9\xff", key=b"\x00key", headers=[("h", b"\x07"), ("n", None)])
    assert producer.flush(20) == 0

    ran = run(environment, "consume", topic, "--until-end")

    assert r"\x1b[31mred\x0anext \\ é\xff" in ran.out
    assert r"key=\x00key  h=\x07  n=(null)" in ran.out
    assert "\x1b" not in ran.out


def test_consume_reads_several_topics_and_stops_after_max(environment: dict[str, str], make_topic: MakeTopic) -> None:
    first, second = make_topic(), make_topic()
    for topic in (first, second):
        run(environment, "produce", topic, "--lines", given="1\n2\n")

    everything = run(environment, "consume", first, second, "--until-end", "--json").lines()

    assert sorted((of["topic"], of["value"]) for of in everything) == sorted([(first, "1"), (first, "2"), (second, "1"), (second, "2")])
    assert len(run(environment, "consume", first, second, "--max", "3", "--json").lines()) == 3
    assert run(environment, "consume", first, "--from", "latest", "--idle", "100ms", "--json").lines() == []


def test_consume_reads_every_dead_letter_topic_there_is(environment: dict[str, str], make_topic: MakeTopic) -> None:
    settings = [topic.setting for topic in topics.read().dead_letter_topics]
    own = environment | {setting: make_topic() for setting in settings}
    for setting in settings:
        run(own, "produce", own[setting], f"a letter on {setting}")

    shown = run(own, "consume", "--dead-letters", "--until-end", "--json").lines()

    assert sorted(f"a letter on {setting}" for setting in settings) == sorted(of["value"] for of in shown)


def test_consume_without_a_topic_says_what_it_needs(environment: dict[str, str]) -> None:
    ran = run(environment, "consume")

    assert (ran.code, "name a topic, or say --dead-letters" in ran.err) == (2, True)


def test_consume_from_latest_shows_new_records_only_and_ends_well_on_ctrl_c(
    environment: dict[str, str], make_topic: MakeTopic, start_process: StartProcess
) -> None:
    topic = make_topic()
    run(environment, "produce", topic, "old")
    process = start_process(commands.command("topics_command", "consume", topic, "--from", "latest"), environment)
    eventually(lambda: "waiting for new records" in process.text, "the command to wait")

    run(environment, "produce", topic, "new")

    eventually(lambda: "new\n" in process.text, "the new record")
    assert process.stop(signal.SIGINT) == 0
    assert "old" not in process.text
    assert "Traceback" not in process.text
    assert process.text.endswith("1 record\n")


def test_kafka_topic_overrides_the_playground(environment: dict[str, str]) -> None:
    run_with = commands.run(topics_command.app, "list", "--json", env=environment | {"KAFKA_TOPIC": "my-playground"})

    assert next(of for of in run_with.json() if of["topic"] == "my-playground")["declared"] is True
    assert config.Settings(overrides={"KAFKA_TOPIC": "x"}).override("KAFKA_TOPIC", "test-topic") == "x"
