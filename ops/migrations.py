"""`orderflow migrate`: the tables, and where Terraform is not used, the roles, in every database that the settings name."""

import base64
import contextlib
import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import alembic.util
import sqlalchemy as sa
import typer
from sqlalchemy.exc import DatabaseError, InterfaceError

from ops import inboxes, migration_steps, roles, terminal
from shared import address, config, errors, topics
from shared.config import Settings

_ALEMBIC = threading.Lock()  # its context is global to the process
_SCRAM_ROUNDS = 4096  # PostgreSQL's own scram_iterations
_MISSING_ROLE = re.compile(r'role "([^"]+)" does not exist')


class MigrationError(errors.OrderflowError):
    """The database cannot be migrated."""

    code = "migration"


def upgrade(
    dsn: str,
    *,
    create_roles: bool = False,
    contract: bool = False,
    tell: migration_steps.Tell = terminal.note,
    lock_tries: int = migration_steps.LOCK_TRIES,
) -> None:
    """Bring the database at `dsn` to the newest migration, each in its own transaction, and make the inboxes that it lacks.

    Run it as often as you like, also two at once, and while everything runs. `create_roles` makes the roles that are missing first.
    A contract step of a database that is in use waits for `contract` (docs/upgrades.md). Raises MigrationError, ConfigError.
    """
    patience = migration_steps.Patience(tell, lock_tries)
    try:
        with _ALEMBIC, _connected(dsn) as connection, migration_steps.alone(connection, tell):
            if create_roles:
                patience.run(connection, "roles", _create_roles)
            left = migration_steps.run(connection, patience, contract=contract)
            patience.run(connection, "inboxes", lambda own: inboxes.make_missing(own, topics.read()))
    except (DatabaseError, InterfaceError, OSError) as exc:
        raise _failure(dsn, exc) from exc
    except alembic.util.CommandError as exc:
        raise MigrationError(f"{where(dsn)} is at a migration that this version does not know, so it is of a newer one: {exc}") from exc
    if left:
        tell(
            f"left for later in {where(dsn)}: {', '.join(left)}. The first takes away what earlier versions need: when none of them runs"
            " any more, and you will not go back to one, run `orderflow migrate --contract`"
        )


def upgrade_all(
    settings: Settings, *, create_roles: bool = False, contract: bool = False, tell: migration_steps.Tell = terminal.note
) -> list[str]:
    """`upgrade` every database that the settings name. Where they lie, without passwords. Raises MigrationError, ConfigError."""
    check(settings)
    found = _databases(settings)
    for dsn in found.values():
        upgrade(dsn, create_roles=create_roles, contract=contract, tell=tell)
    return list(found)


def check(settings: Settings) -> None:
    """Refuse settings by which one would write to an outbox that nobody relays. Raises ConfigError."""
    common = where(settings.postgres_dsn("order"))
    faults = [
        f"{name.upper()}_POSTGRES_DSN: names {where(settings.postgres_dsn(name))}, but ORDER_POSTGRES_DSN names {common}:"
        " the functions that write to the outbox and the relay share one database"
        for name in _outbox_sharers()
        if where(settings.postgres_dsn(name)) != common
    ]
    if faults:
        raise errors.ConfigError(faults)


def _outbox_sharers() -> list[str]:
    """Who writes to the outbox, or reads it. A function whose effect lies outside the database publishes nothing."""
    inside = [consumer.role for _, consumer in topics.read().consumers() if not consumer.leased]
    return list(dict.fromkeys(["order", *inside, "dlq", "relay"]))


def where(dsn: str) -> str:
    """host:port/database of `dsn`; the names of this host count as one. Raises ConfigError."""
    found = _address(dsn)
    host = found.host.lower()
    return f"{'localhost' if host in {'127.0.0.1', '::1'} else host}:{found.port}/{found.database}"


@terminal.failures()
def migrate(
    create_roles: Annotated[bool, typer.Option("--create-roles", help="First make the login roles that are missing.")] = False,
    contract: Annotated[
        bool, typer.Option("--contract", help="Also take away what earlier versions need: none of them may run any more.")
    ] = False,
    dsn: Annotated[str | None, typer.Option(help="Migrate this database only, as its owner. Default: those of the settings.")] = None,
) -> None:
    """Bring the tables up to date, in every database that the settings name, while everything runs."""
    if dsn is None:
        done = upgrade_all(config.load(), create_roles=create_roles, contract=contract)
    else:
        upgrade(dsn, create_roles=create_roles, contract=contract)
        done = [where(dsn)]
    for place in done:
        terminal.say(f"{place} is up to date")


def _databases(settings: Settings) -> dict[str, str]:
    """Each database that the settings name, with the DSN of its owner: where one names a process's role, the orders database's owner."""
    owner = sa.make_url(settings.postgres_dsn("order"))
    owned = {role.name for role in roles.read()}
    found: dict[str, str] = {}
    for consumer in ("order", *settings.postgres_dsns):
        dsn = settings.postgres_dsn(consumer)
        if _address(dsn).user in owned:
            url = sa.make_url(dsn).set(username=owner.username, password=owner.password)
            dsn = url.render_as_string(hide_password=False)
        found.setdefault(where(dsn), dsn)
    return found


@contextlib.contextmanager
def _connected(dsn: str) -> Iterator[sa.Connection]:
    """A connection. A migration may take long, so only connecting is timed."""
    to = _address(dsn)
    to.socket().close()  # the driver has one timeout, for connecting and for every answer; so here, where it has none, ask first
    where_to = {"unix_sock": f"{to.host}/.s.PGSQL.{to.port}"} if to.host.startswith("/") else {"host": to.host, "port": to.port}
    url = sa.URL.create("postgresql+pg8000", to.user, to.password, database=to.database)
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"ssl_context": to.ssl_context, **where_to})
    with engine.connect() as connection:
        yield connection


def _address(dsn: str) -> address.Address:
    return address.Address.parse(dsn, config.load())


def _create_roles(connection: sa.Connection) -> None:
    """Make what is missing, with the right to connect, and take that from everybody else.

    Roles belong to the cluster: a migration of another database may make one first.
    """
    preparer = connection.dialect.identifier_preparer
    database = preparer.quote_identifier(str(connection.scalar(sa.text("SELECT current_database()"))))
    present = set(connection.scalars(sa.text("SELECT rolname FROM pg_roles")))
    for role in sorted(roles.read(), key=lambda role: role.name):
        name = preparer.quote_identifier(role.name)
        if role.name not in present:
            connection.exec_driver_sql(
                f"DO $$ BEGIN CREATE ROLE {name} LOGIN PASSWORD '{_verifier(role.password())}';"
                " EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
            )
        connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {database} TO {name}")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {name}")
    # As Terraform leaves them: everybody else of the server has no connection, no temporary table and no look into the schema.
    connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    connection.exec_driver_sql("REVOKE ALL ON SCHEMA public FROM PUBLIC")


def _verifier(password: str) -> str:
    """What PostgreSQL stores for SCRAM-SHA-256 (RFC 5803); so the password itself reaches no server log."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_SCRAM_ROUNDS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def _failure(dsn: str, exc: DatabaseError | InterfaceError | OSError) -> MigrationError:
    cause = exc if isinstance(exc, OSError) else exc.orig
    facts: Any = cause.args[0] if cause is not None and cause.args else None
    state, message = (facts.get("C"), facts.get("M", "error")) if isinstance(facts, dict) else (None, str(cause))
    missing = _MISSING_ROLE.search(message)
    if state == "42704" and missing:
        return MigrationError(
            f"the role {missing[1]} does not exist in {where(dsn)}: Terraform makes it (infra/terraform),"
            " and where Terraform is not used `orderflow migrate --create-roles` does",
            code="role_missing",
        )
    if state == "55P03":
        return MigrationError(
            f"another transaction has held a table for too long in {where(dsn)}, and nobody is to wait behind this one: by the migration"
            " that needs it nothing was changed; run it again when that transaction has ended (docs/upgrades.md says how to find it)",
            code="locked",
        )
    if state == "42501":
        return MigrationError(
            f"{_address(dsn).user} may not do this in {where(dsn)}: {message}. Migrate as the owner; to make roles it needs CREATEROLE",
            code="permission",
        )
    return MigrationError(f"{where(dsn)} cannot be migrated: {message}{f' ({state})' if state else ''}")
