"""Runs that ended long ago leave the tables in bounded steps; what became of each letter stays known."""

import pytest

from ops.dlq import old_runs
from shared import config
from shared.database import Database
from tests import controls, stack
from tests.dlq.replaying import ORDER, Bench


def run(made: stack.TestDatabase, name: str, state: str, days: int, items: int) -> None:
    """A run that ended so many days ago, with items."""
    made.run(
        "INSERT INTO dlq_runs (run_id, kind, state, who, ended_at) VALUES (:name, 'events', :state, 'test',"
        " CASE WHEN :state <> 'open' THEN now() - make_interval(days => :days::int) END)",
        name=name, state=state, days=days,
    )  # fmt: skip
    made.run(
        "INSERT INTO dlq_run_items (run_id, n, consumer, status, open)"
        " SELECT :name, n, 'c', 'done', :state = 'open' FROM generate_series(1, :items::int) AS n",
        name=name, state=state, items=items,
    )  # fmt: skip


def left(made: stack.TestDatabase) -> dict[str, int]:
    return dict(made.run("SELECT run_id, (SELECT count(*) FROM dlq_run_items AS i WHERE i.run_id = r.run_id) FROM dlq_runs AS r"))


@pytest.fixture
def remove(database: stack.TestDatabase) -> None:
    """Some runs, and the removal of old ones."""
    for name, state, days in (("finished", "finished", 91), ("abandoned", "abandoned", 91), ("young", "finished", 89), ("open", "open", 0)):
        run(database, name, state, days, 10)
    database.run("UPDATE dlq_runs SET created_at = now() - interval '400 days'")
    base = Database(database.dsn(), settings=config.Settings(), application="test")
    old_runs.remove(base)
    base.close()


@pytest.mark.usefixtures("remove")
def test_runs_that_ended_long_ago_go_with_their_items_and_an_open_one_never(database: stack.TestDatabase) -> None:
    assert {"young": 10, "open": 10} == left(database)


def test_a_long_run_goes_in_bounded_steps(database: stack.TestDatabase) -> None:
    """What is left after so many is for the next time: nobody waits for a removal."""
    many = old_runs.STEP_ROWS * (old_runs.STEPS_MAX + 1)
    run(database, "long", "finished", 91, many)
    base = Database(database.dsn(), settings=config.Settings(statement_timeout=60, delivery_deadline=90), application="test")

    old_runs.remove(base)
    assert {"long": old_runs.STEP_ROWS} == left(database)

    old_runs.remove(base)
    assert {} == left(database)
    base.close()


def test_the_command_that_makes_runs_removes_the_old_ones(bench: Bench) -> None:
    """Before the next; the history of its letters stays."""
    (letter_id,) = bench.fail(ORDER, controls.assembled())
    run(bench.database, "old", "finished", 91, 3)
    bench.database.run("INSERT INTO dlq_history (letter_id, what, who, run_id) VALUES (:id, 'replayed', 'test', 'old')", id=letter_id)

    bench.replay("--all")  # nobody agrees, so it begins nothing

    assert ({}, ["replayed"]) == (left(bench.database), bench.history(letter_id))
