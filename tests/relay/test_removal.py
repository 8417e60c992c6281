"""Outbox rows that nothing more is to be done with go when they are old; what waits or was set aside never does."""

import httpx

from tests import stack
from tests.conftest import MakeTopic
from tests.relay.conftest import Outbox, StartRelay

QUICK = {"REMOVAL_INTERVAL": "300ms", "OUTBOX_RETENTION": "7d"}
_ROWS = """
INSERT INTO order_outbox_events
    (event_id, event_type, occurred_at, aggregate_id, payload, topic, status, created_at, sent_at, due_at, headers, producer)
SELECT :name || n, 'test', now(), 'o', '', 'nowhere', :status, at, CASE WHEN :status = 'sent' THEN at END, now() + interval '1 day',
       '{}', 'test'
FROM generate_series(1, :many::int) AS n, (SELECT clock_timestamp() - make_interval(days => :days::int)) AS long_ago(at)
"""


def fill(made: stack.TestDatabase, name: str, status: str, days: int, many: int = 10) -> None:
    """Rows of that status since so many days."""
    made.run(_ROWS, name=f"{name}-", status=status, days=days, many=many)


def left(made: stack.TestDatabase) -> dict[str, int]:
    return dict(made.run("SELECT split_part(event_id, '-', 1), count(*) FROM order_outbox_events GROUP BY 1"))


def test_the_relay_removes_what_is_long_done_and_nothing_else(outbox: Outbox, start_relay: StartRelay, kafka_brokers: str) -> None:
    """Rows that were sent or given up go after OUTBOX_RETENTION; one that is pending or failed stays however old it is."""
    for status in ("sent", "discarded", "pending", "failed"):
        fill(outbox.made, f"old_{status}", status, 400)
        fill(outbox.made, f"young_{status}", status, 6)
    stays = {f"{age}_{status}": 10 for age in ("old", "young") for status in ("pending", "failed")}

    relay = start_relay(outbox.made, kafka_brokers, QUICK)

    stack.eventually(lambda: left(outbox.made) == stays | {"young_sent": 10, "young_discarded": 10}, "the old rows to go")
    told = 'orderflow_removed_rows_total{table="order_outbox_events"} 20.0'
    stack.eventually(lambda: told in httpx.get(f"{relay.url}/metrics").text, "the metric")


def test_rows_go_while_others_are_published(outbox: Outbox, start_relay: StartRelay, kafka_brokers: str, make_topic: MakeTopic) -> None:
    """Both are there at once, and neither waits for the other."""
    fill(outbox.made, "old", "sent", 400, many=5000)
    topic = make_topic()
    start_relay(outbox.made, kafka_brokers, QUICK)

    sent = [outbox.add(topic, b"k") for _ in range(20)]

    for event_id in sent:
        outbox.until(event_id)
    stack.eventually(lambda: "old" not in left(outbox.made), "the old rows to go")
    assert 20 == sum(left(outbox.made).values())
