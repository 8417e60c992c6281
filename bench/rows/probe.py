"""Waits: an event now and then, and a look every fraction of a millisecond whether its effect can be seen."""

import itertools
import random
import time
from collections.abc import Callable

from bench.dataset import Dataset, Writer
from bench.processes import BenchError, Process, eventually, python
from bench.row import Waits
from bench.stand import Stand
from shared import config, database

EVENTS_MAX = 2000
WARM_UP = 50
LOOK_EVERY_S = 0.0003  # the wait is longer by this and a query; it is never shorter
LOOK_UNDER_LOAD_EVERY_S = 0.003  # or the looks themselves, which need a core most when events are late, would be the load
PAUSE_S = 0.03
LATE_S = 30.0


def consumer(stand: Stand, name: str, topic: str, dataset: Dataset, *, load: int, per_second: float | None, seconds: float) -> Waits:
    """Waits of single events on `topic`, beside the first `load` events of `dataset` at `per_second`."""
    events = itertools.islice(dataset.assembled(), load, None)
    writer = Writer(stand.brokers)
    loader: Process | None = None

    def cause() -> str:
        event = next(events)
        writer.write(topic, event, dataset.value(event))
        return event.event_id

    try:
        with database.Database(stand.dsn(name), settings=config.Settings(), application="bench").session() as look:

            def is_there(event_id: str) -> bool:
                return bool(look.run("SELECT 1 FROM order_inbox_events WHERE event_id = :id", id=event_id))

            for _ in range(WARM_UP):
                wait_ms(cause, is_there, late_s=120.0)
            if per_second is not None:
                arguments = [stand.brokers, topic, str(load), str(dataset.count), str(per_second)]
                loader = stand.process("loader", python("bench.paced", *arguments), {})
                first = next(iter(dataset.ids()))[0]
                eventually(lambda: is_there(first), "the load to begin", 60.0, [loader])
                time.sleep(1.0)
            return collect(cause, is_there, seconds, LOOK_EVERY_S if per_second is None else LOOK_UNDER_LOAD_EVERY_S)
    finally:
        if loader is not None:
            loader.stop()


def collect(cause: Callable[[], str], is_there: Callable[[str], bool], seconds: float, every_s: float = LOOK_EVERY_S) -> Waits:
    """Waits one after another for so long, with pauses of no fixed rhythm between them."""
    chance = random.Random(1)  # noqa: S311  no secret
    found: list[float] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and len(found) < EVENTS_MAX - WARM_UP:
        found.append(wait_ms(cause, is_there, every_s=every_s))
        time.sleep(PAUSE_S * chance.uniform(0.5, 1.5))
    return Waits(sorted(found))


def wait_ms(cause: Callable[[], str], is_there: Callable[[str], bool], *, late_s: float = LATE_S, every_s: float = LOOK_EVERY_S) -> float:
    """Milliseconds from a cause to its effect. Raises BenchError when it does not come."""
    began = time.perf_counter()
    name = cause()
    while not is_there(name):
        if time.perf_counter() - began > late_s:
            raise BenchError(f"the effect of {name} did not come within {late_s:.0f} s")
        time.sleep(every_s)
    return 1e3 * (time.perf_counter() - began)
