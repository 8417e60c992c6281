"""Each poison record is one letter of each of its consumers, by letter_id, with its bytes; and nothing that is well becomes one."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.found import OutboxRow
from tests.chaos.world import ASSEMBLED, ASSEMBLY, CONSUMERS, NOTIFY_PAID, PAID, World, busy, only

BY_GROUP = {consumer.group: consumer for consumer in CONSUMERS}


def test_the_same_letter_written_again_is_one() -> None:
    world = World()
    world.poison()
    world.letters.append(dataclasses.replace(world.letters[0], written="order.payment.completed.dlq/1/5"))
    verdict = world.verdict()
    assert verdict.passed
    assert 2 == verdict.letters


@pytest.mark.parametrize("topic", [PAID, ASSEMBLED])
@pytest.mark.parametrize("place", [0, 1])
def test_a_missing_letter_of_either_consumer_is_found(topic: str, place: int) -> None:
    world = World()
    world.poison()
    poison = world.poison(topic, note="tombstone")
    gone = world.letters.pop(2 + place)
    world.index.pop(gone.letter_id)
    [case] = only(world.verdict(), "lost", f"a poison record without a letter of {gone.consumer}")
    assert (poison.place, "poison 2 (tombstone)", "1", "0") == (case.place, case.about, case.expected, case.found)


def test_a_second_letter_id_of_one_poison_record_is_found() -> None:
    world = World()
    poison = world.poison()
    world.letter(poison, BY_GROUP[NOTIFY_PAID], letter_id="another")
    [case] = only(world.verdict(), "doubled", f"letters of one poison record of {NOTIFY_PAID}")
    assert "another" in case.found


def test_two_poison_records_alike_have_a_letter_each() -> None:
    world = World()
    first = world.poison()
    again = world.append(first)
    sent = world.sent[-1]
    world.sent.append(dataclasses.replace(sent, n=sent.n + 1, offset=again.offset))
    only(world.verdict(), "lost", "a poison record without a letter of")
    for of in CONSUMERS[:2]:
        world.letter(again, of)
    assert world.verdict().passed


def test_a_poison_record_that_was_never_confirmed_has_its_letters_where_it_is() -> None:
    world = World()
    world.poison()
    world.sent[0] = dataclasses.replace(world.sent[0], answered=False, partition=None, offset=None)
    assert world.verdict().passed
    world.letters.pop()
    assert "a poison record without a letter of notification-payment" in {case.what for case in world.verdict().lost}


@pytest.mark.parametrize("changes", [{"value_sha256": "x"}, {"key": None}, {"value_sha256": None}])
def test_a_letter_with_other_bytes_is_found(changes: dict[str, str | None]) -> None:
    world = World()
    world.poison()
    world.letters[1] = dataclasses.replace(world.letters[1], **changes)
    only(world.verdict(), "lost", "a letter without its record's own bytes")


def test_a_letter_on_another_consumers_topic_is_found() -> None:
    world = World()
    world.poison()
    world.letters[0] = dataclasses.replace(world.letters[0], dead_letter_topic="order.notification.dlq")
    only(world.verdict(), "lost", f"a letter of {ASSEMBLY} on another topic")


@pytest.mark.parametrize("topic", [PAID, ASSEMBLED])
def test_a_letter_of_an_order_that_was_handled_is_one_too_many(topic: str) -> None:
    world = World()
    order_id = world.order()
    consumer = next(of for of in CONSUMERS if of.topic == topic)
    world.letter(world.of(topic=topic), consumer)
    [case] = only(world.verdict(), "doubled", f"a letter of an event that {consumer.group} handled")
    assert (order_id, "none") == (case.key, case.expected)


def test_a_letter_of_an_order_that_was_not_handled_is_a_loss() -> None:
    world = World()
    world.order()
    world.letter(world.of(topic=PAID), BY_GROUP[ASSEMBLY])
    world.inboxes["assembly_inbox_events"].clear()
    whats = {case.what for case in world.verdict().lost}
    assert {f"a letter of an event that is well, by {ASSEMBLY}", f"an event that {ASSEMBLY} has not handled"} == whats


def test_a_letter_of_a_consumer_of_another_topic_is_one_too_many() -> None:
    world = World()
    poison = world.poison(PAID)
    world.letter(poison, BY_GROUP["order-service"])
    only(world.verdict(), "doubled", "a letter of no poison record")


def test_a_letter_about_nothing_is_one_too_many() -> None:
    world = World()
    poison = world.poison()
    world.letter(dataclasses.replace(poison, offset=77), BY_GROUP[ASSEMBLY])
    [case] = only(world.verdict(), "doubled", "a letter of no poison record")
    assert case.place.endswith("/77")


def test_a_letter_id_of_two_letters_is_found() -> None:
    world = World()
    world.poison()
    world.index.pop(world.letters[1].letter_id)
    world.letters[1] = dataclasses.replace(world.letters[1], letter_id=world.letters[0].letter_id)
    only(world.verdict(), "lost", "a letter_id of two letters")


def test_a_letter_that_the_index_does_not_have_is_found() -> None:
    world = World()
    world.poison()
    world.index.pop(world.letters[0].letter_id)
    only(world.verdict(), "lost", "a letter that is not in the index")


def test_a_letter_that_only_the_index_has_is_found() -> None:
    world = World()
    world.index["letter-1"] = ASSEMBLY
    only(world.verdict(), "lost", "a letter of the index that is on no topic")


@pytest.mark.parametrize(("status", "written", "lost"), [("sent", True, 0), ("pending", True, 1), ("failed", False, 1), ("sent", False, 1)])
def test_a_letter_that_went_by_the_outbox_has_to_be_on_its_topic(status: str, *, written: bool, lost: int) -> None:
    world = World()
    letter = world.poison() and world.letters[0]
    row = OutboxRow(letter.letter_id, "orderflow.dead_letter", "o", letter.dead_letter_topic, "sha", status, None, "o", (1.0, 1))
    world.outbox.append(row if written else dataclasses.replace(row, event_id="another"))
    verdict = world.verdict()
    assert ["a letter that only the outbox has"] * lost == [case.what for case in verdict.lost]
    assert verdict.passed == (not lost)


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_one_letter_that_is_not_there_is_missed_and_any_one_of_another_id_is_too_many(seed: int, data: st.DataObject) -> None:
    world = busy(seed, 10)
    world.poison()
    place = data.draw(st.integers(0, len(world.letters) - 1))
    letter = world.letters[place]
    world.letters.append(dataclasses.replace(letter, letter_id="another"))
    world.index["another"] = letter.consumer
    only(world.verdict(), "doubled", f"letters of one poison record of {letter.consumer}")
    del world.letters[-1], world.letters[place], world.index["another"], world.index[letter.letter_id]
    only(world.verdict(), "lost", f"a poison record without a letter of {letter.consumer}")
