"""What `orderflow up` has to say: what is unlike the files, where things are, and the way out when something is in the way."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ops import postgres
from shared import topics
from shared.config import Settings

OTHER_PORTS = (
    "end that process (`orderflow kafka down` ends a broker of `make kafka-up`), or choose others: --port-base, --kafka-port,"
    " --postgres-port (or ORDERFLOW_PORT_BASE, ORDERFLOW_KAFKA_PORT, ORDERFLOW_POSTGRES_PORT);"
    " KAFKA_BROKERS and ORDER_POSTGRES_DSN name servers that run already"
)
_ORDER = """'{"user_id": "u-1", "items": [{"product_id": "p-1", "quantity": 2}]}'"""


def differences(settings: Settings) -> Iterator[str]:
    """Topics and groups that the environment names otherwise than contracts/topics.yaml, and where each value is from."""
    read, used = topics.read(), topics.catalogue(settings)
    for before, after in zip(read.all(), used.all(), strict=True):
        if before.name != after.name:
            yield f"topic {after.name} (environment, {before.setting}) instead of {before.name} (contracts/topics.yaml)"
    for (_, declared), (_, named) in zip(read.consumers(), used.consumers(), strict=True):
        if declared.group != named.group:
            yield f"group {named.group} (environment, {declared.setting}) instead of {declared.group} (contracts/topics.yaml)"


def whereabouts(orders: str, brokers: str, postgres_port: int | None, logs: Path) -> Iterator[str]:
    """Where all of it is, and how to reach it by hand. `postgres_port` is of the local server, if there is one."""
    yield f"  place an order   curl -s {orders}/orders -H 'content-type: application/json' -d {_ORDER}"
    yield f"  the API          {orders}/docs"
    yield f"  records          KAFKA_BROKERS={brokers} .venv/bin/orderflow topics consume order.assembly.completed"
    if postgres_port is not None:
        yield (
            f"  rows             PGPASSWORD={postgres.OWNER_PASSWORD} psql -h localhost -p {postgres_port} -U {postgres.OWNER} "
            f'-d {postgres.DATABASE} -c "TABLE order_inbox_events"'
        )
    elsewhere = f"ORDERFLOW_HOME={shlex.quote(os.environ['ORDERFLOW_HOME'])} " if os.environ.get("ORDERFLOW_HOME") else ""
    yield f"  status           {elsewhere}.venv/bin/orderflow status"
    yield f"  logs             {logs}"
    yield "  Ctrl-C ends all of it"


def without_password(dsn: str) -> str:
    """`dsn` as it may be shown."""
    parts = urlsplit(dsn)
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@") if parts.password else parts.netloc).geturl()
