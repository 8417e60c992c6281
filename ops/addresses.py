"""Where the running processes are: as `orderflow up` wrote it down, else where they are by default."""

import os
from typing import Any

from ops import home

SOURCES_URL = "http://127.0.0.1:8085"
FUNCTIONS = {
    "orders": "http://127.0.0.1:8080",
    "assembly_on_payment": "http://127.0.0.1:8081",
    "order_on_assembled": "http://127.0.0.1:8082",
    "notify": "http://127.0.0.1:8083",
    "dlq_router": "http://127.0.0.1:8084",
}


def functions() -> dict[str, str]:
    """The URL of every function by its name."""
    told = _running().get("functions")
    found = {name: str(of["url"]) for name, of in told.items() if isinstance(of, dict) and "url" in of} if isinstance(told, dict) else {}
    return FUNCTIONS | found


def sources() -> str:
    """The control address of the Kafka sources."""
    return os.environ.get("SOURCE_CONTROL_URL") or str(_running().get("sources_url") or SOURCES_URL)


def _running() -> dict[str, Any]:
    return home.read_run(home.folder()) or {}
