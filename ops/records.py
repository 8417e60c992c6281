"""Records written to a topic and read from it by hand."""

import base64
import enum
import json as jsonlib
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from ops import terminal, topics_admin
from shared import broker, errors
from shared.config import Settings

DELIVERY_S = 30.0
RECORD_BYTES_MAX = 8 << 20  # the broker's limit decides; this is the client's, which would refuse 1 MB
Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):
    """A record to be written."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Start(enum.StrEnum):
    """Where reading starts."""

    beginning = "beginning"
    latest = "latest"


def headers_of(pairs: Sequence[str]) -> list[tuple[str, bytes]]:
    """`name=value` pairs as record headers, in order, repeats kept. Ends the command, exit code 2, when one is malformed."""
    found = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise terminal.usage(f"--header {pair!r}: must be NAME=VALUE")
        found.append((name, value.encode("utf-8", "surrogateescape")))
    return found


def value_of(text: str | None, file: Path | None) -> bytes:
    """The value from the argument, the file, or standard input (where one newline at the end is not part of it)."""
    if text is not None and text != "-":
        return text.encode("utf-8", "surrogateescape")
    if file is not None and str(file) != "-":
        return _read(file)
    return sys.stdin.buffer.read().removesuffix(b"\n")


def encoded(text: str | None) -> bytes | None:
    """Text from the command line as bytes, those that are not UTF-8 as they came."""
    return None if text is None else text.encode("utf-8", "surrogateescape")


def keyed_lines(file: Path | None, key: str | None, separator: str | None, headers: Headers = ()) -> Iterator[Record]:
    """Each line as a record, its key before `separator`, else `key`. Empty lines are left out."""
    lines: Iterable[bytes] = sys.stdin.buffer if file is None or str(file) == "-" else _read(file).splitlines()
    for raw in lines:
        line = raw.rstrip(b"\r\n")
        if not line:
            continue
        before, found, after = line.partition(separator.encode()) if separator else (b"", b"", b"")
        yield Record(before, after, headers) if found else Record(encoded(key), line, headers)


def produce(settings: Settings, topic: str, wanted: Iterable[Record], *, partition: int | None = None) -> list[tuple[int, int]]:
    """Write the records and wait for each delivery report. Partition and offset of each. Raises Unavailable or Refused.

    A topic that is not there is refused at once: the client would wait half a minute for it to appear.
    """
    topics_admin.Admin(settings).known([topic])
    producer = Producer(
        broker.producer(settings, "orderflow-produce", delivery_timeout_s=DELIVERY_S, message_bytes_max=RECORD_BYTES_MAX)
        | {"compression.type": "none"}
    )
    written: list[tuple[int, int]] = []
    failed: list[KafkaError] = []

    def report(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed.append(error)
        else:
            written.append((message.partition() or 0, message.offset() or 0))

    def write(record: Record) -> None:
        place = -1 if partition is None else partition
        producer.produce(topic, record.value, record.key, place, report, headers=list(record.headers))

    for record in wanted:
        try:
            write(record)
        except BufferError:
            producer.flush(DELIVERY_S)
            write(record)
        except KafkaException as exc:
            raise topics_admin.translated(exc.args[0], settings.kafka_brokers) from exc
        producer.poll(0)
    if producer.flush(DELIVERY_S + 5):
        raise errors.Unavailable(
            f"Kafka at {settings.kafka_brokers} confirmed nothing within {DELIVERY_S:.0f} s; the record may be there or not"
        )
    if failed:
        raise topics_admin.translated(failed[0], settings.kafka_brokers)
    return written


def show(
    settings: Settings, names: Sequence[str], *, start: Start, limit: int | None, until_end: bool, idle_s: float | None, json: bool
) -> int:
    """Print records as they come, until Ctrl-C, `limit`, the end, or `idle_s` without any. How many it were."""
    topics_admin.Admin(settings).known(names)
    consumer = Consumer(
        broker.client(settings, "orderflow-consume")
        | {"group.id": f"orderflow-consume-{uuid.uuid4()}", "enable.auto.commit": False, "auto.offset.reset": "earliest"}
        | {"enable.partition.eof": False, "allow.auto.create.topics": False, "isolation.level": "read_committed"}
    )
    shown = 0
    try:
        ends = _assigned(consumer, names, start)
        with terminal.until_interrupted() as interrupted:
            terminal.note(f"{'reading' if start is Start.beginning else 'waiting for new records of'} {', '.join(names)}; Ctrl-C ends it")
            heard = time.monotonic()
            while (limit is None or shown < limit) and not interrupted() and not (until_end and _at_end(consumer, ends)):
                message = consumer.poll(0.2)
                if message is None:
                    if idle_s is not None and time.monotonic() - heard > idle_s:
                        break
                    continue
                heard = time.monotonic()
                if (error := message.error()) is not None:
                    raise topics_admin.translated(error, settings.kafka_brokers)
                if until_end and (message.offset() or 0) >= ends[message.topic() or "", message.partition() or 0]:
                    continue
                sys.stdout.write((_json_line(message) if json else _text_line(message)) + "\n")
                sys.stdout.flush()
                shown += 1
    except KafkaException as exc:
        raise topics_admin.translated(exc.args[0], settings.kafka_brokers) from exc
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()
    return shown


def _assigned(consumer: Consumer, names: Sequence[str], start: Start) -> dict[tuple[str, int], int]:
    metadata = consumer.list_topics(timeout=topics_admin.ANSWER_S).topics
    parts = [(name, partition) for name in names for partition in metadata[name].partitions]
    ends = {}
    for name, partition in parts:
        _, ends[name, partition] = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=topics_admin.ANSWER_S)
    first = {part: OFFSET_BEGINNING if start is Start.beginning else end for part, end in ends.items()}
    consumer.assign([TopicPartition(*part, offset) for part, offset in first.items()])
    return ends


def _at_end(consumer: Consumer, ends: dict[tuple[str, int], int]) -> bool:
    # A position of -1001 is that of a partition of which nothing was read yet: at its end only when it is empty.
    for place in consumer.position([TopicPartition(*part) for part in ends]):
        end = ends[place.topic, place.partition]
        if place.offset < end:
            low, high = consumer.get_watermark_offsets(TopicPartition(place.topic, place.partition), cached=place.offset >= 0)
            if not (place.offset < 0 and low == high):
                return False
    return True


def _headers(message: Message) -> list[tuple[str, bytes | None]]:
    pairs: Any = message.headers() or []
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]


def _text_line(message: Message) -> str:
    moment = _moment(message)
    facts = [f"{message.topic()}[{message.partition()}]@{message.offset()}", moment or "no time"]
    facts.append(f"key={_shown(message.key())}")
    facts += [f"{terminal.printable(name.encode())}={_shown(value)}" for name, value in _headers(message)]
    return f"{'  '.join(facts)}\n    {_shown(message.value())}"


def _json_line(message: Message) -> str:
    return jsonlib.dumps(
        {
            "topic": message.topic(),
            "partition": message.partition(),
            "offset": message.offset(),
            "timestamp": _moment(message),
            **_field("key", message.key()),
            "headers": [{"name": name, **_field("value", value)} for name, value in _headers(message)],
            **_field("value", message.value()),
        },
        ensure_ascii=False,
    )


def _field(name: str, data: str | bytes | None) -> dict[str, Any]:
    raw = data.encode() if isinstance(data, str) else data
    if raw is None:
        return {name: None}
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(raw).decode()}


def _shown(data: str | bytes | None) -> str:
    if data is None:
        return "(null)"
    return terminal.printable(data.encode() if isinstance(data, str) else data)


def _moment(message: Message) -> str | None:
    kind, milliseconds = message.timestamp()
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds") if kind else None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise terminal.usage(f"{file}: {exc.strerror}") from exc
