"""The index caught up from the dead-letter topics, on from the offsets that it holds; or anew, from their beginning.

Letters and offsets commit together, so a sync that is interrupted, or runs twice at once, leaves nothing out and counts nothing twice.
"""

import contextlib
import functools
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ops import topics_admin
from ops.dlq.inboxes import Inboxes
from shared import broker, errors, letters, letters_index, topics
from shared.config import Settings
from shared.database import Database, Transaction

BATCH_LETTERS_MAX, BATCH_BYTES_MAX = 500, 4 << 20
FETCH_KILOBYTES_MAX = 16 << 10
CONNECT_S = 3.0
SILENCE_S = 15.0  # how long a broker may give nothing of what it has
WHO = "orderflow dlq sync"

_POSITIONS = """
INSERT INTO dlq_positions AS held (topic, partition, topic_id, next_offset)
SELECT * FROM unnest(:topics::text[], :partitions::integer[], :topic_ids::text[], :offsets::bigint[])
ON CONFLICT (topic, partition) DO UPDATE SET topic_id = excluded.topic_id, next_offset =
    CASE WHEN held.topic_id = excluded.topic_id THEN GREATEST(held.next_offset, excluded.next_offset) ELSE excluded.next_offset END
"""
_FORGET = "DELETE FROM dlq_positions WHERE topic = :topic AND partition = :partition::integer AND next_offset = :offset::bigint"
_KNOWN = "SELECT letter_id FROM dlq_letters WHERE letter_id = ANY(:ids::text[])"
_DONE = """
UPDATE dlq_letters SET state = 'done', state_reason = 'the inbox holds its event as done'
WHERE letter_id = ANY(:ids::text[]) AND state = 'open'
"""
_DONE_HISTORY = """
INSERT INTO dlq_history (letter_id, at, what, who, detail)
SELECT letter_id, at, 'done', :who, 'the inbox holds its event as done' FROM unnest(:ids::text[], :at::timestamptz[]) AS u(letter_id, at)
"""


@dataclass
class Report:
    """What a sync found."""

    read: int = 0
    added: int = 0
    done: int = 0  # of those added: the inbox knows their event
    unreadable: list[str] = field(default_factory=list)  # where records lie that are no letters
    missing: list[str] = field(default_factory=list)  # dead-letter topics that are not there
    inboxes_away: list[str] = field(default_factory=list)  # they did not say which letters are done


@dataclass
class _Part:
    topic: str
    number: int
    topic_id: str
    next_offset: int
    end: int
    ended: bool = False


def sync(settings: Settings, database: Database, *, rebuild: bool = False, tell: Callable[[int, int], None] | None = None) -> Report:
    """Read the dead-letter topics on, or with `rebuild` whole, and have every letter in the index; history and states are kept.

    `tell` is called with how many records were read, and of how many. Raises Unavailable, with everything before that kept.
    """
    _reach(settings.kafka_brokers)
    report = Report()
    parts = _parts(settings, database, report, rebuild=rebuild)
    if not parts:
        return report
    total = sum(part.end - part.next_offset for part in parts)
    inboxes = Inboxes(settings)
    try:
        for batch in _batches(settings, parts):
            _commit(database, inboxes, batch, parts, report)
            if tell is not None:
                tell(total - sum(max(0, part.end - part.next_offset) for part in parts), total)
    finally:
        report.inboxes_away = sorted(inboxes.away)
        inboxes.close()
    return report


def _reach(brokers: str) -> None:
    """Raise Unavailable when none of the brokers takes a connection: Kafka's client would look for them for a long time."""
    for address in brokers.split(","):
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            return
    raise errors.Unavailable(f"Kafka at {brokers} does not answer", code="kafka_away")


def _parts(settings: Settings, database: Database, report: Report, *, rebuild: bool) -> list[_Part]:
    """The partitions of which there is something to read, each from where on."""
    admin = topics_admin.Admin(settings)
    there = admin.partitions()
    wanted = [topic.name for topic in topics.catalogue(settings).dead_letter_topics]
    report.missing = [name for name in wanted if name not in there]
    rows = database.transact(lambda tx: tx.run("SELECT topic, partition, topic_id, next_offset FROM dlq_positions"))
    held = {(topic, number): (topic_id, offset) for topic, number, topic_id, offset in rows}
    found = []
    for name in wanted:
        if name not in there:
            continue
        described = admin.describe(name)
        for part in described.partitions:
            topic_id, offset = held.get((name, part.number), ("", 0))
            start = offset if topic_id == described.topic_id and not rebuild else 0
            if start > part.next_offset:  # the topic was cut off: what is there now was not read
                database.transact(functools.partial(_forget, name, part.number, offset))
                start = 0
            start = max(start, part.first_offset)
            if start < part.next_offset:
                found.append(_Part(name, part.number, described.topic_id, start, part.next_offset))
    return found


def _batches(settings: Settings, parts: Sequence[_Part]) -> Iterator[list[Message]]:
    """The records of `parts` up to their ends, in batches that fit in memory; each part knows how far it was read. Raises Unavailable."""
    by_place = {(part.topic, part.number): part for part in parts}
    consumer = Consumer(
        broker.client(settings, "orderflow-dlq")
        | {"group.id": "orderflow-dlq", "enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "earliest"}
        | {"isolation.level": "read_committed", "enable.partition.eof": True, "queued.max.messages.kbytes": FETCH_KILOBYTES_MAX}
        | {"allow.auto.create.topics": False}
    )
    try:
        consumer.assign([TopicPartition(part.topic, part.number, part.next_offset) for part in parts])
        batch: list[Message] = []
        size, heard = 0, time.monotonic()
        while not all(part.ended for part in parts):
            message = consumer.poll(0.5)
            if message is None:
                if time.monotonic() - heard > SILENCE_S:
                    raise errors.Unavailable(f"Kafka at {settings.kafka_brokers} gave no letters for {SILENCE_S:.0f} s")
                continue
            fault: Any = message.error()
            if fault is not None and fault.code() != KafkaError._PARTITION_EOF:
                if fault.retriable() or not fault.fatal():
                    continue
                raise topics_admin.translated(fault, settings.kafka_brokers)
            heard = time.monotonic()
            part = by_place[message.topic() or "", message.partition() or 0]
            offset = message.offset() or 0
            if fault is not None:
                part.next_offset, part.ended = max(part.next_offset, offset), True
            elif not part.ended:
                part.next_offset = offset + 1
                part.ended = part.next_offset >= part.end
                batch.append(message)
                size += len(message)
            if len(batch) >= BATCH_LETTERS_MAX or size >= BATCH_BYTES_MAX:
                yield batch
                batch, size = [], 0
        yield batch
    except KafkaException as exc:
        raise topics_admin.translated(exc.args[0], settings.kafka_brokers) from exc
    finally:
        consumer.close()


def _commit(database: Database, inboxes: Inboxes, batch: Sequence[Message], parts: Sequence[_Part], report: Report) -> None:
    """Index one batch, and hold how far the topics were read."""
    entries = []
    for message in batch:
        value: Any = message.value()
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        try:
            entries.append(letters.read(value or b"", topic=topic, partition=partition, offset=offset))
        except errors.Refused:
            report.unreadable.append(f"{topic}[{partition}]@{offset}")
    report.read += len(batch)
    ids = [entry.letter_id for entry in entries]
    known = {row[0] for row in database.transact(lambda tx: tx.run(_KNOWN, ids=ids))}
    done = inboxes.done(entry for entry in entries if entry.letter_id not in known)
    try:
        added, settled = database.transact(functools.partial(_indexed, entries, done, parts))
    except errors.Refused:  # PostgreSQL does not take one of them: its neighbours have their rows all the same
        added = settled = 0
        for entry in entries:
            try:
                more, also = database.transact(functools.partial(_indexed, [entry], done, []))
            except errors.Refused:
                report.unreadable.append(f"{entry.dlq_topic}[{entry.dlq_partition}]@{entry.dlq_offset}")
            else:
                added, settled = added + more, settled + also
        database.transact(functools.partial(_indexed, [], {}, parts))
    report.added += added
    report.done += settled


def _indexed(entries: Sequence[letters.Entry], done: dict[str, datetime], parts: Sequence[_Part], tx: Transaction) -> tuple[int, int]:
    """How many letters were not there, and how many of those are done."""
    new = letters_index.index(tx, entries)
    settled = sorted(done.keys() & set(new))
    if settled:
        tx.run(_DONE, ids=settled)
        tx.run(_DONE_HISTORY, ids=settled, at=[done[letter_id] for letter_id in settled], who=WHO)
    if parts:
        _hold(tx, parts)
    return len(new), len(settled)


def _hold(tx: Transaction, parts: Sequence[_Part]) -> None:
    tx.run(
        _POSITIONS,
        topics=[part.topic for part in parts],
        partitions=[part.number for part in parts],
        topic_ids=[part.topic_id for part in parts],
        offsets=[part.next_offset for part in parts],
    )


def _forget(topic: str, partition: int, offset: int, tx: Transaction) -> None:
    tx.run(_FORGET, topic=topic, partition=partition, offset=offset)
