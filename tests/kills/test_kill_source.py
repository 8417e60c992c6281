"""The source dies at each step of a record: nothing of its partition is lost, and what comes again has its effect once.

Its function is a real one, so that a repeat meets an inbox; its dead-letter sink counts (dlq_router dies in test_kill_dead_letters.py). A
dead member holds its partitions for some seconds, so many sources die and come back at the same time. Killed amid thousands of records, and
ended while a delivery hangs: tests/source/test_process.py.
"""

import json
import signal
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import controls, stack
from tests.conftest import MakeTopic
from tests.kills import mortal, points, topics
from tests.kills.conftest import StartMortal
from tests.kills.mortal import Mortal
from tests.kills.points import Point
from tests.source import sinks
from tests.source.conftest import Group, write_manifest

TOGETHER = 8
POISON = b'{"event_id": "cut'
# What is there after a death: events in the inbox, letters, and the committed offset.
LEFT = {
    "unread": (0, 0, 0),
    "handled": (1, 0, 0),
    "committed": (1, 0, 1),
    "refused": (0, 0, 0),
    "written": (0, 1, 0),
    "written and committed": (0, 1, 1),
}


@dataclass
class Life:
    """A topic with one record, the source that dies of it, and what was seen."""

    point: Point
    poison: bool
    drains: bool
    group: Group
    database: stack.TestDatabase
    start: Callable[[Group, Point | None], Mortal]
    payloads: list[controls.Payload] = field(default_factory=lambda: [controls.paid(order_id="one"), controls.paid(order_id="one")])
    seen: list[tuple[int, int, int]] = field(default_factory=list)
    failure: BaseException | None = None

    def stages(self) -> Iterator[None]:
        """All of it; between two stages others may go on."""
        topics.begin(self.group.brokers, self.group.topic, self.group.name)
        self.group.produce(POISON if self.poison else json.dumps(self.payloads[0]).encode(), key=b"one")
        source = self.start(self.group, None if self.drains else self.point)
        if self.drains:
            source.process.kill()
            source.order(self.point, "term")
            source.process.start()
        elif self.point.step.name == "leave":
            self.group.wait_committed(1)
            source.process.send(signal.SIGTERM)
        yield
        (source.drained if self.drains else source.died)(self.point)
        self.look()
        self.group.produce(json.dumps(self.payloads[1]).encode(), key=b"one")
        source.process.start()
        yield
        self.group.wait_committed(2)
        assert source.process.stop() == 0
        self.look()

    def look(self) -> None:
        """See what is there."""
        [[handled]] = self.database.run(
            "SELECT count(*) FROM assembly_inbox_events WHERE event_id = ANY(:ids)", ids=[payload["event_id"] for payload in self.payloads]
        )
        self.seen.append((int(handled), len(self.letters), self.group.committed() or 0))

    @property
    def letters(self) -> list[sinks.Request]:
        """The letters of this topic."""
        return [request for request in self.group.letters.requests if request.json["topic"] == self.group.topic]


POINTS = [(point, False) for table in ("source", "source's letter") for point in points.of(table)]
POINTS += [(point, True) for table in ("source", "source's letter") for point in points.drains(table)]
LETTER = points.TABLES["source's letter"]


@pytest.fixture(scope="module")
def sink() -> Iterator[sinks.Sink]:
    made = sinks.Sink()
    yield made
    made.close()


@pytest.fixture(scope="module")
def start(start_mortal: StartMortal, serve: Callable[..., stack.Process], module_database: stack.TestDatabase, kafka_brokers: str,
          sink: sinks.Sink, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Mortal]:  # fmt: skip
    """start(group, point, traced=False) -> the source of that group, which may not be ready yet."""
    function = serve("assembly_on_payment", module_database.environment())
    env = {"KAFKA_BROKERS": kafka_brokers, "SINK_URLS": f"function={function.url},letters={sink.url}", "SHUTDOWN_TIMEOUT": "10s"}
    env |= {"KAFKA_GROUP_PROTOCOL": "consumer"}  # the test broker forgets a dead member of it sooner

    def made(group: Group, point: Point | None, *, traced: bool = False) -> Mortal:
        manifest: Path = write_manifest(tmp_path_factory.mktemp("source") / "sources.yaml", [group.document()])
        command = ["connectors.kafka_source", "--manifest", str(manifest), "--control-port", "PORT"]
        return start_mortal("source,source's letter", command, env, point=point, traced=traced)

    return made


@pytest.fixture(scope="module")
def lives(request: pytest.FixtureRequest, start: Callable[..., Mortal], module_database: stack.TestDatabase, kafka_brokers: str,
          make_topic: MakeTopic, sink: sinks.Sink) -> dict[tuple[str, bool], Life]:  # fmt: skip
    """The life of every source that a chosen test asks for, by its point and whether it was only asked to end."""
    chosen = [item.callspec.params["case"] for item in request.session.items if _asks(item, request)]
    made = []
    for point, drains in chosen:
        group = Group(kafka_brokers, make_topic(), f"group-{uuid.uuid4().hex[:12]}", sink, sink)
        made.append(Life(point, point.step in LETTER, drains, group, module_database, start))
    for at in range(0, len(made), TOGETHER):
        _live(made[at : at + TOGETHER])
    return {(str(life.point), life.drains): life for life in made}


def _asks(item: pytest.Item, request: pytest.FixtureRequest) -> bool:
    return item.path == request.path and "case" in getattr(getattr(item, "callspec", None), "params", {})


def _live(lives: Sequence[Life]) -> None:
    """Stage by stage, all of them side by side; one that fails lets the others go on."""
    going = [(life, life.stages()) for life in lives]
    while going:
        ahead = []
        for life, stages in going:
            try:
                next(stages)
            except StopIteration:
                continue
            except Exception as exc:  # noqa: BLE001  its own test raises it
                life.failure = exc
                continue
            ahead.append((life, stages))
        going = ahead


@pytest.mark.timeout(240)  # the first of them waits for all
@pytest.mark.parametrize("case", POINTS, ids=lambda case: f"{'drains' if case[1] else 'dies'}-{points.id_of(case[0])}")
def test_a_record_whose_source_died_has_its_effect_or_its_letter(lives: dict[tuple[str, bool], Life], case: tuple[Point, bool]) -> None:
    point, drains = case
    life = lives[str(point), drains]
    if life.failure is not None:
        raise life.failure
    at_death, at_end = life.seen
    if drains:
        assert at_death == LEFT["written and committed" if life.poison else "committed"]
    else:
        assert at_death in [LEFT[left] for left in point.left.split(" or ")]
    _, letters, committed = at_death
    if life.poison:
        assert at_end == (1, letters if committed else letters + 1, 2)  # a letter that Kafka knows nothing of is handed over again
        assert {request.json["offset"] for request in life.letters} == {0}
    else:
        assert at_end == (2, 0, 2)


def test_the_lists_have_every_step_of_a_record(
    start: Callable[..., Mortal], kafka_brokers: str, make_topic: MakeTopic, sink: sinks.Sink
) -> None:
    group = Group(kafka_brokers, make_topic(), f"group-{uuid.uuid4().hex[:12]}", sink, sink)
    topics.begin(kafka_brokers, group.topic, group.name)
    group.produce(json.dumps(controls.paid()).encode())
    source = start(group, None, traced=True)
    group.wait_committed(1)
    group.produce(POISON)
    group.wait_committed(2)
    assert source.process.stop() == 0
    for table in ("source", "source's letter"):
        steps = points.TABLES[table]
        assert source.has_passed(steps)
        assert mortal.order_of(source.trace(), steps) == [step.name for step in steps]
