"""When a worker's turn to look comes, and where it starts."""

import threading
from collections.abc import Callable

from connectors.outbox_relay import schedule
from connectors.outbox_relay.rows import START, Position
from tests import stack

FAR, FARTHER = Position("2026-01-01", 1), Position("2026-01-02", 2)


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _aside(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def test_a_look_begins_at_the_oldest_row_and_goes_on_where_it_left_rows() -> None:
    """The first turn starts at the front; after a look that left rows the next goes on there, without a hint."""
    turns = schedule.Schedule(sweep_interval_s=3600)
    assert turns.turn() == START
    turns.done(FAR)
    assert turns.turn() == FAR
    turns.done(FARTHER)
    assert turns.turn() == FARTHER


def test_a_hint_interrupts_a_walk_and_does_not_end_it() -> None:
    """A hint during a walk gives a look at the oldest rows, after which the walk goes on from where it was."""
    clock = Clock()
    turns = schedule.Schedule(sweep_interval_s=3600, clock=clock)
    turns.turn()
    turns.done(FARTHER)
    turns.wake()
    assert turns.turn() == FARTHER
    turns.done(FARTHER)
    clock.now += schedule.FRONT_INTERVAL_S
    assert turns.turn() == START
    turns.done(FAR)
    assert turns.turn() == FARTHER


def test_one_looks_at_a_time() -> None:
    """A second worker waits for the first one's look to be over; with nothing left it then waits for a hint."""
    turns = schedule.Schedule(sweep_interval_s=3600)
    assert turns.turn() == START
    thread, found = _aside(turns.turn)
    turns.wake()
    thread.join(0.2)
    assert found == []
    turns.done(None)
    thread.join(stack.PATIENCE_S)
    assert found == [START]


def test_the_next_due_row_is_looked_for_in_time() -> None:
    """A look that says when the next row is due brings a turn then, long before the sweep."""
    turns = schedule.Schedule(sweep_interval_s=3600)
    turns.turn()
    turns.done(None, look_in_s=0.1)
    thread, found = _aside(turns.turn)
    thread.join(stack.PATIENCE_S)
    assert found == [START]


def test_nobody_looks_while_kafka_is_away() -> None:
    """The first who finds Kafka away is told to find out when it is back; until then there are no turns, and at the end None."""
    turns = schedule.Schedule(sweep_interval_s=3600)
    assert (turns.kafka_away(), turns.kafka_away()) == (True, False)
    thread, found = _aside(turns.turn)
    turns.wake()
    thread.join(0.2)
    assert found == []
    turns.kafka_back()
    thread.join(stack.PATIENCE_S)
    assert found == [START]
    turns.end()
    assert turns.turn() is None


def test_looks_at_the_oldest_rows_become_rarer_while_they_find_nothing() -> None:
    """During a walk, a look at the oldest rows that finds all of them held by others is put off, hint or not, for longer each time."""
    clock = Clock()
    turns = schedule.Schedule(sweep_interval_s=3600, clock=clock)
    turns.turn()
    turns.done(FARTHER)
    for pause_s in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0):
        turns.wake()
        clock.now += pause_s - 0.01
        assert turns.turn() == FARTHER
        turns.done(FARTHER)
        clock.now += 0.02
        assert turns.turn() == START
        turns.done(FAR, found=False)
