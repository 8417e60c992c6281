"""contracts/topics.yaml is read as one checked, frozen value, under the names that the environment gives."""

from pathlib import Path

import pytest

from shared import config, errors, topics

TEXT = """
defaults: {partitions: 8, replication_factor: 3, min_insync_replicas: 2, config: {retention.ms: 1000, max.message.bytes: 10}}
topics:
  - name: things.made
    setting: KAFKA_THINGS_MADE_TOPIC
    partitions: 4
    config: {retention.ms: 2000}
    consumers:
      - {group: g, setting: KAFKA_G_GROUP_ID, source: s, function: f, inbox: store_inbox_events, dead_letter_topic: things.dlq}
dead_letter_topics:
  - {name: things.dlq, setting: KAFKA_THINGS_DLQ_TOPIC}
"""


def read(tmp_path: Path, text: str = TEXT) -> topics.Catalogue:
    file = tmp_path / "topics.yaml"
    file.write_text(text, encoding="utf-8")
    return topics.read(file)


def test_a_topic_takes_the_defaults_that_it_does_not_state(tmp_path: Path) -> None:
    made, letters = read(tmp_path).all()

    assert (made.partitions, made.replication_factor, made.min_insync_replicas) == (4, 3, 2)
    assert made.config == {"retention.ms": "2000", "max.message.bytes": "10"}
    assert (letters.partitions, letters.config) == (8, {"retention.ms": "1000", "max.message.bytes": "10"})


def test_a_consumer_is_found_by_group_and_by_source_and_is_named_after_its_inbox(tmp_path: Path) -> None:
    catalogue = read(tmp_path)

    found = catalogue.consumer("g", "things.made")
    assert found is not None
    assert found.role == "store"
    assert catalogue.by_source("s") == (catalogue.topics[0], found)
    assert (catalogue.consumer("g", "other"), catalogue.by_source("other")) == (None, None)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("name: things.made", "name: 'things made'", "topics"),
        ("partitions: 4", "partitions: 0", "partitions"),
        ("partitions: 4", "partition: 4", "partition"),
        ("dead_letter_topic: things.dlq", "dead_letter_topic: other.dlq", "not declared under dead_letter_topics"),
        ("inbox: store_inbox_events", "inbox: store", "inbox"),
        ("defaults:", "default:", "defaults"),
        ("topics:", "topics: [", "topics.yaml"),
        ("config: {retention.ms: 2000}", "config: 7", "config must be a map"),
    ],
)
def test_a_fault_in_the_file_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    with pytest.raises(errors.ConfigError, match=named):
        read(tmp_path, TEXT.replace(old, new, 1))


def test_a_group_of_two_consumers_is_refused(tmp_path: Path) -> None:
    line = next(line for line in TEXT.splitlines() if "group: g" in line)

    with pytest.raises(errors.ConfigError, match="declared twice"):
        read(tmp_path, TEXT.replace(line, f"{line}\n{line}"))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"none\.yaml"):
        topics.read(tmp_path / "none.yaml")


def test_L09_a_dead_letter_topic_that_is_a_source_topic_too_is_refused() -> None:
    settings = config.Settings(overrides={"KAFKA_NOTIFICATION_DLQ_TOPIC": "order.payment.completed"})

    with pytest.raises(errors.ConfigError, match="a dead-letter topic cannot be a source topic"):
        topics.catalogue(settings)


def test_a_dead_letter_topic_that_is_renamed_is_renamed_for_its_consumers() -> None:
    named = topics.catalogue(config.Settings(overrides={"KAFKA_NOTIFICATION_DLQ_TOPIC": "letters"}))

    assert {consumer.group for _, consumer in named.consumers() if consumer.dead_letter_topic == "letters"} == {
        "notification-payment",
        "notification-assembly",
    }


def test_the_catalogue_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        topics.read().topics[0].name = "x"  # type: ignore[misc]
