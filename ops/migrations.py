"""`orderflow migrate`: the tables, and where Terraform is not used, the roles, in every database that the settings name."""

import base64
import hashlib
import hmac
import os
import re
import secrets
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import alembic.command
import alembic.config
import sqlalchemy as sa
import typer
import yaml
from sqlalchemy.exc import DatabaseError, InterfaceError

from shared import config, errors
from shared.config import Settings

ROOT = Path(__file__).resolve().parent.parent
ROLES = ROOT / "contracts" / "roles.yaml"
MIGRATIONS = ROOT / "infra" / "migrations"
_LOCK = 0x6F72646572666C  # "orderfl": the advisory lock that two migrations of one database meet at
_SCRAM_ROUNDS = 4096  # PostgreSQL's own scram_iterations
_OUTBOX_SHARERS = ("order", "assembly", "dlq", "relay")  # they write to the outbox, or read it
_MISSING_ROLE = re.compile(r'role "([^"]+)" does not exist')


class MigrationError(errors.OrderflowError):
    """The database cannot be migrated."""

    code = "migration"


@dataclass(frozen=True)
class Role:
    """A login role of contracts/roles.yaml."""

    name: str
    consumer: str
    process: str

    def password(self) -> str:
        """<ROLE>_PASSWORD, else the file that <ROLE>_PASSWORD_FILE names, else the local default. Raises ConfigError."""
        setting = f"{self.name.upper()}_PASSWORD"
        path = os.environ.get(f"{setting}_FILE")
        try:
            found = os.environ.get(setting) or (Path(path).read_text(encoding="utf-8").strip() if path else f"{self.name}_password")
        except (OSError, UnicodeDecodeError) as exc:
            raise errors.ConfigError([f"{setting}_FILE: {path} cannot be read: {exc}"]) from exc
        if not found or not found.isascii() or not found.isprintable():
            raise errors.ConfigError([f"{setting}: must be printable ASCII characters"])
        return found


def roles() -> list[Role]:
    """Every login role, from contracts/roles.yaml."""
    return [Role(**row) for row in yaml.safe_load(ROLES.read_text(encoding="utf-8"))["roles"]]


def upgrade(dsn: str, *, create_roles: bool = False) -> None:
    """Bring the database at `dsn` to the newest migration, in one transaction; run it as often as you like, also two at once.

    `create_roles` makes the roles that are missing first. Raises MigrationError, ConfigError.
    """
    engine = sa.create_engine(_url(dsn), poolclass=sa.NullPool, connect_args={"ssl_context": _ssl_context(dsn)})
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            if create_roles:
                _create_roles(connection)
            settings = alembic.config.Config(attributes={"connection": connection})
            settings.set_main_option("script_location", str(MIGRATIONS))
            alembic.command.upgrade(settings, "head")
    except (DatabaseError, InterfaceError) as exc:
        raise _failure(dsn, exc) from exc
    finally:
        engine.dispose()


def upgrade_all(settings: Settings, *, create_roles: bool = False) -> list[str]:
    """`upgrade` every database that the settings name. Where they lie, without passwords. Raises MigrationError, ConfigError."""
    check(settings)
    found = dict(_databases(settings))
    for dsn in found.values():
        upgrade(dsn, create_roles=create_roles)
    return list(found)


def check(settings: Settings) -> None:
    """Refuse settings by which one would write to an outbox that nobody relays. Raises ConfigError."""
    common = where(settings.postgres_dsn("order"))
    faults = [
        f"{name.upper()}_POSTGRES_DSN: names {where(settings.postgres_dsn(name))}, but ORDER_POSTGRES_DSN names {common}:"
        " the functions that write to the outbox and the relay share one database"
        for name in _OUTBOX_SHARERS
        if where(settings.postgres_dsn(name)) != common
    ]
    if faults:
        raise errors.ConfigError(faults)


def where(dsn: str) -> str:
    """host:port/database of `dsn`; the names of this host count as one."""
    parts = urlsplit(dsn)
    host = (parts.hostname or "localhost").lower()
    return f"{'localhost' if host in {'127.0.0.1', '::1'} else host}:{parts.port or 5432}{parts.path}"


def migrate(
    create_roles: Annotated[bool, typer.Option("--create-roles", help="First make the login roles that are missing.")] = False,
    dsn: Annotated[str | None, typer.Option(help="Migrate this database only, as its owner. Default: those of the settings.")] = None,
) -> None:
    """Bring the tables up to date, in every database that the settings name."""
    try:
        if dsn is None:
            done = upgrade_all(config.load(), create_roles=create_roles)
        else:
            upgrade(dsn, create_roles=create_roles)
            done = [where(dsn)]
    except errors.OrderflowError as exc:
        typer.echo(exc.detail, err=True)
        raise typer.Exit(1) from None
    for place in done:
        typer.echo(f"{place} is up to date")


def _databases(settings: Settings) -> Iterator[tuple[str, str]]:
    """Where each database lies, with the DSN of its owner. A process's own role owns nothing: there, the owner is the orders database's."""
    owner = settings.postgres_dsn("order")
    owned = {role.name for role in roles()}
    for consumer in sorted({*settings.postgres_dsns, "order"}, key=lambda name: name == "order"):
        dsn = settings.postgres_dsn(consumer)
        url = sa.make_url(dsn)
        if url.username in owned:
            principal = sa.make_url(owner)
            dsn = url.set(username=principal.username, password=principal.password).render_as_string(hide_password=False)
        yield where(dsn), dsn


def _create_roles(connection: sa.Connection) -> None:
    """Make what is missing, with the right to connect. Roles belong to the cluster: a migration of another database may make one first."""
    preparer = connection.dialect.identifier_preparer
    database = preparer.quote_identifier(str(connection.scalar(sa.text("SELECT current_database()"))))
    present = set(connection.scalars(sa.text("SELECT rolname FROM pg_roles")))
    for role in sorted(roles(), key=lambda role: role.name):
        name = preparer.quote_identifier(role.name)
        if role.name not in present:
            connection.exec_driver_sql(
                f"DO $$ BEGIN CREATE ROLE {name} LOGIN PASSWORD '{_verifier(role.password())}';"
                " EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
            )
        connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {database} TO {name}")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {name}")


def _verifier(password: str) -> str:
    """What PostgreSQL stores for SCRAM-SHA-256 (RFC 5803); so the password itself reaches no server log."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${_SCRAM_ROUNDS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def _url(dsn: str) -> sa.URL:
    try:
        url = sa.make_url(dsn)
    except sa.exc.ArgumentError:
        raise errors.ConfigError(["a POSTGRES_DSN must be postgresql://user:password@host:port/database"]) from None
    return url.set(drivername="postgresql+pg8000", query={})


def _ssl_context(dsn: str) -> ssl.SSLContext | bool:
    query = sa.make_url(dsn).query
    mode, root = str(query.get("sslmode", "disable")), query.get("sslrootcert")
    if mode == "disable":
        return False
    context = ssl.create_default_context(cafile=str(root) if root else None)
    context.check_hostname = mode == "verify-full"
    if mode == "require" and root is None:
        context.verify_mode = ssl.CERT_NONE
    return context


def _failure(dsn: str, exc: DatabaseError | InterfaceError) -> MigrationError:
    facts: Any = exc.orig.args[0] if exc.orig is not None and exc.orig.args else {}
    state, message = (facts.get("C"), facts.get("M", "error")) if isinstance(facts, dict) else (None, str(exc.orig))
    missing = _MISSING_ROLE.search(message)
    if state == "42704" and missing:
        return MigrationError(
            f"the role {missing[1]} does not exist in {where(dsn)}: Terraform makes it (infra/terraform),"
            " and where Terraform is not used `orderflow migrate --create-roles` does",
            code="role_missing",
        )
    if state == "42501":
        user = sa.make_url(dsn).username
        return MigrationError(f"{user} may not do this in {where(dsn)}: {message}. Migrate as the owner; to make roles it needs CREATEROLE")
    return MigrationError(f"{where(dsn)} cannot be migrated: {message} ({state or type(exc.orig).__name__})")
