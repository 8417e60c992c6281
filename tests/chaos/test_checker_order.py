"""For each key, events are published, handled and announced in their order; older ones that come again later change nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.ledger import assembled_id
from tests.chaos.world import ASSEMBLED, ASSEMBLY, CONSUMERS, NOTIFY_ASSEMBLED, NOTIFY_PAID, ORDERS, PAID, World, only

Rows = list[Any]


def _swap(rows: Rows, one: Callable[[Any], bool], other: Callable[[Any], bool], *names: str) -> None:
    """Exchange these values of two rows."""
    first, second = (next(n for n, row in enumerate(rows) if is_it(row)) for is_it in (one, other))
    held = {name: getattr(rows[first], name) for name in names}
    rows[first] = dataclasses.replace(rows[first], **{name: getattr(rows[second], name) for name in names})
    rows[second] = dataclasses.replace(rows[second], **held)


def _chain(topic: str = PAID, events: int = 3) -> tuple[World, list[str]]:
    world = World()
    world.order()
    return world, [world.event("a chain", topic=topic) for _ in range(events)]


def _is(event_id: str) -> Callable[[Any], bool]:
    return lambda row: row.event_id == event_id


def test_a_chain_in_its_order_is_well_and_older_events_may_come_again() -> None:
    world, ids = _chain()
    for event_id in ids:
        world.repeat(event_id, "reordered")
        world.republish(assembled_id(event_id))
    assert world.verdict().passed


@pytest.mark.parametrize("group", [ASSEMBLY, NOTIFY_PAID, ORDERS, NOTIFY_ASSEMBLED])
def test_events_of_one_key_that_a_consumer_claimed_in_another_order_are_found(group: str) -> None:
    consumer = next(of for of in CONSUMERS if of.group == group)
    world, ids = _chain(consumer.topic)
    _swap(world.inboxes[consumer.inbox], _is(ids[0]), _is(ids[1]), "at", "sent_at")
    _swap(world.telegrams, lambda of: of.user_id == "user-2", lambda of: of.user_id == "user-3", "at") if consumer.leased else None
    verdict = world.verdict()
    [case] = [case for case in verdict.disordered if "claimed" in case.what]
    assert f"events of one key claimed by {group} not in the order of their records" == case.what
    assert (ids[1], "a chain", world.of(event_id=ids[1]).place) == (case.event_id, case.key, case.place)
    assert ids[0] in case.expected
    assert not verdict.passed


@pytest.mark.parametrize(("topic", "what"), [(PAID, "paid"), (ASSEMBLED, "assembled")])
def test_messages_of_one_key_in_another_order_are_found(topic: str, what: str) -> None:
    world, _ = _chain(topic)
    group = {PAID: NOTIFY_PAID, ASSEMBLED: NOTIFY_ASSEMBLED}[topic]
    told = {user: next(of for of in world.telegrams if of.user_id == user and of.what == what) for user in ("user-2", "user-4")}
    _swap(world.telegrams, lambda of: of is told["user-2"], lambda of: of.n == told["user-4"].n, "at")
    [first, *_] = [case for case in world.verdict().disordered if "messages" in case.what]
    assert f"messages of one key of {group} not in the order of their records" == first.what


def test_only_the_first_message_of_an_event_counts() -> None:
    world, ids = _chain(ASSEMBLED)
    first = next(of for of in world.telegrams if of.user_id == "user-2")
    last = world.telegrams[-1]
    world.telegrams.append(dataclasses.replace(first, n=99, at=last.at + 1))
    world.change(world.inboxes["notification_inbox_events"], _is(ids[0]), sent_at=last.at + 1.1)
    world.fault("kill", "notify", first.at)
    only(world.verdict(), "explained", "a message came again")


def test_assembled_events_of_one_key_staged_in_another_order_are_found() -> None:
    world, ids = _chain()
    _swap(world.outbox, _is(assembled_id(ids[0])), _is(assembled_id(ids[1])), "turn")
    whats = {case.what for case in world.verdict().disordered}
    assert "assembled events of one key staged not in the order of their records" in whats
    assert "records of one key not in the order of their rows" in whats


def test_records_of_one_key_published_in_another_order_are_found() -> None:
    world, ids = _chain()
    one, other = assembled_id(ids[1]), assembled_id(ids[2])
    _swap(world.records, _is(one), _is(other), "partition", "offset")
    [case] = [case for case in world.verdict().disordered if case.what == "records of one key not in the order of their rows"]
    assert (other, "a chain") == (case.event_id, case.key)


def test_records_of_one_key_in_two_partitions_are_found() -> None:
    world, ids = _chain()
    record = world.of(event_id=assembled_id(ids[1]))
    world.change(world.records, _is(assembled_id(ids[1])), partition=(record.partition + 1) % 4, offset=0)
    assert "records of one key in two partitions" in {case.what for case in world.verdict().disordered}


def test_events_of_different_keys_have_no_order() -> None:
    world = World()
    ids = [world.event(key) for key in ("k-1", "k-2")]
    _swap(world.inboxes["assembly_inbox_events"], _is(ids[0]), _is(ids[1]), "at")
    _swap(world.telegrams, lambda of: of.n == 1, lambda of: of.n == 3, "at")
    _swap(world.outbox, _is(assembled_id(ids[0])), _is(assembled_id(ids[1])), "turn")
    assert [] == world.verdict().disordered


@given(length=st.integers(2, 6), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_two_events_of_a_chain_that_change_places_are_found(length: int, data: st.DataObject) -> None:
    world, ids = _chain(data.draw(st.sampled_from([PAID, ASSEMBLED])), length)
    inbox = "assembly_inbox_events" if world.of(event_id=ids[0]).topic == PAID else "order_inbox_events"
    one, other = data.draw(st.permutations(ids))[:2]
    _swap(world.inboxes[inbox], _is(one), _is(other), "at")
    verdict = world.verdict()
    assert all("claimed" in case.what for case in only(verdict, "disordered", "events of one key claimed by"))
