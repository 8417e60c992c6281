"""A commit counts once Kafka has said so."""

import time
from typing import Any

from confluent_kafka import TopicPartition

from connectors.kafka_source.commits import Commits
from connectors.kafka_source.partition import Mark, Partition
from tests import stack
from tests.source.conftest import Group, StartSource


class _Deaf:
    """What Kafka's client is to a source when it loses a commit: it takes it, and never calls back."""

    def __init__(self) -> None:
        self.commits: list[TopicPartition] = []

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.commits += offsets


def _settled(source: Any, answer_s: float) -> tuple[Commits, _Deaf, dict[tuple[str, int], Partition]]:
    partition = Partition("t", 0, 5, None)
    partition.mark = Mark(9, 4)
    return Commits(source, answer_s), _Deaf(), {("t", 0): partition}


def _turn(commits: Commits, client: Any, partitions: dict[tuple[str, int], Partition]) -> None:
    commits.repeat_refused(partitions)
    commits.make(client, partitions.values())


def test_a_commit_that_is_not_answered_is_made_again(group: Group, start_source: StartSource) -> None:
    """Kafka's client lost commits whose connection was cut at that moment, and called nobody: the offset lagged until the next record."""
    source = start_source(group).service.source
    commits, client, partitions = _settled(source, answer_s=0.2)

    def again() -> bool:
        _turn(commits, client, partitions)
        return len(client.commits) > 1

    stack.eventually(again, "a second commit")
    assert [tp.offset for tp in client.commits] == [9, 9]


def test_a_commit_that_is_answered_is_not_made_again(group: Group, start_source: StartSource) -> None:
    source = start_source(group).service.source
    commits, client, partitions = _settled(source, answer_s=0.0)
    _turn(commits, client, partitions)
    commits.on_commit(None, [TopicPartition("t", 0, 9)])
    for _ in range(3):
        time.sleep(0.001)  # longer than an answer may take here
        _turn(commits, client, partitions)
    assert len(client.commits) == 1
