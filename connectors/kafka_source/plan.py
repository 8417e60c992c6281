"""What each source does: the environment over its manifest over contracts/topics.yaml, and where a value came from when they differ."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from connectors.kafka_source import manifest
from shared import errors, topics
from shared.config import Settings

log = logging.getLogger(__name__)

COUNTED_DELAY_MAX_S = 600.0  # an exponential delay without a cap parks an event for days


@dataclass(frozen=True, slots=True)
class Source:
    """One source, whole and checked."""

    name: str
    namespace: str
    topics: tuple[str, ...]
    group: str
    brokers: str
    earliest: bool
    ordered: bool
    key_type: str
    extensions: Mapping[str, str]
    batch_size: int
    batch_wait_s: float
    requests_in_flight: int
    records_ahead_max: int
    retries: int
    backoff_delay_s: float
    exponential: bool
    timeout_s: float
    sink: str
    health: str
    letters: str
    letters_by_topic: bool

    def delay_s(self, failures: int) -> float:
        """How long to wait before the nth retry, as KafkaSource does it."""
        return min(COUNTED_DELAY_MAX_S, self.backoff_delay_s * (2.0**failures if self.exponential else failures))

    def letter_url(self, topic: str) -> str:
        """Where the failed records of `topic` go."""
        return f"{self.letters}/{self.group}/{topic}" if self.letters_by_topic else self.letters


def sources(documents: Sequence[manifest.Document], settings: Settings) -> tuple[Source, ...]:
    """The sources that `documents` and `settings` describe together. Raises ConfigError with every fault."""
    catalogue, declared = topics.catalogue(settings), topics.read()
    urls = _Urls(settings)
    made = [_source(document, settings, declared.by_source(document.name), urls) for document in documents]
    faults = list(urls.faults)
    letters = {topic.name for topic in catalogue.dead_letter_topics}
    for source in made:
        faults += [
            f"{source.name}: {topic} is a dead-letter topic and cannot be a source topic too: its letters would be events again"
            for topic in source.topics
            if topic in letters
        ]
        if source.letters.rstrip("/") == source.sink.rstrip("/"):
            faults.append(f"{source.name}: spec.delivery.deadLetterSink: is the sink itself")
    for document in documents:
        faults += _consumers(document)
        net = document.spec.net or {}
        if any(isinstance(part, dict) and part.get("enable") for part in net.values()) and not settings.kafka_security:
            faults.append(
                f"{document.name}: spec.net: names secrets of Kubernetes; here set KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_…, KAFKA_SSL_…"
            )
    if faults:
        raise errors.ConfigError(faults)
    return tuple(made)


def _consumers(document: manifest.Document) -> list[str]:
    """What becomes of spec.consumers: a KafkaSource starts so many, and here each process is one member of the group."""
    if document.spec.consumers > 1:
        log.warning("%s: spec.consumers is %d, and this process is one: start as many of them", document.name, document.spec.consumers)
    stopped = (
        f"{document.name}: spec.consumers: 0 stops a KafkaSource; here pause it (orderflow sources pause), or name the others with --source"
    )
    return [] if document.spec.consumers else [stopped]


def _source(document: manifest.Document, settings: Settings, row: tuple[topics.Topic, topics.Consumer] | None, urls: "_Urls") -> Source:
    spec, tuning = document.spec, document.tuning
    names = tuple(_topic(document, name, settings, row) for name in spec.topics)
    group = _group(document, settings, row)
    retries, backoff_delay_s = _retry(document, settings, row)
    _differs(document.name, "brokers", settings.kafka_brokers, "KAFKA_BROKERS or APP_ENV", ",".join(spec.bootstrap_servers))
    extensions = dict(spec.ce_overrides.extensions)
    if extensions.get("kafkatopic") in spec.topics and len(names) == 1:
        extensions["kafkatopic"] = names[0]
    letters, by_topic = _letters(document, group, names, urls)
    return Source(
        name=document.name,
        namespace=document.namespace,
        topics=names,
        group=group,
        brokers=settings.kafka_brokers,
        earliest=spec.initial_offset == "earliest",
        ordered=spec.ordering == "ordered",
        key_type=document.key_type,
        extensions=extensions,
        batch_size=tuning.batch_size,
        batch_wait_s=tuning.batch_wait,
        requests_in_flight=tuning.requests_in_flight,
        records_ahead_max=tuning.records_ahead_max,
        retries=retries,
        backoff_delay_s=backoff_delay_s,
        exponential=spec.delivery.backoff_policy == "exponential",
        timeout_s=spec.delivery.timeout,
        sink=urls.of(document.name, "spec.sink", spec.sink),
        health=urls.health(spec.sink),
        letters=letters,
        letters_by_topic=by_topic,
    )


def _topic(document: manifest.Document, name: str, settings: Settings, row: tuple[topics.Topic, topics.Consumer] | None) -> str:
    if row is None:
        return name
    topic = row[0]
    if topic.name not in document.spec.topics:
        _differs(document.name, "topic", name, "manifest", topic.name, than="contracts/topics.yaml")
    if len(document.spec.topics) > 1 and name != topic.name:
        return name
    return _overridden(document.name, "topic", topic.setting, name, settings)


def _group(document: manifest.Document, settings: Settings, row: tuple[topics.Topic, topics.Consumer] | None) -> str:
    stated = document.spec.consumer_group
    if row is None:
        if stated is None:
            raise errors.ConfigError([f"{document.name}: spec.consumerGroup: must be stated, contracts/topics.yaml has none for it"])
        return stated
    consumer = row[1]
    if stated not in {None, consumer.group}:
        _differs(document.name, "group", str(stated), "manifest", consumer.group, than="contracts/topics.yaml")
    return _overridden(document.name, "group", consumer.setting, stated or consumer.group, settings)


def _retry(document: manifest.Document, settings: Settings, row: tuple[topics.Topic, topics.Consumer] | None) -> tuple[int, float]:
    delivery = document.spec.delivery
    wanted = settings.retry(row[1].role if row else "")
    retries, delay_s = delivery.retry, delivery.backoff_delay
    if wanted.max_attempts is not None:
        retries = wanted.max_attempts
        _differs(document.name, "retry", str(retries), "KAFKA_RETRY_MAX_ATTEMPTS", str(delivery.retry))
    if wanted.backoff_base_s is not None:
        # The setting is the first wait; KafkaSource's exponential first wait is twice its delay.
        delay_s = wanted.backoff_base_s / (2 if delivery.backoff_policy == "exponential" else 1)
        _differs(document.name, "backoffDelay", f"{delay_s:g}s", "KAFKA_RETRY_BACKOFF_BASE", f"{delivery.backoff_delay:g}s")
    return retries, delay_s


def _letters(document: manifest.Document, group: str, names: Sequence[str], urls: "_Urls") -> tuple[str, bool]:
    """The dead-letter sink, and whether group and topic are still to be added. Its path names both, so it follows what overrides them."""
    stated = document.spec.delivery.dead_letter_sink
    usual = f"/{document.spec.consumer_group}/{document.spec.topics[0]}"
    if stated.ref is not None and stated.uri in {None, usual} and (stated.uri is None or len(names) == 1):
        bare = manifest.Destination(ref=stated.ref)
        return urls.of(document.name, "spec.delivery.deadLetterSink", bare).rstrip("/"), True
    return urls.of(document.name, "spec.delivery.deadLetterSink", stated), False


def _overridden(source: str, what: str, setting: str, stated: str, settings: Settings) -> str:
    value = settings.override(setting, stated)
    _differs(source, what, value, setting, stated)
    return value


def _differs(source: str, what: str, value: str, origin: str, other: str, *, than: str = "manifest") -> None:
    if value != other:
        log.info("%s: %s is %s (%s), not %s (%s)", source, what, value, origin, other, than)


class _Urls:
    """The addresses of Services, from SINK_URLS and SINK_URL_TEMPLATE; what has none is a fault."""

    def __init__(self, settings: Settings) -> None:
        self.faults: list[str] = []
        self._template = settings.sink_url_template
        self._known: dict[str, str] = {}
        for pair in filter(None, (part.strip() for part in settings.sink_urls.split(","))):
            name, _, url = pair.partition("=")
            if not url.startswith(("http://", "https://")):
                self.faults.append(f"SINK_URLS: must be name=http://…[,name=http://…], and {pair!r} is not")
            self._known[name.strip()] = url.strip().rstrip("/")

    def of(self, source: str, field: str, destination: manifest.Destination) -> str:
        """The whole address of `destination`."""
        if destination.ref is None:
            return destination.uri or ""
        base = self._base(destination.ref.name)
        if base is None:
            name = destination.ref.name
            self.faults.append(f"{source}: {field}.ref: no address for {name}: set SINK_URLS={name}=http://… or SINK_URL_TEMPLATE")
            return field
        return f"{base}/{destination.uri.lstrip('/')}" if destination.uri else f"{base}/"

    def health(self, destination: manifest.Destination) -> str:
        """Where the function behind `destination` says that it works."""
        if destination.ref is not None:
            return f"{self._base(destination.ref.name)}/health"
        scheme, _, rest = (destination.uri or "").partition("://")
        return f"{scheme}://{rest.partition('/')[0]}/health"

    def _base(self, name: str) -> str | None:
        if name in self._known:
            return self._known[name]
        return self._template.replace("{name}", name).rstrip("/") if self._template else None
