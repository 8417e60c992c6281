"""Every row of the table, in its order."""

import functools

from bench.row import Row
from bench.rows import chain, limits, outbox, peers, requests, starting
from bench.rows.consumer import ConsumerRow
from bench.rows.requests import RequestRow


def rows() -> list[Row]:
    """Ours, peers, limits. `share` gives each so many events that it takes some seconds, PostgreSQL alone among them."""
    two = functools.partial(starting.full_path, processes=2)
    one_by_one = functools.partial(peers.faststream, mode="one")
    batches = functools.partial(peers.faststream, mode="batch")
    sets = functools.partial(peers.faststream, mode="set")
    ours, one = requests.order_on_assembled, peers.one_transaction
    return [
        ConsumerRow("full_path", "full path, batches, 1 function process", "ours", 1.0, starting.full_path),
        ConsumerRow("full_path_two", "full path, batches, 2 function processes", "ours", 1.0, two),
        ConsumerRow("full_path_timed", "full path, batches, ids that begin with a time", "ours", 1.0, starting.full_path, timed=True),
        RequestRow("single_64", "our function, single deliveries, 64 in flight", "ours", 0.08, "events", "/", 64, ours),
        RequestRow("single_ordered_8", "our function, single deliveries, ordered, 8 in flight", "ours", 0.03, "events", "/", 8, ours),
        RequestRow("orders_api", "POST /orders, 64 in flight", "ours", 0.03, "orders", "/orders", 64, requests.orders),
        outbox.RelayRow(),
        chain.ChainRow(),
        ConsumerRow("faststream_one", "FastStream (confluent), one by one", "peer", 0.01, one_by_one),
        ConsumerRow("faststream_batch", "FastStream (confluent), batches of 500 in a transaction", "peer", 0.03, batches),
        ConsumerRow("faststream_set", "FastStream (confluent), batches of 500 in one statement", "peer", 0.2, sets),
        RequestRow("one_transaction", "functions-framework, a transaction per event, 64 in flight", "peer", 0.01, "events", "/", 64, one),
        ConsumerRow("hand_loop", "hand-written loop: consume, transaction, commit", "limit", 1.0, peers.hand_loop),
        limits.PostgresRow(),
        limits.PostgresRow("postgres_alone_timed", "the same, ids that begin with a time", timed=True),
        limits.KafkaRow(),
    ]
