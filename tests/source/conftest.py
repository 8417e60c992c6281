"""A source in this process against the real broker, two scripted sinks, and what Kafka says of its group."""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import uvloop
import yaml
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import REGISTRY

from connectors.kafka_source import manifest, plan
from connectors.kafka_source.service import Service
from shared import config
from tests import stack
from tests.source import sinks


@dataclass
class Group:
    """A topic, a consumer group that reads it, and the two sinks of its function."""

    brokers: str
    topic: str
    name: str
    sink: sinks.Sink
    letters: sinks.Sink

    def produce(self, *values: bytes | None, key: bytes | None = None, headers: Any = None, partition: int = 0) -> None:
        """Put records into the topic; they are there when this returns."""
        producer = Producer(stack.CLIENT | {"bootstrap.servers": self.brokers, "message.max.bytes": 4 << 20, "linger.ms": 5})
        reports: list[object] = []
        for value in values:
            producer.produce(
                self.topic, value, key=key, headers=headers, partition=partition, on_delivery=lambda error, _: reports.append(error)
            )
        assert producer.flush(stack.PATIENCE_S) == 0
        assert reports == [None] * len(values)

    def committed(self, partition: int = 0) -> int | None:
        """The committed offset; None where there is none."""
        found = self.committed_raw(partition).offset
        return None if found < 0 else found

    def committed_raw(self, partition: int = 0) -> TopicPartition:
        consumer = Consumer(stack.CLIENT | {"bootstrap.servers": self.brokers, "group.id": self.name})
        try:
            return consumer.committed([TopicPartition(self.topic, partition)], timeout=stack.PATIENCE_S)[0]
        finally:
            consumer.close()

    def members(self) -> list[str]:
        """The client ids of the group's members."""
        admin = AdminClient(stack.CLIENT | {"bootstrap.servers": self.brokers})
        found = admin.describe_consumer_groups([self.name], request_timeout=stack.PATIENCE_S)[self.name].result()
        return [member.client_id for member in found.members]

    def end(self, partition: int = 0) -> int:
        """The end offset of the topic."""
        consumer = Consumer(stack.CLIENT | {"bootstrap.servers": self.brokers, "group.id": "ends"})
        try:
            return consumer.get_watermark_offsets(TopicPartition(self.topic, partition), timeout=stack.PATIENCE_S)[1]
        finally:
            consumer.close()

    def wait_committed(self, offset: int, partition: int = 0) -> None:
        def reached() -> bool:
            with contextlib.suppress(KafkaException):  # of a broker that has just come back
                return self.committed(partition) == offset
            return False

        stack.eventually(reached, f"offset {offset} to be committed")

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The failed records that the dead-letter sink was sent."""
        return [request.json for request in list(self.letters.requests)]

    def document(self, *, size: int = 1, flight: int = 1, **changes: Any) -> dict[str, Any]:
        """A KafkaSource of this group; `changes` go to spec.delivery, annotations (with -) and spec (else)."""
        delivery = {"retry": 3, "backoffDelay": "PT0.05S", "timeout": "PT10S", "deadLetterSink": {"ref": {"name": "letters"}}}
        spec: dict[str, Any] = {"bootstrapServers": ["elsewhere:9092"], "topics": [self.topic], "consumerGroup": self.name}
        annotations = {"batch-size": str(size), "requests-in-flight": str(flight)}
        for name, value in changes.items():
            if name in {"retry", "backoffDelay", "backoffPolicy", "timeout", "deadLetterSink"}:
                delivery[name] = value
            elif "_" in name:
                annotations[name.replace("_", "-")] = str(value)
            else:
                spec[name] = value
        return {
            "apiVersion": manifest.API_VERSION,
            "kind": "KafkaSource",
            "metadata": {
                "name": self.name,
                "labels": {manifest.KEY_TYPE_LABEL: "byte-array"},
                "annotations": {f"orderflow.dev/{name}": text for name, text in annotations.items()},
            },
            "spec": {"delivery": delivery, "sink": {"ref": {"name": "function"}}, **spec},
        }

    @property
    def sink_urls(self) -> str:
        return f"function={self.sink.url},letters={self.letters.url}"


class RunningSource:
    """A source, its event loop, by default of the kind that it has in production, in a thread of its own."""

    def __init__(self, source: plan.Source, settings: config.Settings, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.failures: list[BaseException] = []
        self._loop = loop or uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.service: Service = asyncio.run_coroutine_threadsafe(self._start(source, settings), self._loop).result(10)
        self._ended = False

    async def _start(self, source: plan.Source, settings: config.Settings) -> Service:
        service = Service(source, settings, self.failures.append)
        service.start()
        return service

    def status(self) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            return self.service.status()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(10)

    def wait_state(self, *states: str) -> dict[str, Any]:
        stack.eventually(lambda: self.status()["state"] in states, f"the source to be {states}")
        return self.status()

    def call(self, change: Callable[[Service], None]) -> None:
        """Run `change` in the source's event loop, as the control HTTP does."""

        async def run() -> None:
            change(self.service)

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def metric(self, name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, {"source": self.service.source.name} | labels) or 0.0

    def stop(self) -> None:
        """As SIGTERM does."""
        if self._ended:
            return
        self._ended = True
        asyncio.run_coroutine_threadsafe(self.service.stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert self.failures == []


class StartSource(Protocol):
    def __call__(
        self, group: Group, *, settings: dict[str, Any] | None = None, loop: asyncio.AbstractEventLoop | None = None, **changes: Any
    ) -> RunningSource: ...


@pytest.fixture
def new_sink() -> Iterator[Callable[[], sinks.Sink]]:
    """new_sink() -> a scripted HTTP server until the end of the test."""
    made: list[sinks.Sink] = []

    def start() -> sinks.Sink:
        made.append(sinks.Sink())
        return made[-1]

    yield start
    for sink in made:
        sink.close()


@pytest.fixture
def group(kafka_brokers: str, make_topic: Any, new_sink: Callable[[], sinks.Sink]) -> Group:
    """A fresh topic of one partition, a fresh group, fresh sinks."""
    return Group(kafka_brokers, make_topic(), f"group-{uuid.uuid4().hex[:12]}", new_sink(), new_sink())


@pytest.fixture
def start_source(tmp_path: Path) -> Iterator[StartSource]:
    """start_source(group, settings={…}, **changes of the manifest) -> a source that runs until the end of the test."""
    made: list[RunningSource] = []

    def start(
        group: Group, *, settings: dict[str, Any] | None = None, loop: asyncio.AbstractEventLoop | None = None, **changes: Any
    ) -> RunningSource:
        path = write_manifest(tmp_path / f"{group.name}-{len(made)}.yaml", [group.document(**changes)])
        values: dict[str, Any] = {"kafka_brokers": group.brokers, "sink_urls": group.sink_urls, "shutdown_timeout": 3.0, **(settings or {})}
        checked = config.Settings(**values)
        (source,) = plan.sources(manifest.read(path), checked)
        made.append(RunningSource(source, checked, loop))
        return made[-1]

    yield start
    for source in made:
        source.stop()


def write_manifest(path: Path, documents: Sequence[Any]) -> Path:
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    return path
