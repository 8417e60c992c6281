"""Whether infra/knative/sources.yaml says what contracts/topics.yaml and the code say."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from shared.config import Settings
from shared.topics import Catalogue, Consumer, Topic

SOURCES = Path("infra") / "knative" / "sources.yaml"
ANNOTATIONS = {
    "batch-size": re.compile(r"[1-9]\d*"),
    "batch-wait": re.compile(r"PT\d+(\.\d+)?S"),
    "requests-in-flight": re.compile(r"[1-9]\d*"),
}
RETRY_DELAYS_S = [1.0, 2.0, 4.0]
_PREFIX = "orderflow.dev/"


def faults(declared: Catalogue, checkout: Path) -> list[str]:
    """How the manifests differ from `declared`, one sentence each."""
    try:
        documents = [one for one in yaml.safe_load_all((checkout / SOURCES).read_text(encoding="utf-8")) if one]
        by_name = {str(one["metadata"]["name"]): one for one in documents}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as exc:
        return [f"sources.yaml: {exc}"]
    wanted = {consumer.source: (topic, consumer) for topic, consumer in declared.consumers()}
    found = [f"sources.yaml: {name} is no consumer of topics.yaml" for name in sorted(by_name.keys() - wanted.keys())]
    if len(by_name) != len(documents):
        found.append("sources.yaml: a name is given twice")
    for name, (topic, consumer) in wanted.items():
        if name not in by_name:
            found.append(f"sources.yaml: there is no KafkaSource {name}, which topics.yaml names for {consumer.group}")
        else:
            found += [f"sources.yaml: {name}: {fault}" for fault in _of_source(by_name[name], topic, consumer)]
    return found


def _of_source(document: Mapping[str, Any], topic: Topic, consumer: Consumer) -> Iterator[str]:
    for path, wanted in _wanted(topic, consumer).items():
        found = _at(document, path)
        if found != wanted:
            yield f"{path} is {found!r}, and must be {wanted!r}"
    yield from _of_annotations(_at(document, "metadata.annotations") or {})
    yield from _of_delivery(_at(document, "spec.delivery") or {})


def _wanted(topic: Topic, consumer: Consumer) -> dict[str, object]:
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
    ours = {name.removeprefix(_PREFIX): value for name, value in annotations.items() if name.startswith(_PREFIX)}
    for name in sorted(ours.keys() | ANNOTATIONS.keys()):
        if name not in ANNOTATIONS:
            yield f"there is no annotation {_PREFIX}{name}"
        elif not ANNOTATIONS[name].fullmatch(str(ours.get(name, ""))) or not isinstance(ours[name], str):
            yield f"the annotation {_PREFIX}{name} must be text like {ANNOTATIONS[name].pattern}, not {ours.get(name)!r}"


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
