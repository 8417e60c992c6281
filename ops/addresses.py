"""Where the running processes are: as `orderflow up` wrote it down, else where they are by default."""

import json
import os
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES_URL = "http://127.0.0.1:8085"
FUNCTIONS = {
    "orders": "http://127.0.0.1:8080",
    "assembly_on_payment": "http://127.0.0.1:8081",
    "order_on_assembled": "http://127.0.0.1:8082",
    "notify": "http://127.0.0.1:8083",
    "dlq_router": "http://127.0.0.1:8084",
}


def running() -> dict[str, Any]:
    """What `orderflow up` says of the system that runs, or an empty map."""
    home = Path(os.environ.get("ORDERFLOW_HOME") or ROOT / ".orderflow")
    try:
        found = json.loads((home / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def functions() -> dict[str, str]:
    """The URL of every function by its name."""
    told = running().get("functions")
    found = {name: str(of["url"]) for name, of in told.items() if isinstance(of, dict) and "url" in of} if isinstance(told, dict) else {}
    return FUNCTIONS | found


def sources() -> str:
    """The control address of the Kafka sources."""
    return os.environ.get("SOURCE_CONTROL_URL") or str(running().get("sources_url") or SOURCES_URL)
