"""What the commands' tests share."""

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def unused_address() -> Iterator[str]:
    """host:port where nothing answers: the port is held, and nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"
