"""Where a consumer's function is, and with what patience its source would deliver to it."""

import dataclasses
from collections.abc import Mapping
from urllib.parse import urlsplit

from connectors.kafka_source import manifest, plan
from connectors.kafka_source.plan import Source
from ops import addresses, home
from ops.dlq import inboxes
from shared import errors, topics
from shared.config import Settings

MANIFEST = "infra/knative/sources.yaml"  # as ops.programs has it, which brings Alembic along: half a second

ANY = "*"  # any consumer, where the address was given


def sources(settings: Settings, *, url: str | None = None) -> Mapping[str, Source]:
    """The source of every consumer group, by the name that the file gives it and by the one that the environment does.

    A function's address is `url`, else that of SINK_URLS or SINK_URL_TEMPLATE, else where `orderflow up` put it.
    """
    known = "" if settings.sink_url_template else ",".join(f"{name.replace('_', '-')}={at}" for name, at in addresses.functions().items())
    told = settings.model_copy(update={"sink_urls": ",".join(filter(None, (known, settings.sink_urls)))})
    planned = {source.name: source for source in plan.sources(manifest.read(home.CHECKOUT / MANIFEST), told)}
    found = {group: planned[consumer.source] for group, consumer in inboxes.by_group(settings).items() if consumer.source in planned}
    if url is None:
        return found
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise errors.ConfigError([f"--url {url!r}: {exc}"]) from exc
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise errors.ConfigError([f"--url {url!r}: must be http://host[:port][/path]"])
    health = f"{parts.scheme}://{parts.netloc}/health"
    there = {group: dataclasses.replace(source, sink=url, health=health) for group, source in found.items()}
    return there | {ANY: dataclasses.replace(next(iter(there.values())), extensions={})}


def source_of(found: Mapping[str, Source], group: str) -> Source:
    """The source of `group`; with an address that was given also of a consumer that is no more. Raises Refused where there is none."""
    if group not in found and ANY in found:
        return dataclasses.replace(found[ANY], group=group)
    if group not in found:
        raise errors.Refused(
            f"{group} is no consumer that {MANIFEST} feeds (there are {', '.join(sorted(found))}): --url sends its letters elsewhere",
            code="unknown_consumer",
        )
    return found[group]


def consumers(settings: Settings, topic: str, *, group: str | None, function: str | None) -> list[topics.Consumer]:
    """The consumers of `topic` that are meant: one by its group or function, or all of them. Raises Refused where there is none."""
    there = [consumer for of, consumer in topics.catalogue(settings).consumers() if of.name == topic]
    wanted = None if function is None else function.replace("-", "_")
    found = [
        consumer
        for consumer in there
        if (group is None or consumer.group == group) and (wanted is None or consumer.function.replace("-", "_") == wanted)
    ]
    if not found:
        known = ", ".join(f"{consumer.group} ({consumer.function})" for consumer in there)
        raise errors.Refused(
            f"{topic} has no such consumer; " + (f"it has {known}" if known else "contracts/topics.yaml names none for it"),
            code="unknown_consumer",
        )
    return found
