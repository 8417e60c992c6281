"""Whether contracts/asyncapi.yaml is AsyncAPI 3, and says what contracts/topics.yaml and the code say."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from shared import events
from shared.topics import Catalogue, Topic

FOLDER = Path("contracts")
SCHEMA = FOLDER / "asyncapi-3.0.0.schema.json"


def faults(declared: Catalogue, checkout: Path) -> list[str]:
    """How the document differs from `declared` and from the code, one sentence each."""
    try:
        document = yaml.safe_load((checkout / FOLDER / "asyncapi.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as exc:
        return [f"asyncapi.yaml: {exc}"]
    found = list(_of_structure(document, json.loads((checkout / SCHEMA).read_text(encoding="utf-8"))))
    found = found or [*_of_references(document, document, checkout)]
    # What follows walks the document, and so only one that is sound.
    found = found or [*_of_channels(document, declared), *_of_operations(document, declared), *_of_messages(document, declared)]
    return [f"asyncapi.yaml: {fault}" for fault in found]


def _of_structure(document: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    import jsonschema

    validator = jsonschema.Draft7Validator(schema)
    for error in sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path))):
        deepest = jsonschema.exceptions.best_match([error])
        yield f"{'.'.join(map(str, deepest.absolute_path)) or 'document'}: {deepest.message[:300]}"


def _of_references(part: Any, document: Mapping[str, Any], checkout: Path) -> Iterator[str]:
    if isinstance(part, Mapping):
        reference = part.get("$ref")
        if isinstance(reference, str) and not _resolves(reference, document, checkout):
            yield f"$ref {reference} points at nothing"
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from _of_references(inner, document, checkout)


def _resolves(reference: str, document: Mapping[str, Any], checkout: Path) -> bool:
    if not reference.startswith("#/"):
        return (checkout / FOLDER / reference).is_file()
    return _pointed_at(reference, document) is not None


def _pointed_at(reference: str, document: Mapping[str, Any]) -> Any:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _of_channels(document: Mapping[str, Any], declared: Catalogue) -> Iterator[str]:
    channels = {channel["address"]: channel for channel in document["channels"].values()}
    wanted = {topic.name: topic for topic in declared.all()}
    for address in sorted(channels.keys() | wanted.keys()):
        if address not in wanted:
            yield f"{address} is no topic of topics.yaml"
        elif address not in channels:
            yield f"the topic {address} has no channel"
        else:
            yield from _of_channel(channels[address], wanted[address], letters=wanted[address] in declared.dead_letter_topics)


def _of_channel(channel: Mapping[str, Any], topic: Topic, *, letters: bool) -> Iterator[str]:
    binding = channel["bindings"]["kafka"]
    config = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in binding["topicConfiguration"].items()}
    pairs = {
        "partitions": (binding["partitions"], topic.partitions),
        "replicas": (binding["replicas"], topic.replication_factor),
        "topicConfiguration": (config, dict(topic.config) | {"min.insync.replicas": str(topic.min_insync_replicas)}),
        "messages": (
            [message["$ref"].rsplit("/", 1)[-1] for message in channel.get("messages", {}).values()],
            ["DeadLetter"] if letters else [topic.event] if topic.event else [],
        ),
    }
    for name, (found, wanted) in pairs.items():
        if found != wanted:
            yield f"{topic.name}: {name} is {found}, in topics.yaml {wanted}"


def _of_operations(document: Mapping[str, Any], declared: Catalogue) -> Iterator[str]:
    received, sent = {}, set()
    for operation in document["operations"].values():
        address = _pointed_at(operation["channel"]["$ref"], document)["address"]
        told = operation.get("x-orderflow", {})
        if operation["action"] == "send":
            sent.add(address)
        else:
            group = operation.get("bindings", {}).get("kafka", {}).get("groupId", {}).get("const")
            received[address, group] = (told.get("function"), told.get("deadLetterTopic"))
    wanted = {(topic.name, consumer.group): (consumer.function, consumer.dead_letter_topic) for topic, consumer in declared.consumers()}
    for key in sorted(received.keys() | wanted.keys(), key=str):
        if received.get(key) != wanted.get(key):
            yield f"the receiver {key[1]} of {key[0]} is {received.get(key)}, in topics.yaml {wanted.get(key)}"
    for topic in declared.all():
        if (topic.name in sent) != (topic.event is not None or topic in declared.dead_letter_topics):
            yield f"{topic.name}: {'nothing' if topic.name not in sent else 'something'} is sent there"


def _of_messages(document: Mapping[str, Any], declared: Catalogue) -> Iterator[str]:
    messages = document["components"]["messages"]
    headers = document["components"]["messageTraits"]["cloudEvent"]["headers"]
    for model in events.known().values():
        message = messages.get(model.__name__)
        if message is None:
            yield f"there is no message {model.__name__}"
            continue
        if (message["name"], message["payload"]) != (model.TYPE, {"$ref": f"./schemas/{model.TYPE}.json"}):
            yield f"the message {model.__name__} must be named {model.TYPE} and have the payload ./schemas/{model.TYPE}.json"
    first, caused = _examples()
    if set(headers["required"]) != first.headers().keys():
        yield f"required headers are {sorted(headers['required'])}, ours are {sorted(first.headers())}"
    if headers["properties"].keys() != caused.headers().keys():
        yield f"headers are {sorted(headers['properties'])}, ours are {sorted(caused.headers())}"


def _examples() -> tuple[events.Event, events.Event]:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    first = events.OrderPaid(event_id="e", occurred_at=moment, order_id="o", user_id="u", amount=1, payment_method="card")
    traced = first.within(events.Context(traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
    caused = events.OrderAssembled.caused_by(traced, consumer="example", occurred_at=moment)
    return first.model_copy().within(events.Context()), caused
