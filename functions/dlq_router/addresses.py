"""Whose letters go where: a path names a consumer group and its topic, contracts/topics.yaml the dead-letter topic.

A path that names none is a mistake in a source's settings. Our own source, and any other caller, gets 404, which is nobody's fault but the
settings': our source keeps the record, shows what it waits for, and goes on when the path is right. A KafkaSource would try a few times
and then lose the record. So its event is taken all the same, as a letter of the nearest consumer there is, with an error in the log.
"""

from dataclasses import dataclass
from urllib.parse import unquote

from shared import topics
from shared.config import Settings

# Our source writes a record as JSON, in which one byte of a header's name can become six. Nothing that a topic holds is refused for that.
BODY_PER_LETTER = 4


@dataclass(frozen=True, slots=True)
class Address:
    """Where one consumer's letters go."""

    group: str
    topic: str
    dead_letter_topic: str
    letter_bytes_max: int
    parks: bool = False  # whether later events of an order wait behind its letter, which they find in the index


class Addresses:
    """Every consumer by its path, under its own names and under those that the environment gives them."""

    def __init__(self, settings: Settings) -> None:
        declared, named = topics.read(), topics.catalogue(settings)
        limits = {topic.name: int(topic.config["max.message.bytes"]) for topic in named.dead_letter_topics}
        self._known: dict[tuple[str, str], Address] = {}
        for (old_topic, old), (topic, consumer) in zip(declared.consumers(), named.consumers(), strict=True):
            letters = consumer.dead_letter_topic
            address = Address(consumer.group, topic.name, letters, limits[letters], settings.parks(consumer.role))
            for group in (old.group, consumer.group):
                for name in (old_topic.name, topic.name):
                    self._known[group, name] = address
        self.letter_bytes_max = max(address.letter_bytes_max for address in self._known.values())
        self.body_bytes_max = BODY_PER_LETTER * self.letter_bytes_max

    def find(self, path: str) -> Address | None:
        """The address that the last two segments of `path` name, or None."""
        return self._known.get(_pair(path))

    def nearest(self, path: str) -> Address:
        """The address that `path` most likely means: the group's, else one of the topic's, else the first."""
        group, topic = _pair(path)
        return next(
            (address for (of, _), address in self._known.items() if of == group),
            next((address for (_, name), address in self._known.items() if name == topic), next(iter(self._known.values()))),
        )

    @property
    def groups(self) -> list[str]:
        """Every consumer group, by the name that it has here."""
        return sorted({address.group for address in self._known.values()})

    def paths(self) -> list[str]:
        """Every path there is."""
        return sorted({f"/{address.group}/{address.topic}" for address in self._known.values()})


def _pair(path: str) -> tuple[str, str]:
    segments = [unquote(segment) for segment in path.split("/") if segment]
    return (segments[-2], segments[-1]) if len(segments) >= 2 else ("", "")
