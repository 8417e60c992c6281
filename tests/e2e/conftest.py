"""One whole system for the tests of this folder: its own broker, its own database, everything through `orderflow up`."""

import signal
from collections.abc import Iterator

import pytest

from tests import stack
from tests.e2e.system import System


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The system, ready, with an assembly time of 1 s and short leases."""
    env = {"ASSEMBLY_DURATION": "1s", "NOTIFICATION_LEASE": "6s", "KAFKA_RETRY_BACKOFF_BASE": "200ms", "LOG_FORMAT": "json"}
    up = stack.Up(tmp_path_factory.mktemp("system"), env)
    found = System(up)
    try:
        up.wait_ready()
        yield found
    finally:
        found.close()
        up.process.stop(signal.SIGINT)
