"""The relay dies at each step of a round: no row is lost, no key loses its order, and what is published again has the same id.

A relay whose records were in flight, and one frozen between report and mark: tests/relay/test_failures.py (L19, D06).
"""

import pytest

from tests import stack
from tests.conftest import MakeTopic
from tests.kills import mortal, points, topics
from tests.kills.conftest import StartMortal
from tests.kills.mortal import Mortal
from tests.kills.points import Point
from tests.relay.conftest import Outbox

COMMAND = ["connectors.outbox_relay", "--control-port", "PORT"]
# One worker: another's look at the outbox, which finds nothing, would pass the same steps.
ALONE = {"RELAY_WORKERS": "1", "RELAY_SWEEP_INTERVAL": "500ms"}
VALUES = [b"1", b"2", b"3"]


class Line:
    """Three rows of one key, and a relay for them."""

    def __init__(self, made: stack.TestDatabase, brokers: str, topic: str, start: StartMortal) -> None:
        self.outbox, self.topic = Outbox(made), topic
        self.ids = [self.outbox.add(topic, b"key", value) for value in VALUES]
        self._brokers, self._start = brokers, start

    def relay(self, point: Point | None = None, *, traced: bool = False) -> Mortal:
        """A relay; whatever is to happen at `point` happens in its first round."""
        env = ALONE | self.outbox.made.environment() | {"KAFKA_BROKERS": self._brokers}
        return self._start("relay", COMMAND, env, point=point, traced=traced)

    def published(self) -> list[tuple[str, bytes]]:
        """Id and value of every record, in order."""
        found = topics.records(self._brokers, self.topic)
        return [(dict(message.headers() or [])["ce_id"].decode(), message.value() or b"") for message in found]

    def marked(self) -> list[tuple[str, int]]:
        """Status and attempts of each row, in order."""
        found = (self.outbox.one(event_id) for event_id in self.ids)
        return [(str(row["status"]), int(row["attempts"])) for row in found]

    @property
    def rows(self) -> list[tuple[str, bytes]]:
        """The rows, as records."""
        return list(zip(self.ids, VALUES, strict=True))


@pytest.fixture
def line(module_database: stack.TestDatabase, kafka_brokers: str, make_topic: MakeTopic, start_mortal: StartMortal) -> Line:
    return Line(module_database, kafka_brokers, make_topic(), start_mortal)


SENT, PENDING = [("sent", 1)] * 3, [("pending", 0)] * 3


@pytest.mark.parametrize("point", points.of("relay"), ids=points.id_of)
def test_rows_of_a_relay_that_died_are_published_in_order_and_marked_once(line: Line, point: Point) -> None:
    relay = line.relay(point)
    relay.died(point)
    before = line.published()
    if point.left == "marked":
        assert (before, line.marked()) == (line.rows, SENT)
    else:
        assert (str(len(before)) in point.left.split(" or "), line.marked()) == (True, PENDING)
        assert before == line.rows[: len(before)]

    relay.again()
    stack.eventually(lambda: line.marked() == SENT, "every row to be sent")
    assert relay.process.stop() == 0
    assert line.published() == before + ([] if point.left == "marked" else line.rows)


@pytest.mark.parametrize("point", points.drains("relay"), ids=points.id_of)
def test_a_relay_that_is_asked_to_end_publishes_and_marks_what_it_holds(line: Line, point: Point) -> None:
    relay = line.relay()
    relay.process.kill()
    relay.order(point, "term")
    relay.process.start()
    relay.drained(point)
    assert (line.published(), line.marked()) == (line.rows, SENT)


def test_the_list_has_every_step_of_a_round(line: Line) -> None:
    relay = line.relay(traced=True)
    stack.eventually(lambda: line.marked() == SENT, "every row to be sent")
    assert relay.process.stop() == 0
    steps = points.TABLES["relay"]
    assert relay.has_passed(steps)
    assert mortal.order_of(relay.trace(), steps) == [step.name for step in steps]
    assert mortal.uncovered(relay.trace()) == []
