"""The checker finds every loss and every doubling that is planted, says what it is about, and finds nothing in a run that was well."""

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.found import InboxRow, Order
from chaos.record import Sent
from tests.chaos.world import ASSEMBLED, ASSEMBLY, CONSUMERS, NOTIFY_PAID, ORDERS, PAID, World, busy, only, payload_of

Plant = Callable[[World], object]


def _any(_: object) -> bool:
    return True


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 80))
@settings(max_examples=60, deadline=None)
def test_a_run_that_was_well_has_no_case(seed: int, steps: int) -> None:
    world = busy(seed, steps)
    verdict = world.verdict()
    assert [] == [str(case) for case in (*verdict.lost, *verdict.doubled, *verdict.disordered, *verdict.explained)]
    assert verdict.passed
    rows = sum(len(of) for of in world.inboxes.values())
    assert rows == 2 * verdict.events
    assert len(world.telegrams) == verdict.events
    assert verdict.letters == 2 * sum(sent.kind == "poison" for sent in world.sent)
    assert verdict.lag == dict.fromkeys((of.group for of in CONSUMERS), 0)


def test_nothing_sent_and_nothing_there_is_well() -> None:
    assert World().verdict().passed


def test_a_record_that_the_relay_wrote_again_is_counted_apart() -> None:
    world = World()
    world.order()
    for _ in range(3):
        world.republish(world.of(event_type=PAID).event_id)
    verdict = world.verdict()
    assert verdict.passed
    assert (verdict.republished, verdict.events) == (3, 2)


LOSSES: dict[str, tuple[str, Plant]] = {
    "items": ("an order without its items", lambda w: w.change(w.orders, _any, items=())),
    "status": ("an order that is not assembled", lambda w: w.change(w.orders, _any, status="paid")),
    "assembly inbox": ("an event that assembly-service has not handled", lambda w: w.remove(w.inboxes["assembly_inbox_events"], _any)),
    "order inbox": ("an event that order-service has not handled", lambda w: w.remove(w.inboxes["order_inbox_events"], _any)),
    "notification of a payment": (
        "an event that notification-payment has not handled",
        lambda w: w.remove(w.inboxes["notification_inbox_events"], lambda row: row.event_type == PAID),
    ),
    "notification of an assembly": (
        "an event that notification-assembly has not handled",
        lambda w: w.remove(w.inboxes["notification_inbox_events"], lambda row: row.event_type == ASSEMBLED),
    ),
    "mark": (
        "a message of notification-payment that is not marked as sent",
        lambda w: w.change(w.inboxes["notification_inbox_events"], _any, status="claimed", sent_at=None),
    ),
    "message of a payment": (
        "an event without a message of notification-payment",
        lambda w: w.remove(w.telegrams, lambda message: message.what == "paid"),
    ),
    "message of an assembly": (
        "an event without a message of notification-assembly",
        lambda w: w.remove(w.telegrams, lambda message: message.what == "assembled"),
    ),
    "message that Telegram did not take": (
        "an event without a message of notification-payment",
        lambda w: w.change(w.telegrams, lambda message: message.what == "paid", fault="500", answered=False),
    ),
    "outbox row": ("an outbox row that was not published", lambda w: w.change(w.outbox, _any, status="pending")),
    "outbox row set aside": ("an outbox row that was not published", lambda w: w.change(w.outbox, _any, status="failed", last_error="x")),
    "another inbox row": (
        "an inbox row of assembly-service that is another event's",
        lambda w: w.change(w.inboxes["assembly_inbox_events"], _any, order_id="another"),
    ),
    "amount": ("an amount that is not that of the items", lambda w: w.change(w.records, lambda of: of.event_type == PAID, amount=1)),
    "parked": ("an event that is parked", lambda w: w.parked.append((ORDERS, "e-1"))),
    "unreadable letter": ("a dead letter that cannot be read", lambda w: w.no_letters.append("order.notification.dlq/0/7")),
    "offset": ("an acknowledged offset beyond the end", lambda w: w.committed.update({(ORDERS, ASSEMBLED, 3): 10})),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_found(name: str) -> None:
    what, plant = LOSSES[name]
    world = World()
    order_id = world.order()  # whose rows are the first
    for _ in range(5):
        world.order()
    plant(world)
    verdict = world.verdict()
    cases = only(verdict, "lost", what)
    assert not verdict.passed
    assert 1 == len(cases)
    if name not in {"parked", "unreadable letter", "offset"}:
        assert order_id == cases[0].key
        assert cases[0].about.startswith("order 1")


def test_an_answered_order_that_is_not_there_is_lost() -> None:
    world = World()
    world.sent.append(Sent(n=99, kind="order", at=1.0, user_id="user-99", order_id="o-99", idempotency_key="k-99", answered=True))
    [case] = only(world.verdict(), "lost", "an order that was answered is not there")
    assert ("order 99", "k-99", "o-99", "none") == (case.about, case.key, case.expected, case.found)


def test_an_order_that_was_never_answered_may_be_there_or_not() -> None:
    world = World()
    world.order()
    world.change(world.sent, _any, answered=False, order_id=None)
    world.sent.append(Sent(n=99, kind="order", at=1.0, user_id="user-99", idempotency_key="k-99"))
    assert world.verdict().passed


def test_an_order_that_was_never_answered_and_is_there_has_to_be_whole() -> None:
    world = World()
    world.order()
    world.change(world.sent, _any, answered=False, order_id=None)
    world.change(world.orders, _any, status="paid")
    only(world.verdict(), "lost", "an order that is not assembled")


def test_an_order_without_any_event_is_lost() -> None:
    world = World()
    order_id = world.order()
    world.outbox.clear()
    world.records.clear()
    world.telegrams.clear()
    world.ends.clear()
    for rows in world.inboxes.values():
        rows.clear()
    [case] = only(world.verdict(), "lost", "an order without its payment event")
    assert order_id == case.key


def test_an_order_whose_assembled_event_was_not_staged_is_lost() -> None:
    world = World()
    world.order()
    world.remove(world.outbox, lambda row: row.event_type == ASSEMBLED)
    verdict = world.verdict()
    assert {"an event that was not staged", "an event that is not on its topic"} == {case.what for case in verdict.lost}
    assert ["a record that nobody sent"] == [case.what for case in verdict.doubled]


@pytest.mark.parametrize("topic", [PAID, ASSEMBLED])
def test_an_event_that_is_in_the_outbox_alone_is_lost(topic: str) -> None:
    world = World()
    world.order()
    world.remove(world.records, lambda of: of.topic == topic)
    verdict = world.verdict()
    whats = {case.what for case in verdict.lost}
    assert {"an event that is not on its topic", "records that were not read"} == whats
    assert 1 == sum(case.what == "an event that is not on its topic" for case in verdict.lost)


def test_an_event_that_came_by_kafka_has_to_be_handled_by_each_group() -> None:
    world = World()
    event_id = world.event()
    world.remove(world.inboxes["notification_inbox_events"], lambda row: row.event_id == event_id)
    [case] = only(world.verdict(), "lost", f"an event that {NOTIFY_PAID} has not handled")
    assert event_id == case.event_id
    assert world.of(event_id=event_id).place == case.place
    assert "its record was acknowledged" in case.found


def test_what_is_not_acknowledged_yet_is_told_apart_and_lags() -> None:
    world = World()
    event_id = world.event(topic=ASSEMBLED)
    record = world.of(event_id=event_id)
    world.remove(world.inboxes["order_inbox_events"], _any)
    world.committed[ORDERS, ASSEMBLED, record.partition] = record.offset
    verdict = world.verdict()
    [case] = only(verdict, "lost", f"an event that {ORDERS} has not handled")
    assert "not acknowledged" in case.found
    assert 1 == verdict.lag[ORDERS]


def test_lag_alone_is_a_fault() -> None:
    world = World()
    world.order()
    record = world.of(topic=ASSEMBLED)
    world.committed[ORDERS, ASSEMBLED, record.partition] = record.offset
    verdict = world.verdict()
    assert (0, 0, 0) == (len(verdict.lost), len(verdict.doubled), len(verdict.disordered))
    assert {ORDERS: 1} == {group: lag for group, lag in verdict.lag.items() if lag}
    assert not verdict.passed


def test_a_record_that_kafka_confirmed_and_lost_is_found() -> None:
    world = World()
    world.repeat(world.event())
    gone = world.records.pop()
    verdict = world.verdict()
    assert {"a record that Kafka confirmed is not there", "records that were not read"} == {case.what for case in verdict.lost}
    assert gone.place in {case.place for case in verdict.lost}


def test_another_record_in_the_place_of_one_that_was_confirmed_is_found() -> None:
    world = World()
    world.poison()
    world.change(world.records, _any, value_sha256="another")
    assert "another record lies where this one was confirmed" in {case.what for case in world.verdict().lost}


def test_an_event_that_was_never_confirmed_counts_where_it_is_there() -> None:
    world = World()
    world.event()
    world.change(world.sent, _any, answered=False, partition=None, offset=None)
    assert world.verdict().passed
    world.inboxes["assembly_inbox_events"].clear()
    only(world.verdict(), "lost", f"an event that {ASSEMBLY} has not handled")


def test_an_event_that_was_never_confirmed_and_is_not_there_is_no_loss() -> None:
    world = World()
    world.sent.append(Sent(n=1, kind="event", at=1.0, topic=PAID, key="k", event_id="e", event_type=PAID, order_id="k", user_id="u"))
    assert world.verdict().passed


DOUBLES: dict[str, tuple[str, Plant]] = {
    "order": ("orders of one idempotency key", lambda w: w.orders.append(dataclasses.replace(w.orders[0], id="again", status="paid"))),
    "order of nobody": ("an order that nobody placed", lambda w: w.orders.append(Order("o", "somebody", "paid", (("p", 1),)))),
    "inbox row": (
        "inbox rows of one event of assembly-service",
        lambda w: w.inboxes["assembly_inbox_events"].append(w.inboxes["assembly_inbox_events"][0]),
    ),
    "leased inbox row": (
        "inbox rows of one event of notification-payment",
        lambda w: w.inboxes["notification_inbox_events"].append(w.inboxes["notification_inbox_events"][0]),
    ),
    "inbox row of nobody": (
        "an inbox row of an event that nobody may handle",
        lambda w: w.inboxes["order_inbox_events"].append(InboxRow("e", ASSEMBLED, "o", 1.0)),
    ),
    "message of nobody": ("a message that nothing asked for", lambda w: w.message("paid", "o", "somebody")),
    "message with another order": ("a message with another order", lambda w: w.message("paid", "another", "user-1")),
    "staged event of nobody": (
        "a staged event that nothing asked for",
        lambda w: w.outbox.append(dataclasses.replace(w.outbox[1], event_id="another")),
    ),
    "record of nobody": ("a record that nobody sent", lambda w: w.append(dataclasses.replace(w.records[0], event_id="x", headers=()))),
    "record with another header": (
        "a record that nobody sent",
        lambda w: w.append(dataclasses.replace(w.records[0], headers=(("ce_id", "x"),))),
    ),
    "record with another value": ("a record that nobody sent", lambda w: w.append(dataclasses.replace(w.records[0], value_sha256="x"))),
}


@pytest.mark.parametrize("name", DOUBLES)
def test_a_doubling_is_found(name: str) -> None:
    what, plant = DOUBLES[name]
    world = World(5)
    world.order()
    plant(world)
    verdict = world.verdict()
    assert what in {case.what for case in verdict.doubled}, verdict.summary()
    assert not verdict.passed


def test_two_payment_events_of_one_order_are_found_with_all_that_came_of_them() -> None:
    world = World()
    order_id = world.order()
    world.stage(payload_of(PAID, "again", order_id, "user-1", amount=3 * world.of(event_type=PAID).amount))
    verdict = world.verdict()
    assert "payment events of one order" in {case.what for case in verdict.doubled}
    assert order_id in {case.key for case in verdict.doubled}


def test_a_second_assembled_event_of_one_order_is_found() -> None:
    world = World()
    order_id = world.order()
    world.stage(payload_of(ASSEMBLED, "another-id", order_id, "user-1"))
    whats = {case.what for case in world.verdict().doubled}
    assert {"a staged event that nothing asked for", "an event that nothing asked for"} <= whats
    assert "an inbox row of an event that nobody may handle" in whats


def test_an_assembled_event_that_was_sent_early_for_an_order_is_none_too_many() -> None:
    world = World()
    world.event(world.order(), topic=ASSEMBLED)
    assert world.verdict().passed


def test_a_poison_record_that_had_an_effect_is_found() -> None:
    world = World()
    record = world.poison()
    world.inboxes["assembly_inbox_events"].append(InboxRow("e-of-poison", PAID, record.key or "", world.now))
    world.message("paid", record.key or "", "user-of-poison")
    whats = {case.what for case in world.verdict().doubled}
    assert {"an inbox row of an event that nobody may handle", "a message that nothing asked for"} == whats


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_single_thing_is_taken_away_is_missed(seed: int, data: st.DataObject) -> None:
    world = busy(seed, 12)
    world.order()
    world.poison()
    kinds = {"orders": world.orders, "telegrams": world.telegrams, "outbox": world.outbox, "letters": world.letters,
             "records": world.records, **world.inboxes}  # fmt: skip
    rows = kinds[data.draw(st.sampled_from(sorted(name for name, of in kinds.items() if of)))]
    del rows[data.draw(st.integers(0, len(rows) - 1))]
    verdict = world.verdict()
    assert verdict.lost
    assert not verdict.passed


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_single_effect_is_there_twice_is_one_too_many(seed: int, data: st.DataObject) -> None:
    world = busy(seed, 12)
    world.order()
    kinds = {"orders": world.orders, "telegrams": world.telegrams, **world.inboxes}
    rows = kinds[data.draw(st.sampled_from(sorted(name for name, of in kinds.items() if of)))]
    rows.append(rows[data.draw(st.integers(0, len(rows) - 1))])
    verdict = world.verdict()
    assert verdict.doubled
    assert not verdict.passed


def test_ten_thousand_orders_are_checked() -> None:
    world = World()
    for _ in range(10_000):
        world.order()
    verdict = world.verdict()  # in less than a second: what takes a step for each pair would not end before the test's timeout
    assert (20_000, True) == (verdict.events, verdict.passed)
