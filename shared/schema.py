"""Which migrations of the database this version works with.

`orderflow migrate` notes at the table of migrations which is the newest, and since which a version must be to work with it. Every new
connection of a process looks there first: a version that is older or newer than its database says so, and no event is blamed for it.
"""

import re
from typing import Any, Protocol

from shared import errors

# The newest migration that this version cannot do without. Four digits, so that texts compare as numbers do.
NEEDS = "0003"

NOTED = "SELECT obj_description(to_regclass('alembic_version'), 'pg_class')"  # which every role may ask, and which cannot fail
_NOTE = re.compile(r"at (\d{4}), for versions since (\d{4})")


class _Connection(Protocol):
    def run(self, sql: str, params: dict[str, object]) -> list[list[Any]]: ...


def note(newest: str, since: str) -> str:
    """The note of a database at the migration `newest` that only versions which need `since` or a later one still work with."""
    return f"at {newest}, for versions since {since}"


def newest(noted: str | None) -> str | None:
    """The migration that a note says; None where there is none."""
    found = _NOTE.fullmatch(noted or "")
    return found[1] if found else None


def check(connection: _Connection, needs: str = NEEDS) -> None:
    """Look whether a version that needs the migration `needs` works with this database. Raises Unavailable."""
    [[noted]] = connection.run(NOTED, {})
    found = _NOTE.fullmatch(noted or "")
    if found is None or found[1] < needs:
        there = f"is at migration {found[1]}" if found else "says nothing of its migrations"
        raise errors.Unavailable(f"the database {there}, and this version needs {needs}: run its `orderflow migrate`", code="migration")
    if needs < found[2]:
        raise errors.Unavailable(
            f"the database has given up what versions before migration {found[2]} need, and this one is of {needs}: deploy a later one",
            code="migration",
        )
