"""A row is measured on real servers, and what is done to its result behind its back is found."""

import uuid
from collections.abc import Iterator

import pytest

from bench import catalogue, stand
from bench.dataset import Dataset
from bench.row import sizes
from bench.rows import consumer
from bench.stand import Stand

pytestmark = pytest.mark.timeout(300)
EVENTS = 60


@pytest.fixture(scope="module")
def servers() -> Iterator[Stand]:
    with stand.running(lambda _line: None) as found:
        yield found


def test_the_full_path_and_the_relay_do_all_of_it_once(servers: Stand) -> None:
    rows = {row.name: row for row in catalogue.rows()}
    for name in ("full_path", "full_path_timed", "relay"):
        measured = rows[name].measure(servers, EVENTS)
        assert [] == measured.faults
        assert sizes(EVENTS, rows[name].share)[0] == measured.events
        assert measured.cpu_s.keys() == measured.rss_mib.keys() >= {"postgres", "kafka"}


def test_ids_are_chance_or_begin_with_a_time_that_goes_on_from_that_of_old_rows(servers: Stand) -> None:
    for timed, version in ((False, 4), (True, 7)):
        dataset = Dataset(1000, timed=timed)
        ids = [made for pair in dataset.ids() for made in pair]
        assert (len(set(ids)), {uuid.UUID(made).version for made in ids}) == (2000, {version})
        assert list(dataset.ids()) == list(dataset.ids())
        times = [made[:13] for made in ids]
        assert (times == sorted(times)) == timed
        with servers.database(dataset, old_rows=50) as name:
            [[before, found]] = servers.sql(
                f"SELECT count(*) FILTER (WHERE event_id < '{min(ids)}'), count(*) FROM order_inbox_events", name
            )
        assert (int(before) == 50) == timed
        assert int(found) == 50


def test_a_row_that_is_lost_in_the_database_is_found(servers: Stand) -> None:
    dataset = Dataset(3)
    lost = next(iter(dataset.expected()))
    rows = [f"{event_id}\torder.assembly.completed\t2026-01-31T12:00:00.123456Z\t{order_id}" for event_id, order_id in dataset.ids()]
    with servers.database(dataset) as name:
        servers.sql("COPY order_inbox_events (event_id, event_type, occurred_at, order_id) FROM STDIN", name, rows)
        servers.sql("UPDATE orders SET status = 'assembled'", name)
        assert [] == consumer.faults(servers, name, dataset)
        servers.sql(f"DELETE FROM order_inbox_events WHERE event_id = '{lost}'", name)
        assert [f"inbox: 1 are missing or there more than once: {lost}"] == consumer.faults(servers, name, dataset)
