"""A message may come again only where the outcome of a send was not recorded, and then its cause is named; any other is doubled."""

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.record import Telegram
from chaos.repeats import LEASE_S
from tests.chaos.world import PAID, World, busy, only

Plant = Callable[[World, Telegram], object]


def _world() -> tuple[World, Telegram]:
    """An order among others, and its first message."""
    world = World()
    order_id = world.order()
    for _ in range(3):
        world.order()
    return world, next(message for message in world.telegrams if message.order_id == order_id and message.what == "paid")


def test_a_message_that_comes_again_for_no_reason_is_doubled() -> None:
    world, first = _world()
    world.again(first)
    [case] = only(world.verdict(), "doubled", "a message came again")
    assert (first.order_id, "none is known", "1") == (case.key, case.cause, case.expected)
    assert "again 1.0 s later" == case.found
    assert f"messages {first.n} and" in case.place


CAUSES: dict[str, tuple[str, Plant]] = {
    "late": ("answer was lost: it was late", lambda w, m: w.change(w.telegrams, lambda of: of.n == m.n, fault="late")),
    "closed": (
        "answer was lost: it was closed",
        lambda w, m: w.change(w.telegrams, lambda of: of.n == m.n, fault="closed", answered=False),
    ),
    "gone": ("its connection was gone", lambda w, m: w.change(w.telegrams, lambda of: of.n == m.n, answered=False)),
    "hung up": ("notify gave up on it", lambda w, m: w.change(w.telegrams, lambda of: of.n == m.n, hung_up_at=m.at + 0.5)),
    "kill": ("stopped before the mark: kill of notify", lambda w, m: w.fault("kill", "notify", m.at + 0.004)),
    "killed at once": ("stopped before the mark: kill of notify", lambda w, m: w.fault("kill", "notify", m.at)),
    "restart": ("stopped before the mark: restart of notify", lambda w, m: w.fault("restart", "notify", m.at - 5, m.at + 0.01)),
    "freeze": ("stopped before the mark: long_freeze of notify", lambda w, m: w.fault("long_freeze", "notify", m.at - 2, m.at + 7)),
    "database killed": ("did not take the mark: kill of postgres", lambda w, m: w.fault("kill", "postgres", m.at + 0.1)),
    "database recovers": ("did not take the mark: kill of postgres", lambda w, m: w.fault("kill", "postgres", m.at - 4)),
    "link": ("did not take the mark: timeout of notify>postgres", lambda w, m: w.fault("timeout", "notify>postgres", m.at - 1, m.at + 2)),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_message_that_comes_again_is_named_with_its_cause(name: str) -> None:
    cause, plant = CAUSES[name]
    world, first = _world()
    world.again(first)
    plant(world, first)
    verdict = world.verdict()
    [case] = only(verdict, "explained", "a message came again")
    assert cause in case.cause
    assert first.order_id == case.key
    assert verdict.passed


NO_CAUSES: dict[str, Plant] = {
    "before": lambda w, m: w.fault("kill", "notify", m.at - 0.1),
    "after": lambda w, m: w.fault("kill", "notify", m.at + 1.1),
    "it did not take place": lambda w, m: w.fault("kill", "notify", m.at + 0.1, done=False),
    "another process": lambda w, m: w.fault("kill", "order_on_assembled", m.at + 0.1),
    "another link": lambda w, m: w.fault("timeout", "orders>postgres", m.at, m.at + 1),
    "a link that healed": lambda w, m: w.fault("timeout", "notify>postgres", m.at - 5, m.at - 2),
    "a database that recovered": lambda w, m: w.fault("kill", "postgres", m.at - 6),
    "the connection was kept until it was idle for long": lambda w, m: w.change(w.telegrams, lambda of: of.n == m.n, hung_up_at=m.at + 5),
    "the connection was kept until after the next": lambda w, m: w.change(w.telegrams, lambda of: of.n == m.n, hung_up_at=m.at + 1.1),
    "the last answer was lost": lambda w, m: w.change(w.telegrams, lambda of: of.n == len(w.telegrams), fault="closed", answered=False),
}


@pytest.mark.parametrize("name", NO_CAUSES)
def test_what_happened_elsewhere_or_at_another_time_excuses_nothing(name: str) -> None:
    world, first = _world()
    world.again(first)
    NO_CAUSES[name](world, first)
    only(world.verdict(), "doubled", "a message came again")


def test_a_connection_that_was_idle_for_long_before_it_was_closed_excuses_nothing() -> None:
    world, first = _world()
    world.again(first, 20)
    world.change(world.telegrams, lambda of: of.n == first.n, hung_up_at=first.at + 5)
    only(world.verdict(), "doubled", "a message came again")
    world.change(world.telegrams, lambda of: of.n == first.n, hung_up_at=first.at + 4)
    only(world.verdict(), "explained", "a message came again")


def test_a_fault_after_the_lease_excuses_nothing() -> None:
    world, first = _world()
    world.again(first, LEASE_S + 4)
    world.fault("kill", "notify", first.at + LEASE_S + 1)
    only(world.verdict(), "doubled", "a message came again")
    world.fault("kill", "notify", first.at + LEASE_S - 1)
    only(world.verdict(), "explained", "a message came again")


def test_no_fault_excuses_a_message_whose_outcome_was_recorded() -> None:
    world, first = _world()
    again = world.again(first)
    world.fault("kill", "notify", first.at + 0.004)
    inbox = world.inboxes["notification_inbox_events"]
    world.change(inbox, lambda row: row.order_id == first.order_id and row.event_type == PAID, sent_at=again.at - 0.5)
    [case] = only(world.verdict(), "doubled", "a message came again")
    assert "the outcome had been recorded 0.5 s before" in case.cause


def test_no_fault_excuses_a_message_whose_inbox_row_was_made_anew() -> None:
    world, first = _world()
    again = world.again(first)
    world.fault("kill", "notify", first.at + 0.004)
    inbox = world.inboxes["notification_inbox_events"]
    world.change(inbox, lambda row: row.order_id == first.order_id and row.event_type == PAID, at=again.at - 0.1)
    [case] = only(world.verdict(), "doubled", "a message came again")
    assert "its inbox row is 0.9 s younger" in case.cause


def test_a_message_that_telegram_did_not_take_is_none() -> None:
    world, first = _world()
    world.change(world.telegrams, lambda of: of.n == first.n, fault="500", answered=False)
    world.again(first, fault="429", answered=False)
    world.again(first, 2)
    verdict = world.verdict()
    assert verdict.passed
    assert [] == verdict.explained


def test_each_repeat_needs_a_cause_of_its_own() -> None:
    world, first = _world()
    second = world.again(first)
    world.again(second)
    world.fault("kill", "notify", first.at + 0.01)
    verdict = world.verdict()
    assert (1, 1) == (len(verdict.explained), len(verdict.doubled))
    assert f"messages {second.n} and" in verdict.doubled[0].place
    world.fault("freeze", "notify", second.at - 0.2, second.at + 0.1)
    verdict = world.verdict()
    assert (2, 0) == (len(verdict.explained), len(verdict.doubled))
    assert "(fault 1)" in verdict.explained[0].cause
    assert "(fault 2)" in verdict.explained[1].cause


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_repeat_of_any_message_is_doubled_without_a_cause_and_explained_with_one(seed: int, data: st.DataObject) -> None:
    world = busy(seed, 8)
    world.order()
    orders = {order.id for order in world.orders}
    first = data.draw(st.sampled_from([message for message in world.telegrams if message.order_id in orders]))
    again = world.again(first, data.draw(st.floats(0.2, 20)))
    only(world.verdict(), "doubled", "a message came again")
    reach = min(again.at - first.at, LEASE_S)
    world.fault("kill", "notify", first.at + data.draw(st.floats(0, 1)) * (reach - 0.001))
    only(world.verdict(), "explained", "a message came again")
    world.faults[0] = dataclasses.replace(world.faults[0], target="orders")
    only(world.verdict(), "doubled", "a message came again")
