"""A broker and a database server that speak TLS, one of each for a module."""

from collections.abc import Iterator

import pytest

from tests import guarded, stack
from tests.security import tls


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of an authority that signed nothing here."""
    return str(tls.certified(tmp_path_factory.mktemp("other"), "elsewhere").authority)


@pytest.fixture(scope="module")
def tls_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[guarded.Guarded]:
    """A broker whose users log in over TLS with a password, each with the rights that Terraform gives it."""
    made = tls.certified(tmp_path_factory.mktemp("certificate"), "localhost")
    with guarded.running(tmp_path_factory.mktemp("kafka"), made.both, made.authority) as broker:
        yield broker


@pytest.fixture(scope="module")
def tls_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tls.TlsServer]:
    """A database server that takes nobody without TLS."""
    with stack.running(tls.TlsServer, tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def tls_database(tls_postgres: tls.TlsServer) -> Iterator[stack.TestDatabase]:
    """A fresh, migrated database of it; its DSNs verify the server in full."""
    made = tls_postgres.new_database()
    yield made
    tls_postgres.drop(made)
