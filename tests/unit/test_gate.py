"""What orders takes on: a rate, a burst, so many at once; by a clock that only goes forward, and with nothing kept for each client."""

import contextlib

import pytest

from functions.orders.gate import Gate
from shared import config, errors


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def gate(clock: Clock, **limits: float) -> Gate:
    return Gate(config.Settings(**{f"orders_{name}_max": limit for name, limit in limits.items()}), clock)


def admitted(of: Gate, requests: int) -> int:
    taken = 0
    for _ in range(requests):
        try:
            of.admit()
        except errors.Overloaded:
            continue
        taken += 1
    return taken


def test_without_a_rate_any_number_is_admitted() -> None:
    assert admitted(gate(Clock()), 10_000) == 10_000


@pytest.mark.parametrize(("limits", "burst"), [({}, 4), ({"burst_requests": 2}, 2), ({"burst_requests": 9}, 9)])
def test_a_burst_is_admitted_and_then_the_rate(limits: dict[str, int], burst: int) -> None:
    clock = Clock()
    of = gate(clock, requests_per_second=4, **limits)
    assert admitted(of, 100) == burst
    clock.now += 0.3125  # one and a quarter come back
    assert admitted(of, 100) == 1
    clock.now += 0.1875  # and the other three quarters
    assert admitted(of, 100) == 1
    clock.now += 3600  # no more than a burst, however long nobody came
    assert admitted(of, 100) == burst


def test_less_than_one_a_second_admits_one_and_says_when_the_next() -> None:
    clock = Clock()
    of = gate(clock, requests_per_second=0.1)
    of.admit()
    clock.now += 4
    with pytest.raises(errors.Overloaded) as refused:
        of.admit()
    assert ("too_many_requests", 6.0) == (refused.value.code, pytest.approx(refused.value.retry_after_s))
    clock.now += 6
    of.admit()


def test_who_is_refused_uses_up_nothing() -> None:
    clock = Clock()
    of = gate(clock, requests_per_second=1)
    of.admit()
    for _ in range(1000):
        assert admitted(of, 1) == 0
    clock.now += 1
    assert admitted(of, 2) == 1


def test_a_place_is_given_back_whatever_becomes_of_the_request() -> None:
    of = gate(Clock(), concurrent_requests=2)
    with of.at_work():
        with contextlib.suppress(ZeroDivisionError), of.at_work():
            assert admitted(of, 1) == 0
            with pytest.raises(errors.Overloaded, match="2 requests"), of.at_work():
                pass
            raise ZeroDivisionError
        assert admitted(of, 1) == 1
