"""Whether each poison record became one letter of each consumer, with its own bytes, and nothing that is well became one."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from chaos.effects import Rows
from chaos.found import Consumer, Letter, Record
from chaos.ledger import Ledger
from chaos.record import Sent
from chaos.verdict import Case, Kind

# The same letter may lie there more than once: after a crash, after Kafka's late confirmation. It is one by its letter_id.
ByPlace = Mapping[tuple[str, str], list[Letter]]  # by consumer group and topic/partition/offset


def check(ledger: Ledger, rows: Rows) -> Iterator[Case]:
    """Every case about letters."""
    by_place: dict[tuple[str, str], list[Letter]] = defaultdict(list)
    for letter in ledger.found.letters:
        by_place[letter.consumer, letter.place].append(letter)
    consumers = {consumer.group: consumer for consumer in ledger.found.consumers}
    for sent, record in ledger.poison:
        for group in sent.groups:
            yield from _of_poison(sent, record, consumers[group], by_place.pop((group, record.place), []))
    yield from _of_others(ledger, by_place, consumers, rows)
    yield from _index(ledger)
    for where in ledger.found.no_letters:
        yield Case(kind="lost", what="a dead letter that cannot be read", place=where)


def _of_poison(sent: Sent, record: Record, consumer: Consumer, letters: list[Letter]) -> Iterator[Case]:
    def case(kind: Kind, what: str, **told: str) -> Case:
        return Case(kind=kind, what=what, about=f"poison {sent.n} ({sent.note})", key=sent.key or "", place=record.place, **told)

    ids = sorted({letter.letter_id for letter in letters})
    if not ids:
        yield case("lost", f"a poison record without a letter of {consumer.group}", expected="1", found="0")
    if len(ids) > 1:
        yield case("doubled", f"letters of one poison record of {consumer.group}", expected="1", found=", ".join(ids))
    for letter in letters:
        if (letter.key, letter.value_sha256) != (record.key, record.value_sha256):
            yield case("lost", "a letter without its record's own bytes", expected=f"{record.key} {record.value_sha256}",
                       found=f"{letter.key} {letter.value_sha256} at {letter.written}")  # fmt: skip
        if letter.dead_letter_topic != consumer.dead_letter_topic:
            yield case("lost", f"a letter of {consumer.group} on another topic", expected=consumer.dead_letter_topic, found=letter.written)


def _of_others(ledger: Ledger, left: ByPlace, consumers: Mapping[str, Consumer], rows: Rows) -> Iterator[Case]:
    """Letters of what is no poison: the event that it is was handled all the same, or was not."""
    events = {record.place: event for event in ledger.events.values() for record in event.records}
    for (group, place), letters in left.items():
        event, consumer = events.get(place), consumers.get(group)
        found = f"{letters[0].code}, {letters[0].written}"
        if event is None or consumer is None or consumer.topic != event.topic:
            yield Case(kind="doubled", what="a letter of no poison record", about=group, place=place, expected="none", found=found)
        elif rows.get(consumer.inbox, {}).get(event.event_id):
            yield event.case("doubled", f"a letter of an event that {group} handled", place=place, expected="none", found=found)
        else:
            yield event.case("lost", f"a letter of an event that is well, by {group}", place=place, expected="handled", found=found)


def _index(ledger: Ledger) -> Iterator[Case]:
    """Every letter has its row in the index, and every row its letter. A letter_id names one record and one consumer."""
    about: dict[str, tuple[str, str]] = {}
    for letter in ledger.found.letters:
        named = about.setdefault(letter.letter_id, (letter.consumer, letter.place))
        if named != (letter.consumer, letter.place):
            yield Case(kind="lost", what="a letter_id of two letters", event_id=letter.letter_id, place=letter.written,
                       expected=" ".join(named), found=f"{letter.consumer} {letter.place}")  # fmt: skip
    for letter_id, (consumer, place) in about.items():
        if ledger.found.index.get(letter_id) != consumer:
            yield Case(kind="lost", what="a letter that is not in the index", about=consumer, event_id=letter_id, place=place,
                       expected=consumer, found=ledger.found.index.get(letter_id, "none"))  # fmt: skip
    for letter_id in ledger.found.index.keys() - about.keys():
        yield Case(kind="lost", what="a letter of the index that is on no topic", about=ledger.found.index[letter_id], event_id=letter_id)
