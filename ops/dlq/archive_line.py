"""The archive's form: one letter a line, and what its objects are called.

A line is JSON: where the letter lay on its dead-letter topic, then the letter itself as its last member, byte for byte as on the topic.
A record that is no JSON in one line is kept in base64, for nothing on the topic is left out.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple

UNKNOWN = "unknown"  # the consumer of a record that does not say whose letter it is
SUFFIX = ".jsonl.gz"
Written = Literal["written", "repeated", "kept"]  # what S3 did with an object: kept, where the one that is there holds more
_LETTER = b', "letter": '
_CONSUMER = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
_NAME = re.compile(
    r"(?P<consumer>[^/]+)/(?P<date>\d{4}-\d\d-\d\d)/(?P<topic>[^/]+)-(?P<partition>\d+)-(?P<offset>\d+)(?:\.(?P<topic_id>[\w-]+))?"
    + re.escape(SUFFIX)
)


@dataclass(frozen=True, slots=True)
class Archived:
    """One letter as it lay on its dead-letter topic. `body` is its JSON, or None where the record was none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    body: Mapping[str, Any] | None

    @property
    def consumer(self) -> str:
        """Whose letter it is."""
        named = (self.body or {}).get("consumer")
        return named if isinstance(named, str) and _CONSUMER.fullmatch(named) else UNKNOWN

    @property
    def letter_id(self) -> str | None:
        """The letter's own id."""
        named = (self.body or {}).get("letter_id")
        return named if isinstance(named, str) else None

    @property
    def day(self) -> date:
        """The day, in UTC, on which it was written to its topic."""
        try:
            return datetime.fromtimestamp((self.timestamp_ms or 0) / 1000, UTC).date()
        except (ValueError, OverflowError, OSError):  # a producer may say any time at all
            return datetime.fromtimestamp(0, UTC).date()


class NameTaken(Exception):
    """An object of a topic that was deleted, and had the same name, has this key."""


class Name(NamedTuple):
    """What an object's name tells. The same first letter gives the same name, so that a repeat overwrites itself."""

    consumer: str
    day: date
    topic: str
    partition: int
    offset: int
    topic_id: str = ""  # only where an object of a deleted topic of the same name had the name already

    @property
    def key(self) -> str:
        """The object's key in the bucket."""
        other = f".{self.topic_id}" if self.topic_id else ""
        return f"{self.consumer}/{self.day.isoformat()}/{self.topic}-{self.partition}-{self.offset}{other}{SUFFIX}"

    @classmethod
    def parse(cls, key: str) -> "Name | None":
        """The name that `key` is, or None for an object that is none of ours."""
        match = _NAME.fullmatch(key)
        if match is None:
            return None
        try:
            day = date.fromisoformat(match["date"])
        except ValueError:
            return None
        return cls(match["consumer"], day, match["topic"], int(match["partition"]), int(match["offset"]), match["topic_id"] or "")


def of_record(topic: str, partition: int, offset: int, *, timestamp_ms: int | None, key: bytes | None, value: bytes | None) -> Archived:
    """A record of a dead-letter topic, its JSON read where it has any."""
    return Archived(topic, partition, offset, timestamp_ms, key, value, _parsed(value))


def write(letter: Archived) -> bytes:
    """The line, with its end."""
    head: dict[str, Any] = {
        "dlq_topic": letter.topic,
        "dlq_partition": letter.partition,
        "dlq_offset": letter.offset,
        "dlq_timestamp": letter.timestamp_ms,
        "dlq_key": None if letter.key is None else base64.b64encode(letter.key).decode(),
    }
    if letter.body is not None and letter.value is not None and not re.search(rb"[\r\n]", letter.value):
        return json.dumps(head).encode()[:-1] + _LETTER + letter.value + b"}\n"
    head["value_base64"] = None if letter.value is None else base64.b64encode(letter.value).decode()
    return json.dumps(head).encode() + b"\n"


def read(line: bytes) -> Archived:
    """What `write` wrote. Raises ValueError."""
    try:
        before, found, rest = line.removesuffix(b"\n").partition(_LETTER)
        head = json.loads(before + b"}" if found else before)
        value = rest[:-1] if found else _unbase64(head["value_base64"])
        place = (str(head["dlq_topic"]), int(head["dlq_partition"]), int(head["dlq_offset"]))
        return of_record(*place, timestamp_ms=head["dlq_timestamp"], key=_unbase64(head["dlq_key"]), value=value)
    except (KeyError, TypeError) as exc:
        raise ValueError(f"this is no line of the archive: {exc!r}") from exc


def _parsed(value: bytes | None) -> Mapping[str, Any] | None:
    try:
        found = json.loads(value.decode()) if value else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _unbase64(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
