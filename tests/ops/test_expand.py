"""Each migration leaves the version before it all that it works with; what takes something away says so, and waits (docs/upgrades.md)."""

from collections.abc import Iterator
from contextlib import ExitStack

import alembic.command
import alembic.config
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from functions.orders import idempotency
from ops import migration_steps
from shared import config, schema
from shared.database import Database, Transaction
from tests import stack
from tests.ops.catalogue import Catalogue, taken

SCRIPTS = list(ScriptDirectory(str(migration_steps.MIGRATIONS)).walk_revisions())[::-1]
NUMBERS = [script.revision for script in SCRIPTS]
TAKES_AWAY = {
    "DROP TABLE order_items": ["order_items is gone"],
    "ALTER TABLE order_items RENAME TO items": ["order_items is gone"],
    "ALTER TABLE orders DROP COLUMN user_id": ["orders.user_id is gone"],
    "ALTER TABLE orders RENAME COLUMN user_id TO customer": [
        "orders.user_id is gone",
        "orders.customer is new, NOT NULL and without a default",
    ],
    "ALTER TABLE orders ADD COLUMN channel text NOT NULL": ["orders.channel is new, NOT NULL and without a default"],
    "ALTER TABLE order_outbox_events ALTER COLUMN last_error SET NOT NULL": ["order_outbox_events.last_error is NOT NULL"],
    "ALTER TABLE orders ALTER COLUMN created_at DROP DEFAULT": ["orders.created_at has lost its default"],
    "ALTER TABLE orders ALTER COLUMN user_id TYPE varchar(9)": [
        "orders is written anew, and nobody gets at it meanwhile",
        "orders.user_id is character varying(9), and was text",
    ],
    "ALTER TABLE orders ADD COLUMN noted_at timestamptz DEFAULT clock_timestamp()": [
        "orders is written anew, and nobody gets at it meanwhile"
    ],
    "ALTER TABLE orders ADD CHECK (user_id <> '')": [
        "orders has a rule that it had not: orders_user_id_check: CHECK ((user_id <> ''::text))"
    ],
    "CREATE UNIQUE INDEX one_order ON orders (user_id)": [
        "orders has a rule that it had not: one_order: CREATE UNIQUE INDEX one_order ON public.orders USING btree (user_id)"
    ],
    "ALTER TABLE order_inbox_events DROP CONSTRAINT order_inbox_events_pkey": [
        "order_inbox_events has lost order_inbox_events_pkey: PRIMARY KEY (event_id), by which ON CONFLICT tells a repeat"
    ],
    "ALTER TABLE orders ENABLE ROW LEVEL SECURITY": ["orders has row security"],
    "REVOKE INSERT ON order_items FROM orderflow_orders": ["orderflow_orders INSERT order_items"],
}
ONLY_ADDS = (
    "ALTER TABLE orders ADD COLUMN channel text",
    "ALTER TABLE orders ADD COLUMN channel text NOT NULL DEFAULT 'web'",
    "ALTER TABLE order_outbox_events ALTER COLUMN topic DROP NOT NULL",
    "ALTER TABLE orders DROP CONSTRAINT orders_status_check",
    "CREATE TABLE shipments (order_id text PRIMARY KEY)",
    "CREATE INDEX orders_by_status ON orders (status)",
    "GRANT SELECT ON orders TO orderflow_assembly",
)


@pytest.fixture
def session(database: stack.TestDatabase) -> Iterator[Transaction]:
    """A connection of the owner's, in a transaction that comes to nothing."""
    with ExitStack() as at_end:
        owner = Database(database.dsn(), settings=config.Settings(), application="test")
        at_end.callback(owner.close)
        found = at_end.enter_context(owner.session())
        found.run("BEGIN")
        yield found


@pytest.mark.parametrize("change", TAKES_AWAY)
def test_what_takes_something_away_is_noticed(session: Transaction, change: str) -> None:
    before = Catalogue.read(session.run)
    session.run(change)
    found = taken(before, Catalogue.read(session.run))
    assert set(TAKES_AWAY[change]) <= set(found)


@pytest.mark.parametrize("change", ONLY_ADDS)
def test_what_only_adds_may_be_done(session: Transaction, change: str) -> None:
    before = Catalogue.read(session.run)
    session.run(change)
    assert taken(before, Catalogue.read(session.run)) == []


def test_a_rule_that_refuses_less_than_before_has_to_be_named(session: Transaction) -> None:
    before = Catalogue.read(session.run)
    session.run("ALTER TABLE orders DROP CONSTRAINT orders_status_check")
    session.run("ALTER TABLE orders ADD CONSTRAINT orders_status_check CHECK (status IN ('paid', 'assembled', 'shipped'))")
    after = Catalogue.read(session.run)
    assert len(taken(before, after)) == 1
    assert taken(before, after, frozenset({"orders_status_check"})) == []


def test_every_migration_leaves_the_version_before_it_what_it_works_with(database: stack.TestDatabase) -> None:
    """One after another, from nothing. A contract step may take away; a rule that refuses less than before stands in `widens`."""
    database.run("DROP SCHEMA public CASCADE")
    database.run("CREATE SCHEMA public")
    engine = sa.create_engine(sa.make_url(database.dsn()).set(drivername="postgresql+pg8000"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        settings = alembic.config.Config(attributes={"connection": connection})
        settings.set_main_option("script_location", str(migration_steps.MIGRATIONS))
        before = Catalogue.read(database.run)
        for script in SCRIPTS:
            with connection.begin():
                alembic.command.upgrade(settings, script.revision)
            after = Catalogue.read(database.run)
            if not migration_steps.contracts(script):
                assert taken(before, after, frozenset(getattr(script.module, "widens", ()))) == [], script.doc
            before = after


def test_numbers_have_four_digits_and_follow_each_other() -> None:
    """Texts compare as numbers then, in every process that asks whether its database is new enough."""
    assert NUMBERS == [f"{n:04}" for n in range(1, len(NUMBERS) + 1)]


def test_this_version_needs_a_migration_that_is_here_and_that_takes_nothing_away() -> None:
    [needed] = [script for script in SCRIPTS if script.revision == schema.NEEDS]
    assert migration_steps.contracts(needed) is None


def test_a_contract_step_names_a_migration_before_it_that_this_version_has_behind_it() -> None:
    named = {script.revision: migration_steps.contracts(script) for script in SCRIPTS}
    astray = {own: first for own, first in named.items() if first and not (first in NUMBERS and first < own and first <= schema.NEEDS)}
    assert astray == {}


def test_a_migration_lets_go_of_a_lock_before_an_order_that_waits_behind_it_is_refused() -> None:
    assert migration_steps.LOCK_TIMEOUT_S < idempotency.WAIT_S
