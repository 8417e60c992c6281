"""Where the running processes are: as `orderflow up` wrote it down, else where they are by default."""

import os
from typing import Any

from ops import child, home
from ops.deployments import functions as deployed

SOURCES_URL = f"http://{child.LOOPBACK}:{deployed.CONNECTORS['source']}"


def functions() -> dict[str, str]:
    """The URL of every function by its name."""
    told = _running().get("functions")
    found = {name: str(of["url"]) for name, of in told.items() if isinstance(of, dict) and "url" in of} if isinstance(told, dict) else {}
    return {name: f"http://{child.LOOPBACK}:{function.port}" for name, function in deployed.here().items()} | found


def sources() -> str:
    """The control address of the Kafka sources."""
    return os.environ.get("SOURCE_CONTROL_URL") or str(_running().get("sources_url") or SOURCES_URL)


def _running() -> dict[str, Any]:
    return home.read_run(home.folder()) or {}
