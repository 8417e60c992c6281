"""Whether infra/knative/sources.yaml says what contracts/topics.yaml and the code say."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from connectors.kafka_source import manifest
from shared import errors
from shared.config import Settings
from shared.topics import Catalogue, Consumer, Topic

SOURCES = Path("infra") / "knative" / "sources.yaml"
RETRY_DELAYS_S = [1.0, 2.0, 4.0]


def faults(declared: Catalogue, checkout: Path) -> list[str]:
    """How the manifests differ from `declared`, one sentence each."""
    file = checkout / SOURCES
    try:
        read = manifest.read(file)
        documents = {one["metadata"]["name"]: one for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one}
        by_name = {one.name: documents[one.name] for one in read}
    except errors.ConfigError as exc:
        return list(exc.faults)
    rows = {consumer.source: (topic, consumer) for topic, consumer in declared.consumers()}
    found = [f"sources.yaml: {name} is no consumer of topics.yaml" for name in sorted(by_name.keys() - rows.keys())]
    for name, (topic, consumer) in rows.items():
        if name not in by_name:
            found.append(f"sources.yaml: there is no KafkaSource {name}, which topics.yaml names for {consumer.group}")
        else:
            found += [f"sources.yaml: {name}: {fault}" for fault in _of_source(by_name[name], topic, consumer)]
    return found


def _of_source(document: Mapping[str, Any], topic: Topic, consumer: Consumer) -> Iterator[str]:
    for path, must in wanted(topic, consumer).items():
        found = _at(document, path)
        if found != must:
            yield f"{path} is {found!r}, and must be {must!r}"
    yield from _of_annotations(_at(document, "metadata.annotations") or {})
    yield from _of_delivery(_at(document, "spec.delivery") or {})


def wanted(topic: Topic, consumer: Consumer) -> dict[str, object]:
    """What stands where in the KafkaSource of `consumer`, as contracts/topics.yaml and the code have it."""
    return {
        "apiVersion": "sources.knative.dev/v1",
        "kind": "KafkaSource",
        "metadata.labels": {"kafkasources.sources.knative.dev/key-type": "byte-array"},
        "spec.topics": [topic.name],
        "spec.consumerGroup": consumer.group,
        "spec.initialOffset": "earliest",
        "spec.ordering": "ordered",
        "spec.sink.ref.name": consumer.function.replace("_", "-"),
        "spec.delivery.deadLetterSink.ref.name": "dlq-router",
        "spec.delivery.deadLetterSink.uri": f"/{consumer.group}/{topic.name}",
        "spec.ceOverrides.extensions.kafkatopic": topic.name,
    }


def _of_annotations(annotations: Mapping[str, object]) -> Iterator[str]:
    for name, value in annotations.items():
        if not isinstance(value, str):
            yield f"metadata.annotations: {name} is {value!r}, and Kubernetes takes text only"


def _of_delivery(delivery: Mapping[str, object]) -> Iterator[str]:
    # A KafkaSource waits backoffDelay × 2^n before the nth retry, and without `retry` it does not try again at all.
    retry, base_s = delivery.get("retry"), _seconds(delivery.get("backoffDelay"))
    delays = [base_s * 2**n for n in range(1, retry + 1)] if isinstance(retry, int) and base_s else []
    if delivery.get("backoffPolicy") != "exponential" or delays != RETRY_DELAYS_S:
        yield f"spec.delivery: its retries come after {delays or 'unknown'} s, and must come after {RETRY_DELAYS_S} s"
    timeout_s = _seconds(delivery.get("timeout")) or 0.0
    for name in ("delivery_deadline", "notification_lease", "dlq_producer_timeout"):
        default = float(Settings.model_fields[name].default)
        if default >= timeout_s:
            yield f"spec.delivery.timeout is {timeout_s:g} s, and must be longer than {name.upper()}, {default:g} s"


def _seconds(text: object) -> float | None:
    match = re.fullmatch(r"PT(\d+(?:\.\d+)?)S", str(text))
    return float(match[1]) if match else None


def _at(document: Mapping[str, Any], path: str) -> Any:
    found: Any = document
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
