"""A functions-framework function with one pg8000 transaction for each event, as its README shows a CloudEvents function.

It runs under functions-framework's own command line, that is gunicorn with its threads. Each thread keeps a connection without TLS and
with TCP_NODELAY: pg8000's defaults, a connection for each request and a TLS attempt, would make it twenty times slower.
"""

import os
import socket
import threading
from urllib.parse import urlsplit

import functions_framework
import pg8000.native
from cloudevents.http import CloudEvent

_local = threading.local()


def _connection() -> pg8000.native.Connection:
    if not hasattr(_local, "connection"):
        dsn = urlsplit(os.environ["DSN"])
        sock = socket.create_connection((dsn.hostname or "", dsn.port or 5432))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _local.connection = pg8000.native.Connection(
            dsn.username, database=dsn.path[1:], password=dsn.password, sock=sock, ssl_context=False
        )
    return _local.connection


@functions_framework.cloud_event
def handle(event: CloudEvent) -> None:
    """Claim the event and set its order to assembled, in one transaction."""
    connection, data = _connection(), event.data
    connection.run("BEGIN")
    try:
        claimed = connection.run(
            "INSERT INTO order_inbox_events (event_id, event_type, occurred_at, order_id)"
            " VALUES (:event_id, :event_type, :occurred_at, :order_id) ON CONFLICT (event_id) DO NOTHING RETURNING event_id",
            event_id=data["event_id"], event_type=data["event_type"], occurred_at=data["occurred_at"], order_id=data["order_id"],
        )  # fmt: skip
        if claimed:
            connection.run("UPDATE orders SET status = 'assembled' WHERE id = :id AND status = 'paid'", id=data["order_id"])
        connection.run("COMMIT")
    except BaseException:
        connection.run("ROLLBACK")
        raise
