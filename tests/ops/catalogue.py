"""A database as the version before sees it, and what a migration has taken from that version."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

Run = Callable[[str], list[list[Any]]]

_TABLES = """
    SELECT c.relname, c.relfilenode, c.relrowsecurity FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname <> 'alembic_version'
"""
_COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> ''
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND a.attnum > 0 AND NOT a.attisdropped
"""
# What may refuse a row: checks, keys, references, exclusions; unique indexes that are no constraint; triggers.
_RULES = """
    SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL
    SELECT i.indrelid::regclass::text, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indisunique AND c.relnamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT t.tgrelid::regclass::text, t.tgname::text, pg_get_triggerdef(t.oid)
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND c.relnamespace = 'public'::regnamespace
"""
_RIGHTS = """
    SELECT grantee || ' ' || privilege_type || ' ' || table_name || coalesce('.' || column_name, '') FROM (
        SELECT grantee, privilege_type, table_name, NULL AS column_name FROM information_schema.table_privileges
        UNION ALL SELECT grantee, privilege_type, table_name, column_name FROM information_schema.column_privileges
    ) held WHERE grantee LIKE 'orderflow%'
"""


@dataclass(frozen=True)
class Column:
    """What an INSERT or a SELECT that names it finds."""

    kind: str
    required: bool
    filled: bool  # by itself, where an INSERT leaves it out


@dataclass(frozen=True)
class Catalogue:
    """Tables, columns, rules and rights."""

    tables: Mapping[str, tuple[int, bool]]
    columns: Mapping[tuple[str, str], Column]
    rules: Mapping[tuple[str, str], str]
    rights: frozenset[str]

    @classmethod
    def read(cls, run: Run) -> Self:
        """The catalogue of the database that `run` asks."""
        return cls(
            {name: (file, secured) for name, file, secured in run(_TABLES)},
            {(table, name): Column(*facts) for table, name, *facts in run(_COLUMNS)},
            {(table, name): rule for table, name, rule in run(_RULES)},
            frozenset(right for [right] in run(_RIGHTS)),
        )


def taken(before: Catalogue, after: Catalogue, widened: frozenset[str] = frozenset()) -> list[str]:
    """What the version that works on `before` can no longer do on `after`, in words. Rules in `widened` refuse less than they did."""
    return [*_tables(before, after), *_columns(before, after), *_rules(before, after, widened), *sorted(before.rights - after.rights)]


def _tables(before: Catalogue, after: Catalogue) -> Iterator[str]:
    for table, (file, secured) in before.tables.items():
        if table not in after.tables:
            yield f"{table} is gone"
            continue
        file_after, secured_after = after.tables[table]
        if file_after != file:
            yield f"{table} is written anew, and nobody gets at it meanwhile"
        if secured_after > secured:
            yield f"{table} has row security"


def _columns(before: Catalogue, after: Catalogue) -> Iterator[str]:
    for (table, name), column in before.columns.items():
        now = after.columns.get((table, name))
        if table not in after.tables:
            continue
        if now is None:
            yield f"{table}.{name} is gone"
        elif now.kind != column.kind:
            yield f"{table}.{name} is {now.kind}, and was {column.kind}"
        elif now.required and not column.required:
            yield f"{table}.{name} is NOT NULL"
        elif column.filled and not now.filled:
            yield f"{table}.{name} has lost its default"
    for (table, name), column in after.columns.items():
        if table in before.tables and (table, name) not in before.columns and column.required and not column.filled:
            yield f"{table}.{name} is new, NOT NULL and without a default"


def _rules(before: Catalogue, after: Catalogue, widened: frozenset[str]) -> Iterator[str]:
    for (table, name), rule in after.rules.items():
        if table in before.tables and before.rules.get((table, name)) != rule and name not in widened:
            yield f"{table} has a rule that it had not: {name}: {rule}"
    for (table, name), rule in before.rules.items():
        if table in after.tables and (table, name) not in after.rules and ("UNIQUE" in rule or "PRIMARY KEY" in rule):
            yield f"{table} has lost {name}: {rule}, by which ON CONFLICT tells a repeat"
