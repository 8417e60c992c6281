"""KafkaSource documents: what loses events, and what surprises."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

from pydantic import ValidationError

from connectors.kafka_source import manifest, plan
from ops import manifests
from ops.doctor.checks import finds
from ops.doctor.facts import Pods, Source
from ops.doctor.findings import Finding
from ops.doctor.times import TIMEOUT_S
from shared import retention
from shared.topics import Catalogue

TOKENS = ("DELIVERY_TOKEN", "DELIVERY_TOKEN_FILE")


@finds("source_invalid")
def readable(unreadable: tuple[str, ...]) -> Iterator[Finding]:
    """Manifests that are none."""
    for sentence in unreadable:
        yield Finding("source_invalid", sentence, "put it right, or name another with --manifests")


@finds("source_invalid")
def valid(sources: Sequence[Source]) -> Iterator[Finding]:
    """What our own source would refuse."""
    for source in sources:
        for fault in _faults(source):
            yield Finding(
                "source_invalid", f"{source.name}: {fault} ({source.origin})", "as docs/knative.md and infra/knative/sources.yaml have it"
            )


@finds("source_missing")
def all_there(declared: Catalogue, sources: Sequence[Source]) -> Iterator[Finding]:
    """Whether somebody brings each consumer its events."""
    there = {source.name for source in sources}
    for topic, consumer in declared.consumers():
        if consumer.source not in there:
            yield Finding(
                "source_missing", f"{consumer.source}, for {consumer.group} of {topic.name} (contracts/topics.yaml)",
                f"a KafkaSource {consumer.source} as docs/add-a-consumer.md shows it",
            )  # fmt: skip


@finds("source_without_letters", "letters_are_source")
def with_letters(declared: Catalogue, sources: Sequence[Source]) -> Iterator[Finding]:
    """Whether what fails goes somewhere, and nowhere that it comes back from."""
    letters = {topic.name for topic in declared.dead_letter_topics}
    for source in sources:
        sink = source.at("spec.delivery.deadLetterSink")
        if not sink:
            yield Finding(
                "source_without_letters",
                f"{source.name} ({source.origin}) has no spec.delivery.deadLetterSink",
                f"deadLetterSink: {{ref: {{name: dlq-router, …}}, uri: /{source.at('spec.consumerGroup')}/{_first_topic(source)}}}",
            )
        elif sink == source.at("spec.sink"):
            yield Finding("letters_are_source", f"{source.name}: its dead-letter sink is its sink ({source.origin})", "dlq-router")
        for topic in letters.intersection(source.at("spec.topics") or ()):
            yield Finding("letters_are_source", f"{source.name} reads {topic}, a dead-letter topic ({source.origin})", "another topic")


@finds("source_latest", "source_without_group", "group_shared", "source_unordered")
def from_the_first_and_in_order(declared: Catalogue, sources: Sequence[Source]) -> Iterator[Finding]:
    """Where a source begins, as whom, and in which order."""
    keyed = {topic.name for topic in declared.topics if topic.key}
    for source in sources:
        begins = source.at("spec.initialOffset")
        if begins != "earliest":
            stated = f"is {begins}" if begins else "is not stated, and KafkaSource's default is latest"
            yield Finding("source_latest", f"{source.name}: spec.initialOffset {stated} ({source.origin})", "`initialOffset: earliest`")
        if not source.at("spec.consumerGroup"):
            yield Finding("source_without_group", f"{source.name} ({source.origin})", f"`consumerGroup: {_group(declared, source)}`")
        if source.at("spec.ordering") == "unordered" and keyed.intersection(source.at("spec.topics") or ()):
            yield Finding("source_unordered", f"{source.name}: spec.ordering is unordered ({source.origin})", "`ordering: ordered`")
    for one, other in itertools.combinations(sources, 2):
        group = one.at("spec.consumerGroup")
        if group and group == other.at("spec.consumerGroup"):
            yield Finding(
                "group_shared", f"{one.name} and {other.name}: {group} ({other.origin})", f"another consumerGroup for {other.name}"
            )


@finds("source_no_retry", "source_parks")
def tried_again(declared: Catalogue, sources: Sequence[Source]) -> Iterator[Finding]:
    """Whether a hiccup costs a letter, and how long an event can wait between its tries."""
    kept_s = {topic.name: retention.lifetime_s(topic) for topic in declared.topics}
    for source in sources:
        if not source.at("spec.delivery"):
            continue  # source_without_letters says so
        retry, waits = source.at("spec.delivery.retry"), source.at("spec.delivery.backoffDelay")
        if not retry or waits in {"PT0S", "PT0M"}:
            yield Finding(
                "source_no_retry",
                f"{source.name}: retry is {retry}, backoffDelay {waits} ({source.origin})",
                "`retry: 3`, `backoffDelay: PT0.5S`",
            )
        delays = delays_s(source)
        timeout_s = _seconds(source.at("spec.delivery.timeout"), TIMEOUT_S)
        whole_s = 2 * (sum(delays) + (len(delays) + 1) * timeout_s)  # the dead-letter sink is tried as often as the function
        shortest_s = min((kept_s[name] for name in source.at("spec.topics") or () if name in kept_s), default=float("inf"))
        if delays and (max(delays) > plan.COUNTED_DELAY_MAX_S or whole_s > shortest_s / 10):
            yield Finding(
                "source_parks",
                f"{source.name}: retries come after up to {max(delays):g} s, an event can take {whole_s / 3600:.3g} h ({source.origin})",
                f"`retry` and `backoffDelay` with which no delay is longer than {plan.COUNTED_DELAY_MAX_S:g} s",
            )


@finds("source_differs")
def as_declared(declared: Catalogue, sources: Sequence[Source]) -> Iterator[Finding]:
    """The rest of what follows from contracts/topics.yaml; what has a finding of its own is left out."""
    for source in sources:
        row = declared.by_source(source.name)
        own = {"apiVersion", "kind", "spec.initialOffset", "spec.ordering"}
        own |= {path for path in ("spec.consumerGroup", "spec.delivery.deadLetterSink") if not source.at(path)}
        for path, must in manifests.wanted(*row).items() if row else ():
            if not any(path == one or path.startswith(f"{one}.") for one in own) and not _holds(source.at(path), must):
                yield Finding("source_differs", f"{source.name}: {path} is {source.at(path)!r} ({source.origin})", f"{path}: {must!r}")


@finds("token_unsendable")
def no_token(sources: Sequence[Source], pods: Sequence[Pods]) -> Iterator[Finding]:
    """Functions that want a token from a source that can send none."""
    reached = {str(part) for source in sources if source.knative for part in (source.at("spec.sink.ref.name"), _letters(source)) if part}
    for pod in pods:
        for name in TOKENS:
            if pod.name in reached and pod.environment.get(name):
                yield Finding("token_unsendable", f"{pod.name} has {name} (manifests)", f"take {name} away from {pod.name}")


def delays_s(source: Source) -> list[float]:
    """What KafkaSource waits before each retry: without jitter and without a cap. Our own source caps each."""
    retry, base_s = source.at("spec.delivery.retry"), _seconds(source.at("spec.delivery.backoffDelay"), 0.2)
    tries = range(1, (retry if isinstance(retry, int) else 0) + 1)
    found = [base_s * (n if source.at("spec.delivery.backoffPolicy") == "linear" else 2.0**n) for n in tries]
    return found if source.knative else [min(plan.COUNTED_DELAY_MAX_S, delay) for delay in found]


def _faults(source: Source) -> Iterator[str]:
    try:
        manifest.checked(source.document)
    except ValidationError as exc:
        for fault in exc.errors(include_input=False, include_url=False):
            place = ".".join(map(str, fault["loc"]))
            if place not in {"spec.delivery", "spec.delivery.deadLetterSink"}:  # has a finding of its own
                yield f"{place}: {fault['msg'].removeprefix('Value error, ')}"


def _holds(found: object, wanted: object) -> bool:
    """Whether `found` says `wanted`; of a map, at least that: an overlay may add labels."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return all(found.get(key) == value for key, value in wanted.items())
    return found == wanted


def _letters(source: Source) -> object:
    return source.at("spec.delivery.deadLetterSink.ref.name")


def _first_topic(source: Source) -> str:
    return next(iter(source.at("spec.topics") or ()), "TOPIC")


def _group(declared: Catalogue, source: Source) -> str:
    row = declared.by_source(source.name)
    return row[1].group if row else "a name of its own"


def _seconds(stated: object, default: float) -> float:
    try:
        return default if stated is None else manifest.duration_s(stated)
    except ValueError:
        return default
