"""Where events come from that are replayed: a range of a topic, a file of structured CloudEvents, the archive of letters."""

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from ops import topics_admin
from ops.dlq import originals
from ops.dlq.originals import Original
from shared import broker, errors, events, letters
from shared.config import Settings

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)")
_REQUIRED = ("specversion", "id", "source", "type")

Bound = int | datetime | None


def bound(text: str | None) -> Bound:
    """An offset, or an RFC 3339 time. Raises ValueError."""
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    if not _RFC_3339.fullmatch(text):
        raise ValueError(f"must be an offset, or a time with its zone such as 2026-11-24T12:00:00Z, not {text!r}")
    return datetime.fromisoformat(text)


class Span(NamedTuple):
    """Records of a topic, or of one partition of it, from `start` up to and not including `end`."""

    topic: str
    start: Bound = None
    end: Bound = None
    partition: int | None = None


def of_topic(settings: Settings, span: Span) -> Iterator[Original]:
    """The records of `span`, which ends with this moment at the latest. Raises Refused, Unavailable."""
    topic, partition = span.topic, span.partition
    topics_admin.Admin(settings).known([topic])
    consumer = Consumer(
        broker.client(settings, "orderflow-replay")
        | {"group.id": "orderflow-replay", "enable.auto.commit": False, "auto.offset.reset": "earliest", "enable.partition.eof": True}
        | {"allow.auto.create.topics": False, "isolation.level": "read_committed", "fetch.message.max.bytes": 4 << 20}
        | {"queued.max.messages.kbytes": 16 << 10}
    )
    try:
        there = consumer.list_topics(topic, timeout=topics_admin.ANSWER_S).topics[topic].partitions
        if partition is not None and partition not in there:
            raise errors.Refused(f"{topic} has no partition {partition}", code="unknown_partition")
        for number in sorted(there) if partition is None else [partition]:
            yield from _of_partition(consumer, span, number, settings.kafka_brokers)
    except KafkaException as exc:
        raise topics_admin.translated(exc.args[0], settings.kafka_brokers) from exc
    finally:
        consumer.close()


def of_file(path: Path, topic_of: Mapping[str, str], topic: str | None) -> Iterator[Original]:
    """The structured CloudEvents of a file, one a line, each of `topic`, else of the topic of its type. Raises Refused, naming the line."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _of_line(line.strip(), f"{path}, line {number}", topic_of, topic)
    except OSError as exc:
        raise errors.Refused(f"{path}: {exc.strerror}", code="unreadable_file") from exc


def of_archive(found: Iterable[Any]) -> Iterator[tuple[Original, str]]:
    """The records of archived letters with the consumer of each. `found` are lines of the archive; what is no letter is left out."""
    for line in found:
        if line.body is None:
            continue
        try:
            letter = letters.read(line.value or b"")
            original = originals.of_letter(line.body)
        except (errors.Refused, ValueError, KeyError, TypeError):
            continue
        yield _dated(original, letter.failed_at), letter.consumer


def is_older(original: Original, since: datetime | None) -> bool:
    """Whether the event is older than `since`; one of which nobody knows the time is."""
    return since is not None and (original.timestamp_ms is None or original.timestamp_ms < since.timestamp() * 1000)


def topics_of_types(settings: Settings) -> dict[str, str]:
    """The topic of each event type."""
    return {name: settings.topic(name) for name in events.known()}


def _of_partition(consumer: Consumer, span: Span, number: int, brokers: str) -> Iterator[Original]:
    topic, place = span.topic, TopicPartition(span.topic, number)
    low, high = consumer.get_watermark_offsets(place, timeout=topics_admin.ANSWER_S)
    first = max(low, low if span.start is None else _offset(consumer, place, span.start, high))
    last = min(high, high if span.end is None else _offset(consumer, place, span.end, high))
    if first >= last:
        return
    consumer.assign([TopicPartition(topic, number, first)])
    heard = time.monotonic()
    while True:
        message = consumer.poll(0.5)
        fault = None if message is None else message.error()
        if message is None or (fault is not None and fault.code() != KafkaError._PARTITION_EOF):  # the client tries again by itself
            if time.monotonic() - heard > topics_admin.ANSWER_S:
                raise errors.Unavailable(f"Kafka at {brokers} gave no record of {topic}[{number}] for {topics_admin.ANSWER_S:.0f} s")
            continue
        heard, offset = time.monotonic(), message.offset() or 0
        if fault is not None or offset >= last:
            return
        yield _of_message(topic, message)
        if offset == last - 1:
            return


def _offset(consumer: Consumer, place: TopicPartition, at: int | datetime, high: int) -> int:
    if isinstance(at, int):
        return at
    moment = TopicPartition(place.topic, place.partition, int(at.timestamp() * 1000))
    (found,) = consumer.offsets_for_times([moment], timeout=topics_admin.ANSWER_S)
    if found.error is not None:
        raise KafkaException(found.error)
    return high if found.offset in {OFFSET_END, -1} else int(found.offset)


def _of_message(topic: str, message: Message) -> Original:
    kind, timestamp_ms = message.timestamp()
    try:
        headers: Any = message.headers() or ()
    except UnicodeDecodeError:  # as in the source: names that are no UTF-8 make them unreadable
        headers = ()
    key, value = message.key(), message.value()
    return Original(
        topic=topic,
        value=value.encode() if isinstance(value, str) else value,
        key=key.encode() if isinstance(key, str) else key,
        headers=originals.passed_on((name, raw.encode() if isinstance(raw, str) else raw) for name, raw in headers),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=timestamp_ms if kind else None,
    )


def _of_line(line: bytes, where: str, topic_of: Mapping[str, str], topic: str | None) -> Original:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise errors.Refused(f"{where}: is not JSON: {exc}", code="unreadable_file") from exc
    if not isinstance(event, dict) or not all(isinstance(event.get(name), str) and event[name] for name in _REQUIRED):
        raise errors.Refused(f"{where}: is no structured CloudEvent: {', '.join(_REQUIRED)} must be texts", code="unreadable_file")
    found = topic or topic_of.get(event["type"])
    if found is None:
        raise errors.Refused(f"{where}: {event['type']!r} travels on no topic that is known: say --topic", code="unknown_type")
    key = event.get("partitionkey") or event.get("subject")
    try:
        original = originals.of_event(found, line, key if isinstance(key, str) else None)
    except UnicodeEncodeError as exc:
        raise errors.Refused(f"{where}: its key holds half of a surrogate pair", code="unreadable_file") from exc
    data = event.get("data")
    for text in (event.get("time"), data.get("occurred_at") if isinstance(data, dict) else None):
        if isinstance(text, str):
            with contextlib.suppress(ValueError):
                return _dated(original, datetime.fromisoformat(text))
    return original


def _dated(original: Original, moment: datetime) -> Original:
    if original.timestamp_ms is not None or moment.tzinfo is None:
        return original
    return msgspec.structs.replace(original, timestamp_ms=int(moment.timestamp() * 1000))
