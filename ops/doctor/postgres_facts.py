"""Facts from PostgreSQL: of each database that the settings name, what its catalogue tells and any role may read."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import alembic.config
from alembic.script import ScriptDirectory

from ops import migration_steps, migrations, roles
from ops.doctor import tables
from ops.doctor.facts import Clock, Facts, Index, Letters, Outbox, Right, Step
from shared import errors, schema
from shared.config import Settings
from shared.database import Database
from shared.topics import Catalogue

_SERVER = """
SELECT name, setting FROM pg_settings UNION ALL SELECT 'in_recovery', CASE WHEN pg_is_in_recovery() THEN 'on' ELSE 'off' END
"""
_ROLES = """
SELECT coalesce(r.rolname, 'database ' || d.datname), split_part(c, '=', 1), split_part(c, '=', 2)
FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole LEFT JOIN pg_database AS d ON d.oid = s.setdatabase,
     unnest(s.setconfig) AS c
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
_INDEXES = """
SELECT t.relname, i.relname, x.indisunique AND x.indpred IS NULL, x.indisvalid AND x.indisready,
       array(SELECT coalesce(a.attname, '(an expression)') FROM unnest(x.indkey) WITH ORDINALITY AS k(n, at)
             LEFT JOIN pg_attribute AS a ON a.attrelid = x.indrelid AND a.attnum = k.n WHERE k.at <= x.indnkeyatts ORDER BY k.at)
FROM pg_index AS x JOIN pg_class AS t ON t.oid = x.indrelid JOIN pg_class AS i ON i.oid = x.indexrelid
WHERE t.relnamespace = current_schema()::regnamespace
"""
_LOGINS = "SELECT rolname FROM pg_roles WHERE rolcanlogin"
# A table, a column or a role that is missing has a finding of its own.
_RIGHTS = """
SELECT w.role, w.tab, w.privilege, w.col
FROM unnest(:roles::text[], :tables::text[], :privileges::text[], :columns::text[]) AS w(role, tab, privilege, col)
JOIN pg_roles AS r ON r.rolname = w.role
WHERE to_regclass(quote_ident(w.tab)) IS NOT NULL AND NOT CASE WHEN w.col = ''
    THEN has_table_privilege(w.role, quote_ident(w.tab), w.privilege)
    ELSE has_column_privilege(w.role, quote_ident(w.tab), w.col, w.privilege) END
"""
_OUTBOX = """
SELECT count(*) FILTER (WHERE status = 'failed'),
       greatest(0, coalesce(extract(epoch FROM clock_timestamp() - min(due_at) FILTER (WHERE status = 'pending')), 0))::float8
FROM order_outbox_events WHERE status IN ('pending', 'failed')
"""
_LETTERS = """
SELECT coalesce(dlq_topic, '?'), count(*), extract(epoch FROM clock_timestamp() - min(last_failed_at))::float8
FROM dlq_letters WHERE state = 'open' GROUP BY 1
"""
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_ONCE = ("outbox", "letters")
_BY_PLACE = ("server_settings", "role_settings", "revisions", "tables", "indexes", "roles", "lacking", "clocks")


def placed(settings: Settings) -> dict[str, str]:
    """Where each process's tables are: host:port/database by the prefix of its DSN. Raises ConfigError."""
    return {role: migrations.where(settings.postgres_dsn(role)) for role in dict.fromkeys(role.consumer for role in roles.read())}


def with_postgres(facts: Facts, settings: Settings, catalogue: Catalogue, placed: Mapping[str, str]) -> Facts:
    """`facts`, and what every database says; `placed` is where each process's tables are. Never raises."""
    found: dict[str, dict[str, Any]] = {field: {} for field in (*_BY_PLACE, *_ONCE)}
    left = dict(facts.left)
    for place in dict.fromkeys(placed.values()):
        role = next(role for role, of in placed.items() if of == place)
        # Whatever migration it is at: nothing here depends on one.
        base = Database(settings.postgres_dsn(role), settings=settings, application="orderflow-doctor")
        with contextlib.closing(base):
            here = _Here(base, place, tables.rights(catalogue, placed, place))
            for field, ask in here.questions(outbox=place == placed["order"], letters=place == placed["dlq"]).items():
                try:
                    found[field][place] = ask()
                except errors.OrderflowError as exc:
                    left[field] = f"{place}: {exc.detail}"
    once = {field: next(iter(found.pop(field).values()), None) for field in _ONCE}
    clocks = [*(facts.clocks or ()), *found.pop("clocks").values()]
    return facts.with_(left=left, steps=_steps(), clocks=clocks, **{field: values or None for field, values in found.items()}, **once)


class _Here:
    """One database, and what is asked there. Every question may raise Unavailable."""

    def __init__(self, base: Database, place: str, needed: Sequence[Right]) -> None:
        self._base, self._place, self._needed = base, place, needed

    def questions(self, *, outbox: bool, letters: bool) -> dict[str, Callable[[], object]]:
        """By the field of Facts."""
        found: dict[str, Callable[[], object]] = {name: getattr(self, f"_{name}") for name in _BY_PLACE}
        return found | ({"outbox": self._outbox} if outbox else {}) | ({"letters": self._letters} if letters else {})

    def _rows(self, sql: str, **params: object) -> list[list[Any]]:
        return self._base.transact(lambda tx: tx.run(sql, **params))

    def _clocks(self) -> Clock:
        """The quickest of a few answers tells most."""
        looks = []
        for _ in range(5):
            before = time.time()
            (([theirs],),) = (self._rows(_NOW),)
            after = time.time()
            looks.append(Clock(f"PostgreSQL at {self._place}", float(theirs) - (before + after) / 2, (after - before) / 2))
        return min(looks, key=lambda look: look.within_s)

    def _server_settings(self) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._rows(_SERVER)}

    def _role_settings(self) -> list[tuple[str, str, str]]:
        return [(str(who), str(name), str(value)) for who, name, value in self._rows(_ROLES)]

    def _revisions(self) -> str | None:
        [[noted]] = self._rows(schema.NOTED)
        return schema.newest(noted)

    def _tables(self) -> frozenset[str]:
        return frozenset(str(name) for (name,) in self._rows(_TABLES))

    def _indexes(self) -> list[Index]:
        return [
            Index(str(table), str(name), tuple(map(str, columns)), unique=bool(unique), valid=bool(valid))
            for table, name, unique, valid, columns in self._rows(_INDEXES)
        ]

    def _roles(self) -> frozenset[str]:
        return frozenset(str(name) for (name,) in self._rows(_LOGINS))

    def _lacking(self) -> list[Right]:
        columns = {
            "roles": [right.role for right in self._needed],
            "tables": [right.table for right in self._needed],
            "privileges": [right.privilege for right in self._needed],
            "columns": [right.column for right in self._needed],
        }
        return [Right(*map(str, row)) for row in self._rows(_RIGHTS, **columns)]

    def _outbox(self) -> Outbox:
        [[set_aside, oldest_due_s]] = self._rows(_OUTBOX)
        return Outbox(int(set_aside), float(oldest_due_s))

    def _letters(self) -> list[Letters]:
        return [Letters(str(topic), int(count), float(oldest_s)) for topic, count, oldest_s in self._rows(_LETTERS)]


def _steps() -> list[Step]:
    """The migrations of this version, first to last."""
    settings = alembic.config.Config()
    settings.set_main_option("script_location", str(migration_steps.MIGRATIONS))
    known = list(ScriptDirectory.from_config(settings).walk_revisions())[::-1]
    return [Step(script.revision, contract=migration_steps.contracts(script) is not None) for script in known]
