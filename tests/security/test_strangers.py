"""Who has no business in the database is not let in, also where no Terraform made it: `orderflow migrate --create-roles` sees to it."""

import secrets
from collections.abc import Iterator

import pytest

from ops import migrations, postgres
from shared import config, connection, errors
from shared.address import Address
from tests import stack


@pytest.fixture(scope="module")
def made(postgres: stack.PostgresServer) -> Iterator[stack.TestDatabase]:
    """A database that was migrated itself, and not cloned: what a role may do with a database is not part of a clone."""
    name = f"test_{secrets.token_hex(6)}"
    postgres.administer(f"CREATE DATABASE {name} OWNER order_user")
    found = stack.TestDatabase(postgres.port, name)
    migrations.upgrade(found.dsn(), create_roles=True)
    yield found
    found.close()
    postgres.administer(f"DROP DATABASE {name} WITH (FORCE)")


def connected(dsn: str) -> connection.Connection:
    return connection.Connection(Address.parse(dsn, config.Settings()), "test")


def test_another_role_of_the_server_is_not_let_in(postgres: stack.PostgresServer, made: stack.TestDatabase) -> None:
    stranger = f"stranger_{secrets.token_hex(6)}"
    postgres.administer(f"CREATE ROLE {stranger} LOGIN PASSWORD 'a-password'")
    try:
        with pytest.raises(errors.Unavailable, match="permission denied for database") as caught:
            connected(dsn_of(made, stranger, "a-password"))
        assert caught.value.code == "permission"
    finally:
        postgres.administer(f"DROP ROLE {stranger}")


def test_a_role_of_ours_is_let_in_and_makes_no_temporary_table(made: stack.TestDatabase) -> None:
    found = connected(made.dsn("orderflow_relay"))
    try:
        assert [[0]] == found.run("SELECT count(*) FROM order_outbox_events", {})
        with pytest.raises(errors.Unavailable, match="permission denied to create temporary tables"):
            found.run("CREATE TEMPORARY TABLE mine ()", {})
    finally:
        found.close()


def test_nobody_has_what_was_not_granted(made: stack.TestDatabase) -> None:
    public = "SELECT acl.privilege_type FROM {} AS of, aclexplode({}) AS acl WHERE acl.grantee = 0 AND {}"
    assert [] == made.run(public.format("pg_database", "of.datacl", "datname = current_database()"))
    assert [] == made.run(public.format("pg_namespace", "of.nspacl", "nspname = 'public'"))


def dsn_of(made: stack.TestDatabase, user: str, password: str) -> str:
    return postgres.dsn(made.port, user, password, made.name)
