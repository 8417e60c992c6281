"""Whether contracts/topics.yaml, the KafkaSource manifests, asyncapi.yaml and the code say the same of each topic and consumer."""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ops import asyncapi, manifests, roles
from shared import errors, events, retention, topics
from shared.config import Settings
from shared.topics import Catalogue, Topic

LETTER_SPARE_BYTES = 64 << 10
TRIAGE_DAYS = 14  # somebody is on holiday when a letter comes, and somebody else has to find the cause
_DAY_MS = 86_400_000
_DECORATOR = re.compile(r"@(on|on_each)\(([^)]*)\)")


def faults(checkout: Path) -> list[str]:
    """Everything in `checkout` that does not agree, one sentence each."""
    try:
        declared = topics.read(checkout / "contracts" / "topics.yaml")
    except errors.ConfigError as exc:
        return list(exc.faults)
    found = [
        *_of_topics(declared),
        *_of_events(declared),
        *_of_functions(declared, checkout),
        *_of_inboxes(declared),
        *_of_roles(declared, checkout),
        *_of_dlq_router(declared),
    ]
    return found + manifests.faults(declared, checkout) + asyncapi.faults(declared, checkout)


def _of_topics(declared: Catalogue) -> Iterator[str]:
    settings = [topic.setting for topic in declared.all()] + [consumer.setting for _, consumer in declared.consumers()]
    for name in sorted({name for name in settings if settings.count(name) > 1}):
        yield f"topics.yaml: {name} overrides two names"
    for name in settings:
        if not name.startswith("KAFKA_") or not name.endswith(("_TOPIC", "_GROUP_ID")):
            yield f"topics.yaml: {name} is no setting: it must be KAFKA_…_TOPIC or KAFKA_…_GROUP_ID"
    for topic in declared.all():
        if topic.min_insync_replicas > topic.replication_factor:
            yield f"topics.yaml: {topic.name}: min_insync_replicas are more than replication_factor"
    for letters in declared.dead_letter_topics:
        yield from _of_letters(letters, [topic for topic, consumer in declared.consumers() if consumer.dead_letter_topic == letters.name])


def _of_letters(letters: Topic, sources: list[Topic]) -> Iterator[str]:
    if not sources:
        yield f"topics.yaml: {letters.name}: no consumer's letters go there"
        return
    wanted = letter_bytes(sources)
    if int(letters.config["max.message.bytes"]) != wanted:
        yield f"topics.yaml: {letters.name}: max.message.bytes must be {wanted}, twice its largest source topic's and 64 KiB"
    if letters.config.get("cleanup.policy", "delete") != "delete":
        yield f"topics.yaml: {letters.name}: cleanup.policy must be delete: compaction keeps one letter of an order"
    if int(letters.config.get("retention.bytes", -1)) >= 0:
        yield f"topics.yaml: {letters.name}: retention.bytes must not be set: many letters at once would push out the others"
    kept = int(letters.config["retention.ms"])
    wanted_ms = letters_kept_ms(sources)
    if 0 <= kept < wanted_ms:
        lives = "for ever" if wanted_ms == math.inf else f"up to {wanted_ms - TRIAGE_DAYS * _DAY_MS:.0f} ms"
        yield (
            f"topics.yaml: {letters.name}: retention.ms is {kept}: records of its source topics live {lives}, and a letter must stay "
            f"{TRIAGE_DAYS} days longer, or -1"
        )


def letter_bytes(sources: Iterable[Topic]) -> int:
    """How large a letter of these topics can be: its record in base64, and what is said of it."""
    return 2 * max(int(topic.config["max.message.bytes"]) for topic in sources) + LETTER_SPARE_BYTES


def letters_kept_ms(sources: Iterable[Topic]) -> float:
    """How long a letter of these topics must stay: longer than their records, by the time that people need. inf: for ever."""
    return max(retention.lifetime_s(topic) for topic in sources) * 1000 + TRIAGE_DAYS * _DAY_MS


def _of_events(declared: Catalogue) -> Iterator[str]:
    known = {model.__name__: model for model in events.known().values()}
    carried = {topic.event for topic in declared.topics if topic.event}
    for name in sorted(known.keys() - carried):
        yield f"topics.yaml: no topic carries {name}"
    for topic in declared.topics:
        if topic.event is None:
            continue
        model = known.get(topic.event)
        if model is None:
            yield f"topics.yaml: {topic.name}: there is no event {topic.event} in shared/events.py"
        elif topic.name != model.TYPE or topic.setting != f"KAFKA_{model.TYPE.upper().replace('.', '_')}_TOPIC":
            yield f"topics.yaml: {topic.name}: events of type {model.TYPE} travel on a topic and a setting of that name"


def _of_functions(declared: Catalogue, checkout: Path) -> Iterator[str]:
    for topic, consumer in declared.consumers():
        main = checkout / "functions" / consumer.function / "main.py"
        if not main.is_file():
            yield f"topics.yaml: {consumer.group}: there is no {main.relative_to(checkout)}"
            continue
        match = _DECORATOR.search(main.read_text(encoding="utf-8"))
        kind, handled = (match[1], match[2]) if match else ("", "")
        if f'inbox="{consumer.inbox}"' not in handled:
            yield f"{main.relative_to(checkout)}: its inbox is not {consumer.inbox}, as topics.yaml says"
        if f"events.{topic.event}," not in handled:
            yield f"{main.relative_to(checkout)}: it does not handle events.{topic.event} of {topic.name}"
        if (kind == "on_each") != consumer.leased:
            wanted = "on_each" if consumer.leased else "on"
            yield f"{main.relative_to(checkout)}: topics.yaml says that its effect lies {consumer.effect} the database: that is @{wanted}"


def _of_inboxes(declared: Catalogue) -> Iterator[str]:
    consumers = [consumer for _, consumer in declared.consumers()]
    for inbox in sorted({consumer.inbox for consumer in consumers}):
        users = sorted({consumer.function for consumer in consumers if consumer.inbox == inbox})
        if len(users) > 1:
            yield f"topics.yaml: {inbox} belongs to {' and '.join(users)}: what one has handled, the other would take for a repeat"
        if len({consumer.effect for consumer in consumers if consumer.inbox == inbox}) > 1:
            yield f"topics.yaml: {inbox}: its rows differ in effect"


def _of_roles(declared: Catalogue, checkout: Path) -> Iterator[str]:
    try:
        found = roles.read(checkout)
    except errors.ConfigError as exc:
        yield from exc.faults
        return
    for name in sorted({role.name for role in found if [other.name for other in found].count(role.name) > 1}):
        owners = [role.process for role in found if role.name == name]
        yield f"roles.yaml and topics.yaml: {name} is the role of {' and of '.join(owners)}: name the inbox otherwise"
    for role in found:
        folder = checkout / "functions" / role.process
        # A consumer without a folder is named with its group, by its row.
        consumed = role.process in {consumer.function for _, consumer in declared.consumers()}
        if not consumed and not (folder / "main.py").is_file() and not (checkout / "connectors" / role.process).is_dir():
            yield f"roles.yaml: {role.name}: there is no process {role.process}"
    for main in sorted((checkout / "functions").glob("*/main.py")):
        if main.parent.name not in {role.process for role in found}:
            yield f"{main.relative_to(checkout)}: no row of topics.yaml names this function, and roles.yaml has no role for it"


def _of_dlq_router(declared: Catalogue) -> Iterator[str]:
    from functions.dlq_router.addresses import Addresses

    limits = Addresses(Settings.model_construct(overrides={}))
    largest = max(int(topic.config["max.message.bytes"]) for topic in declared.dead_letter_topics)
    if limits.letter_bytes_max < largest:
        yield f"dlq_router: its producer takes {limits.letter_bytes_max} bytes, and a letter may have {largest}"
    if limits.body_bytes_max < largest:
        yield f"dlq_router: it takes bodies of {limits.body_bytes_max} bytes, and a failed record may need {largest}"
