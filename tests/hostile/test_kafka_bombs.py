"""Records that were compressed well: what a source holds of them is bounded, and each is delivered once."""

import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer

from ops import child
from tests import stack
from tests.conftest import MakeTopic, StartProcess
from tests.hostile import wire
from tests.source import sinks
from tests.source.conftest import Group, new_sink, write_manifest  # noqa: F401  a fixture

RECORDS = 64
# What is read ahead and what is in flight, a few times over: as record, as request, as the allocator's rest. As the topic had it: 345.
GROWTH_MIB_MAX = 96


@pytest.fixture
def bounded(kafka_brokers: str, make_topic: MakeTopic, new_sink: Any) -> Group:  # noqa: F811
    """A group on a topic that keeps its records as they unpack."""
    topic = make_topic(config={"compression.type": "uncompressed"})
    return Group(kafka_brokers, topic, f"group-{uuid.uuid4().hex[:12]}", new_sink(), new_sink())


def test_records_that_unpack_to_a_mebibyte_each_are_held_within_bounds(bounded: Group, start_process: StartProcess, tmp_path: Path) -> None:
    """64 MiB of records came in a few kilobytes: the source never holds a fraction of them."""
    bounded.sink.script = sinks.each(lambda _: sinks.OK)
    path = write_manifest(tmp_path / "sources.yaml", [bounded.document()])
    (port,) = child.free_ports(1)
    command = [sys.executable, "-m", "connectors.kafka_source", "--manifest", str(path), "--control-port", str(port)]
    env = {"KAFKA_BROKERS": bounded.brokers, "SINK_URLS": bounded.sink_urls, "SHUTDOWN_TIMEOUT": "3s"}
    process = start_process(command, env, f"http://127.0.0.1:{port}")
    process.wait_ready()
    bounded.produce(b'{"n": 0}')
    bounded.wait_committed(1)
    before = most = wire.memory_mib(process.pid)
    assert [None] * RECORDS == _produced(bounded, "zstd", batched=1)

    def done() -> bool:
        nonlocal most
        most = max(most, wire.memory_mib(process.pid))
        return len(bounded.sink.requests) > RECORDS

    stack.eventually(done, "every record")
    assert [*range(RECORDS + 1)] == bounded.sink.offsets
    assert most < before + GROWTH_MIB_MAX
    assert "Traceback" not in process.text


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_batch_that_unpacks_to_more_than_a_topic_takes_is_refused_by_the_broker(bounded: Group, codec: str) -> None:
    """32 MiB in a few kilobytes: only the producer that made it is told."""
    reports = _produced(bounded, codec, batched=32)
    assert {KafkaError.MSG_SIZE_TOO_LARGE} == {report.code() for report in reports if report is not None}
    assert len([report for report in reports if report is None]) < 32  # who was alone in a batch fits


def _produced(group: Group, codec: str, batched: int) -> list[KafkaError | None]:
    more = {"compression.type": codec, "message.max.bytes": 100 * wire.MIB, "batch.size": batched * (wire.MIB + 100), "linger.ms": 60_000}
    producer = Producer(stack.CLIENT | {"bootstrap.servers": group.brokers} | more)
    reports: list[KafkaError | None] = []
    for _ in range(RECORDS // batched * batched):
        producer.produce(group.topic, b'{"n": "%b"}' % (b"0" * (wire.MIB - 1000)), on_delivery=lambda error, _: reports.append(error))
    assert producer.flush(stack.PATIENCE_S) == 0
    return reports
