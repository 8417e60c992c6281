"""The checker of the bench finds what is lost, doubled, foreign or half done."""

from bench import verify

EXPECTED = {"event-1": "order-1", "event-2": "order-2"}
INBOX = [["event-1", "order-1"], ["event-2", "order-2"]]
ORDERS = [["order-1", "assembled"], ["order-2", "assembled"], ["order-3", "paid"]]


def test_all_that_happened_once_has_no_faults() -> None:
    assert [] == verify.consumed(EXPECTED, INBOX, ORDERS)


def test_a_lost_event_is_found() -> None:
    assert ["inbox: 1 are missing or there more than once: event-2"] == verify.consumed(EXPECTED, INBOX[:1], ORDERS)


def test_a_doubled_event_is_found() -> None:
    assert ["inbox: 1 are missing or there more than once: event-1"] == verify.consumed(EXPECTED, [*INBOX, INBOX[0]], ORDERS)


def test_a_foreign_event_is_found() -> None:
    assert ["inbox: 1 should not be there: event-9"] == verify.consumed(EXPECTED, [*INBOX, ["event-9", "order-9"]], ORDERS)


def test_an_event_under_another_order_is_found() -> None:
    assert ["inbox: 1 have another order: event-2"] == verify.consumed(EXPECTED, [INBOX[0], ["event-2", "order-1"]], ORDERS)


def test_an_order_that_was_left_as_it_was_is_found() -> None:
    left = [ORDERS[0], ["order-2", "paid"]]
    assert ["assembled orders: 1 are missing or there more than once: order-2"] == verify.consumed(EXPECTED, INBOX, left)


def test_an_order_that_nobody_asked_for_is_found() -> None:
    changed = [*ORDERS[:2], ["order-3", "assembled"]]
    assert ["assembled orders: 1 should not be there: order-3"] == verify.consumed(EXPECTED, INBOX, changed)


def test_other_answers_than_the_one_that_is_due_are_found() -> None:
    assert [] == verify.answered(3, {"200": 3}, 200)
    assert ["answers: wanted 3 × 200, got {'200': 2, '503': 1}"] == verify.answered(3, {"200": 2, "503": 1}, 200)


def test_a_record_that_is_lost_or_doubled_is_found() -> None:
    records = [(0, "order-1", "event-1"), (1, "order-2", "event-2")]
    assert [] == verify.published(EXPECTED, records, 0)
    assert ["records: 1 are missing or there more than once: event-2"] == verify.published(EXPECTED, records[:1], 0)
    assert ["records: 1 are missing or there more than once: event-1"] == verify.published(EXPECTED, [*records, records[0]], 0)


def test_rows_that_are_not_sent_and_keys_in_two_partitions_are_found() -> None:
    records = [(0, "order-1", "event-1"), (1, "order-1", "event-2")]
    faults = ["outbox: 1 rows are not sent", "records: 1 keys lie in more than one partition: order-1"]
    assert faults == verify.published(EXPECTED, records, 1)


def test_offsets_short_of_the_end_are_found() -> None:
    assert [] == verify.committed(5, 5)
    assert ["offsets: 4 records are committed, 5 were written"] == verify.committed(5, 4)
