"""Events that share a transaction do not pay for each other's faults."""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from shared import config, errors, events, grouping
from shared.grouping import Outcome
from tests import controls

FAR = float("inf")


def some(count: int) -> list[events.OrderAssembled]:
    return [events.OrderAssembled.model_validate(controls.assembled(event_id=f"e{n}")) for n in range(count)]


class Commits:
    """A transaction that fails as the test says, and remembers what it was given."""

    def __init__(self, fails: Callable[[Sequence[events.Event]], errors.OrderflowError | None]) -> None:
        self._fails = fails
        self.parts: list[list[str]] = []
        self.lock_timeouts: list[int | None] = []

    def __call__(self, part: Sequence[events.Event], lock_timeout_ms: int | None) -> list[Outcome]:
        self.parts.append([event.event_id for event in part])
        self.lock_timeouts.append(lock_timeout_ms)
        failure = self._fails(part)
        if failure is not None:
            raise failure
        return ["done"] * len(part)


def when_there(event_id: str, failure: errors.OrderflowError) -> Callable[[Sequence[events.Event]], errors.OrderflowError | None]:
    return lambda part: failure if event_id in {event.event_id for event in part} else None


@pytest.mark.parametrize("failure", [errors.Refused(code="constraint"), errors.Bug()])
def test_an_error_that_one_event_can_cause_is_that_events_alone(failure: errors.OrderflowError) -> None:
    outcomes = grouping.settle(some(8), Commits(when_there("e5", failure)), until=FAR)
    assert outcomes == ["done"] * 5 + [failure] + ["done"] * 2


def test_one_slow_lock_does_not_stop_its_neighbours_and_the_parts_wait_for_less() -> None:
    commits = Commits(when_there("e0", errors.Busy()))
    outcomes = grouping.settle(some(4), commits, until=FAR)
    assert [409, "done", "done", "done"] == [getattr(outcome, "status", outcome) for outcome in outcomes]
    assert {grouping.LOCK_TIMEOUT_SPLIT_MS} == set(commits.lock_timeouts[1:])


def test_a_lost_connection_splits_nothing() -> None:
    commits = Commits(lambda _: errors.Unavailable())
    outcomes = grouping.settle(some(8), commits, until=FAR)
    assert [503] * 8 == [getattr(outcome, "status", None) for outcome in outcomes]
    assert len(commits.parts) == 1


def test_transactions_in_each_others_way_are_repeated_as_they_were() -> None:
    failures = [errors.Conflict(), errors.Conflict()]
    commits = Commits(lambda _: failures.pop() if failures else None)
    assert grouping.settle(some(3), commits, until=FAR) == ["done"] * 3
    assert [["e0", "e1", "e2"]] * 3 == commits.parts


def test_a_conflict_that_does_not_end_is_answered_as_unavailable() -> None:
    outcomes = grouping.settle(some(2), Commits(lambda _: errors.Conflict()), until=FAR)
    assert [503, 503] == [getattr(outcome, "status", None) for outcome in outcomes]


def test_nothing_is_begun_after_the_deadline() -> None:
    commits = Commits(lambda _: None)
    outcomes = grouping.settle(some(2), commits, until=time.monotonic() - 1)
    assert [("deadline", 503)] * 2 == [(outcome.code, outcome.status) for outcome in outcomes if isinstance(outcome, errors.Unavailable)]
    assert commits.parts == []


class Settled:
    """Settles every event as done, when it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.groups: list[list[str]] = []
        self.begun = asyncio.Event()

    async def __call__(self, wanted: Sequence[events.Event], _until: float) -> list[Outcome]:
        self.groups.append([event.event_id for event in wanted])
        self.begun.set()
        await self.go.wait()
        return ["done"] * len(wanted)


async def test_while_one_group_commits_the_next_fills() -> None:
    settled = Settled()
    group = grouping.Grouping(settled, config.Settings(postgres_connections=1))
    first, *later = some(5)
    tasks = [asyncio.create_task(group.submit([first], alone=False))]
    await settled.begun.wait()
    tasks += [asyncio.create_task(group.submit([event], alone=False)) for event in later]
    await asyncio.sleep(0)  # each has run as far as it can
    settled.go.set()
    assert await asyncio.gather(*tasks) == [["done"]] * 5
    assert [["e0"], ["e1", "e2", "e3", "e4"]] == settled.groups


async def test_a_batch_keeps_its_transaction_to_itself() -> None:
    settled = Settled()
    settled.go.set()
    group = grouping.Grouping(settled, config.Settings(postgres_connections=1))
    one, two, three, four = some(4)
    await asyncio.gather(group.submit([one], alone=False), group.submit([two, three], alone=True), group.submit([four], alone=False))
    assert ["e1", "e2"] in settled.groups


async def test_too_many_waiting_events_are_overload() -> None:
    settled = Settled()
    group = grouping.Grouping(settled, config.Settings(postgres_connections=1, queue_events_max=3))
    first = asyncio.create_task(group.submit(some(2), alone=True))
    await settled.begun.wait()
    waiting = [asyncio.create_task(group.submit(some(2), alone=True)) for _ in range(2)]
    await asyncio.sleep(0)
    for refused in (group.demand_room, lambda: group.submit(some(1), alone=True).send(None)):
        with pytest.raises(errors.Overloaded, match="3 events wait"):
            refused()
    settled.go.set()
    assert await asyncio.gather(first, *waiting) == [["done", "done"]] * 3
    group.demand_room()


async def test_a_batch_larger_than_the_queue_is_taken_where_nobody_waits() -> None:
    settled = Settled()
    settled.go.set()
    group = grouping.Grouping(settled, config.Settings(postgres_connections=1, queue_events_max=3))
    assert await group.submit(some(5), alone=True) == ["done"] * 5


async def test_a_request_that_has_gone_does_not_stop_the_others() -> None:
    settled = Settled()
    group = grouping.Grouping(settled, config.Settings(postgres_connections=1))
    first, second, third = (asyncio.create_task(group.submit([event], alone=False)) for event in some(3))
    await settled.begun.wait()
    second.cancel()
    settled.go.set()
    assert [["done"], ["done"]] == [await first, await third]


async def test_what_is_handed_in_while_a_lane_ends_is_settled() -> None:
    settled = Settled()
    settled.go.set()
    group = grouping.Grouping(settled, config.Settings(postgres_connections=1))
    for event in some(200):
        # The answer wakes this task before the lane's own end is known to its loop.
        assert ["done"] == await asyncio.wait_for(group.submit([event], alone=False), 30)


async def test_what_stands_at_the_door_comes_into_the_same_group() -> None:
    settled = Settled()
    settled.go.set()
    group = grouping.Grouping(settled, config.Settings(postgres_connections=2))
    tasks = []
    for event in some(20):
        tasks.append(asyncio.create_task(group.submit([event], alone=False)))
        await asyncio.sleep(0)  # one each turn of the loop, as requests are read
    assert [["done"]] * 20 == await asyncio.gather(*tasks)
    assert [[f"e{n}" for n in range(20)]] == settled.groups


async def test_a_batch_waits_for_nobody() -> None:
    settled = Settled()
    group = grouping.Grouping(settled, config.Settings(postgres_connections=1))
    batch = asyncio.create_task(group.submit(some(2), alone=True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [["e0", "e1"]] == settled.groups
    settled.go.set()
    assert ["done", "done"] == await batch
