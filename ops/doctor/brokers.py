"""The brokers' own settings."""

from collections.abc import Iterator, Mapping

from ops.doctor.checks import finds
from ops.doctor.facts import LiveTopic
from ops.doctor.findings import Finding
from shared.topics import Catalogue

_DEFAULT_MINUTES = 10_080  # Kafka's own: 7 days


@finds("auto_create")
def by_themselves(broker_settings: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Brokers that make a topic of any name that somebody says."""
    on = [broker for broker, settings in broker_settings.items() if settings.get("auto.create.topics.enable", "true") == "true"]
    if on:
        yield Finding(
            "auto_create", f"auto.create.topics.enable is true on {_brokers(on)}", "auto.create.topics.enable=false, and restart it"
        )


@finds("offsets_expire")
def remembered(catalogue: Catalogue, live: Mapping[str, LiveTopic], broker_settings: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Whether a group that is away keeps its place for as long as its topic keeps records."""
    kept_ms = {
        topic.name: int(live[topic.name].config.get("retention.ms", -1))
        for topic in catalogue.topics
        if topic.consumers and topic.name in live
    }
    for broker, settings in broker_settings.items():
        minutes = int(settings.get("offsets.retention.minutes", _DEFAULT_MINUTES))
        longer = [name for name, kept in kept_ms.items() if kept > minutes * 60_000]
        if longer:
            wanted = max(kept_ms[name] for name in longer) // 60_000
            yield Finding(
                "offsets_expire",
                f"offsets.retention.minutes is {minutes} on {_brokers([broker])}; {', '.join(longer)}: records stay up to {wanted} minutes",
                f"offsets.retention.minutes={wanted}",
            )


def _brokers(found: list[str]) -> str:
    return f"broker{'s' if len(found) > 1 else ''} {', '.join(found)}"
