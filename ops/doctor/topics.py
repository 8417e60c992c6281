"""Topics as the brokers have them, beside what contracts/topics.yaml, the inboxes and the letters need of them."""

import math
from collections.abc import Iterable, Iterator, Mapping

from functions.dlq_router.addresses import Addresses
from ops import agreement, declared
from ops.doctor.checks import finds
from ops.doctor.facts import LiveTopic
from ops.doctor.findings import Finding
from shared import errors, retention
from shared.config import Settings
from shared.topics import Catalogue, Topic

APPLY = "`orderflow topics create --apply`"
AHEAD_S = 3600.0


@finds("topic_missing", "topic_fewer_partitions", "topic_differs")
def as_declared(catalogue: Catalogue, live: Mapping[str, LiveTopic], brokers: int, prod: bool) -> Iterator[Finding]:
    """What is not there, or not as the file says. Outside production there are no more copies than brokers."""
    for topic in catalogue.all():
        there = live.get(topic.name)
        if there is None:
            yield Finding(
                "topic_missing", f"{topic.name} ({topic.setting}, contracts/topics.yaml)", f"`orderflow topics create {topic.name}`"
            )
            continue
        wanted = topic if prod else declared.fitted(topic, brokers, local=True)
        if len(there.partitions) < wanted.partitions:
            yield Finding(
                "topic_fewer_partitions",
                f"{topic.name} has {len(there.partitions)} partitions (the brokers), declared are {wanted.partitions}",
                f"`orderflow topics create {topic.name}`; look first who made it, and since when",
            )
        replicas = max((len(part.replicas) for part in there.partitions), default=0)
        for difference in declared.differences(wanted, len(there.partitions), replicas, there.config):
            yield Finding("topic_differs", f"{topic.name}: {difference} (contracts/topics.yaml)", f"{APPLY}, or change the file")


@finds("topic_leaderless", "topic_out_of_sync")
def written_to(live: Mapping[str, LiveTopic]) -> Iterator[Finding]:
    """Partitions that nobody can write to, or that are one broker away from it."""
    for topic in live.values():
        least = int(topic.config.get("min.insync.replicas", 1))
        stopped = [part.number for part in topic.partitions if part.leader is None or len(part.in_sync) < least]
        behind = [part.number for part in topic.partitions if len(part.in_sync) < len(part.replicas) and part.number not in stopped]
        if stopped:
            yield Finding(
                "topic_leaderless", f"{topic.name}: partitions {_numbers(stopped)} (the brokers)", "start the brokers that are away"
            )
        if behind:
            yield Finding(
                "topic_out_of_sync", f"{topic.name}: partitions {_numbers(behind)} (the brokers)", "see which broker is away or slow"
            )


@finds("replication_single", "insync_single", "insync_all", "unclean_election")
def copies(catalogue: Catalogue, live: Mapping[str, LiveTopic], prod: bool) -> Iterator[Finding]:
    """How many copies there are, and of how many a confirmation speaks. One broker outside production can have one only."""
    for topic in catalogue.all():
        there = live.get(topic.name)
        if there is None or not there.partitions:
            continue
        replicas = min(len(part.replicas) for part in there.partitions)
        least = int(there.config.get("min.insync.replicas", 1))
        setting = f"`kafka-configs.sh --alter --topic {topic.name} --add-config min.insync.replicas={max(1, min(2, replicas - 1))}`"
        if prod and replicas == 1:
            yield Finding(
                "replication_single",
                f"{topic.name} has 1 replica (the brokers), declared are {topic.replication_factor}",
                f"add {topic.replication_factor - 1} replicas to each of its partitions with kafka-reassign-partitions.sh",
            )
        if prod and replicas > 1 and least == 1:
            yield Finding("insync_single", f"{topic.name}: min.insync.replicas is 1 of {replicas} (the brokers)", setting)
        if replicas > 1 and least >= replicas:
            yield Finding("insync_all", f"{topic.name}: min.insync.replicas is {least} of {replicas} (the brokers)", setting)
        if there.config.get("unclean.leader.election.enable") == "true":
            yield Finding(
                "unclean_election",
                f"{topic.name}: unclean.leader.election.enable is true (the brokers)",
                f"`kafka-configs.sh --alter --topic {topic.name} --add-config unclean.leader.election.enable=false`",
            )


@finds("inbox_forgets", "inbox_never_enough")
def remembered(settings: Settings, catalogue: Catalogue, live: Mapping[str, LiveTopic]) -> Iterator[Finding]:
    """Each inbox as its function keeps it, beside the topics that bring its events, dead-letter topics too, as the brokers keep them."""
    there = as_live(catalogue, live)
    named = {topic.name: topic for topic in there.all()}
    for inbox in dict.fromkeys(consumer.inbox for _, consumer in catalogue.consumers()):
        origin = "INBOX_RETENTION" if settings.inbox_retention is not None else "from contracts/topics.yaml"
        try:
            kept_s = retention.inbox_s(inbox, settings, catalogue)
        except errors.ConfigError:
            kept_s = settings.inbox_retention or math.inf  # with which its function does not even start
        readers = [(topic, consumer) for topic, consumer in catalogue.consumers() if consumer.inbox == inbox]
        for name in dict.fromkeys(name for topic, consumer in readers for name in (topic.name, consumer.dead_letter_topic)):
            lives_s = retention.lifetime_s(named[name])
            if name not in live or kept_s >= lives_s + retention.MARGIN_S:
                continue
            limits = ", ".join(f"{key}={named[name].config[key]}" for key in ("retention.ms", "segment.ms") if key in named[name].config)
            if lives_s == math.inf:
                yield Finding(
                    "inbox_never_enough",
                    f"{inbox} removes rows after {_days(kept_s)} ({origin}); {name} keeps records for ever (the brokers: {limits})",
                    f"{APPLY} {name}, or retention.ms: -1 for it in contracts/topics.yaml",
                )
            else:
                wanted = math.ceil((lives_s + retention.MARGIN_S) / retention.DAY_S)
                yield Finding(
                    "inbox_forgets",
                    f"{inbox} keeps rows for {_days(kept_s)} ({origin}); {name} keeps records for up to {_days(lives_s)} "
                    f"(the brokers: {limits}), and a day is for clocks",
                    f"INBOX_RETENTION={wanted}d for {_function(catalogue, inbox)}, or {APPLY} {name}",
                )


@finds("topic_compacted", "topic_bytes_limit")
def kept_whole(catalogue: Catalogue, live: Mapping[str, LiveTopic]) -> Iterator[Finding]:
    """Topics out of which records go before their time."""
    read = [topic.name for topic in catalogue.topics if topic.consumers] + [topic.name for topic in catalogue.dead_letter_topics]
    for name in read:
        config = live[name].config if name in live else {}
        policy, limit = config.get("cleanup.policy", "delete"), int(config.get("retention.bytes", -1))
        change = f"`kafka-configs.sh --alter --topic {name} --add-config"
        if "compact" in policy:
            yield Finding("topic_compacted", f"{name}: cleanup.policy is {policy} (the brokers)", f"{change} cleanup.policy=delete`")
        if limit >= 0:
            yield Finding("topic_bytes_limit", f"{name}: retention.bytes is {limit} (the brokers)", f"{change} retention.bytes=-1`")


@finds("letters_short", "letters_small")
def letters_safe(catalogue: Catalogue, live: Mapping[str, LiveTopic]) -> Iterator[Finding]:
    """Whether every letter fits into its topic, and stays there until somebody has found its cause."""
    there = as_live(catalogue, live)
    router = Addresses(Settings.model_construct(overrides={}))
    for letters in there.dead_letter_topics:
        sources = [topic for topic, consumer in there.consumers() if consumer.dead_letter_topic == letters.name and topic.name in live]
        if letters.name not in live or not sources:
            continue
        kept_ms, wanted_ms = int(letters.config.get("retention.ms", -1)), agreement.letters_kept_ms(sources)
        if 0 <= kept_ms < wanted_ms:
            wanted = "-1" if wanted_ms == math.inf else f"{wanted_ms:.0f}"
            yield Finding(
                "letters_short",
                f"{letters.name}: retention.ms is {kept_ms} ({_days(kept_ms / 1000)}, the brokers); its source topics' records live up to "
                f"{_days((wanted_ms / 1000) - agreement.TRIAGE_DAYS * retention.DAY_S)}, and {agreement.TRIAGE_DAYS} days are for people",
                f"retention.ms={wanted} or more: {APPLY} {letters.name}",
            )
        wanted_bytes = agreement.letter_bytes(sources)
        for whose, limit in {
            f"{letters.name}: max.message.bytes is": int(letters.config.get("max.message.bytes", 0)),
            "dlq_router: its producer takes": router.letter_bytes_max,
        }.items():
            if limit < wanted_bytes:
                yield Finding(
                    "letters_small",
                    f"{whose} {limit}; a letter of {_names(sources)} may have {wanted_bytes} bytes",
                    f"max.message.bytes={wanted_bytes} for {letters.name}: {APPLY} {letters.name}, or a smaller one for its source topics",
                )


@finds("records_too_large")
def taken(settings: Settings, catalogue: Catalogue, live: Mapping[str, LiveTopic]) -> Iterator[Finding]:
    """Topics whose largest record no function takes."""
    for topic in catalogue.topics:
        limit = int(live[topic.name].config.get("max.message.bytes", 0)) if topic.name in live and topic.consumers else 0
        if limit > settings.event_bytes_max:
            yield Finding(
                "records_too_large",
                f"{topic.name}: max.message.bytes is {limit} (the brokers), EVENT_BYTES_MAX is {settings.event_bytes_max}",
                f"EVENT_BYTES_MAX={limit} for its functions, or {APPLY} {topic.name}",
            )


@finds("timestamps_ahead")
def of_today(live: Mapping[str, LiveTopic], now_s: float) -> Iterator[Finding]:
    """Records that bear a time that has yet to come."""
    for topic in live.values():
        if topic.newest_at_s is not None and topic.newest_at_s > now_s + AHEAD_S:
            ahead = topic.newest_at_s - now_s
            yield Finding(
                "timestamps_ahead", f"{topic.name}: its newest record is {ahead:.0f} s ahead of this machine", "run NTP on its producers"
            )


def as_live(catalogue: Catalogue, live: Mapping[str, LiveTopic]) -> Catalogue:
    """`catalogue` with the settings that the brokers have. What is missing there stays as declared."""

    def found(topic: Topic) -> Topic:
        return topic.model_copy(update={"config": dict(live[topic.name].config)}) if topic.name in live else topic

    return catalogue.model_copy(
        update={
            "topics": tuple(map(found, catalogue.topics)),
            "dead_letter_topics": tuple(map(found, catalogue.dead_letter_topics)),
        }
    )


def _function(catalogue: Catalogue, inbox: str) -> str:
    return next(consumer.function for _, consumer in catalogue.consumers() if consumer.inbox == inbox)


def _names(topics: Iterable[Topic]) -> str:
    return ", ".join(dict.fromkeys(topic.name for topic in topics))


def _numbers(found: list[int]) -> str:
    return ", ".join(map(str, found))


def _days(seconds: float) -> str:
    return "ever" if seconds == math.inf else f"{seconds / retention.DAY_S:.3g} days"
