"""What each login role may do in PostgreSQL, column by column, and that it may do nothing else.

That its grants are enough for its process is shown where the process runs under it: tests/functions (each function), tests/relay,
tests/dlq/test_parking.py (parking), tests/dlq/test_index.py (the index of letters).
"""

from collections.abc import Iterator

import pytest

from ops import roles
from shared import config, connection, errors, topics
from shared.address import Address
from tests import stack

# Nothing of what an open letter says: only whether there is one, and whether a run is at it.
_PARKING = {
    "dlq_letters": "SELECT(consumer event_id event_type failed_at letter_id letter_key order_id parent_letter_id state)",
    "dlq_runs": "SELECT(run_id state target)",
    "dlq_run_items": "SELECT(consumer letter_id open run_id status)",
    "parked_events": "SELECT INSERT UPDATE(state)",
}
_WALK = {"removal_walks": "SELECT UPDATE(last_oldest_at next_page oldest_at turn_at)"}
_STAGE = {"order_outbox_events": "SELECT(event_id) INSERT"}
# All of it: what is not here is refused.
ALLOWED = {
    "orderflow_orders": {
        "orders": "SELECT INSERT", "order_items": "SELECT INSERT", "order_idempotency_keys": "SELECT INSERT UPDATE DELETE", **_STAGE,
    },
    "orderflow_order": {"order_inbox_events": "SELECT INSERT DELETE", "orders": "SELECT UPDATE(status)", **_PARKING, **_WALK},
    "orderflow_assembly": {"assembly_inbox_events": "SELECT INSERT DELETE", **_STAGE, **_PARKING, **_WALK},
    "orderflow_notification": {"notification_inbox_events": "SELECT INSERT UPDATE DELETE", **_PARKING, **_WALK},
    "orderflow_dlq": {
        **_STAGE, "dlq_letters": "SELECT INSERT UPDATE", "dlq_history": "SELECT INSERT",
        **dict.fromkeys(("dlq_positions", "dlq_runs", "dlq_run_items", "parked_events"), "SELECT"),
    },
    "orderflow_relay": {"order_outbox_events": "SELECT UPDATE(attempts last_error sent_at status) DELETE", **_WALK},
}  # fmt: skip
# A later consumer's follow from its row in topics.yaml; one that has more, by a migration of its own, stands above.
for _, _consumer in topics.read().consumers():
    ALLOWED.setdefault(_consumer.login, {_consumer.inbox: f"SELECT INSERT{' UPDATE' * _consumer.leased} DELETE", **_PARKING, **_WALK})
# Rights are checked before anything is done or shown, so nothing has to be there for these and nothing happens.
_BY_COLUMN = {
    "SELECT": "EXPLAIN SELECT {column} FROM {table}",
    "INSERT": "EXPLAIN INSERT INTO {table} ({column}) VALUES (DEFAULT)",
    "UPDATE": "EXPLAIN UPDATE {table} SET {column} = DEFAULT",
}
_BY_TABLE = {"DELETE": "EXPLAIN DELETE FROM {table}", "TRUNCATE": "TRUNCATE {table}"}
REFUSED = [
    "CREATE TABLE mine ()",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE EXTENSION vector",
    "CREATE DATABASE mine",
    "CREATE ROLE mine",
    "CREATE INDEX ON orders (user_id)",
    "CREATE TRIGGER mine BEFORE INSERT ON order_inbox_events EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "ALTER TABLE orders ADD COLUMN mine text",
    "ALTER TABLE order_inbox_events OWNER TO CURRENT_USER",
    "DROP TABLE order_inbox_events",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "SET ROLE order_user",
    "SET SESSION AUTHORIZATION order_user",
    "ALTER SYSTEM SET fsync = off",
    "SELECT nextval('order_outbox_events_seq_seq')",
    "SELECT * FROM elsewhere.secrets",
    "SELECT rolpassword FROM pg_authid",
    "SELECT passwd FROM pg_shadow",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_ls_dir('/')",
    "SELECT lo_import('/etc/passwd')",
    "COPY (SELECT 1) TO '/tmp/mine'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'order_user' AND datname = current_database()",
]
NAMES = sorted(ALLOWED)


@pytest.fixture(scope="module")
def migrated(postgres: stack.PostgresServer) -> Iterator[stack.TestDatabase]:
    """A database with a schema that is not ours, and with its owner connected."""
    made = postgres.new_database()
    made.run("CREATE SCHEMA elsewhere")
    made.run("CREATE TABLE elsewhere.secrets ()")
    yield made
    postgres.drop(made)


@pytest.fixture(scope="module")
def columns(migrated: stack.TestDatabase) -> dict[str, list[str]]:
    """Every table, with its columns."""
    found: dict[str, list[str]] = {}
    sql = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
    for table, column in migrated.run(sql):
        found.setdefault(table, []).append(column)
    return found


@pytest.fixture(params=NAMES)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def connected(migrated: stack.TestDatabase, role: str) -> Iterator[connection.Connection]:
    """A connection as the role, each statement committed by itself."""
    made = connection.Connection(Address.parse(migrated.dsn(role), config.Settings()), "test")
    yield made
    made.close()


def may(connected: connection.Connection, sql: str) -> bool:
    """Whether it is not refused. Fails the test with any other error."""
    try:
        connected.run(sql, {})
    except errors.Unavailable as exc:
        if exc.code != "permission":
            raise
        return False
    return True


def rights(connected: connection.Connection, table: str, columns: list[str]) -> str:
    """What may be done with a table, as in ALLOWED; empty for nothing."""
    found = []
    for word, sql in _BY_COLUMN.items():
        theirs = [column for column in columns if may(connected, sql.format(table=table, column=f'"{column}"'))]
        found += [word if theirs == columns else f"{word}({' '.join(theirs)})"] if theirs else []
    return " ".join(found + [word for word, sql in _BY_TABLE.items() if may(connected, sql.format(table=table))])


def test_every_role_is_here() -> None:
    assert {role.name for role in roles.read()} == set(ALLOWED)


def test_a_role_may_do_with_each_table_what_the_list_says_and_no_more(
    role: str, connected: connection.Connection, columns: dict[str, list[str]]
) -> None:
    assert ALLOWED[role].keys() <= columns.keys()
    wanted = {table: ALLOWED[role].get(table, "") for table in columns}

    assert wanted == {table: rights(connected, table, names) for table, names in columns.items()}


def test_a_role_may_neither_make_nor_change_nor_read_anything_else(connected: connection.Connection) -> None:
    assert [] == [sql for sql in REFUSED if may(connected, sql)]


def test_no_role_is_more_than_a_login_or_can_pass_on_what_it_may(migrated: stack.TestDatabase) -> None:
    attributes = "rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls"
    plain = [False, True, False, False, False, False]
    assert [plain] * len(NAMES) == migrated.run(f"SELECT {attributes} FROM pg_roles WHERE rolname = ANY(:names)", names=NAMES)
    grantable = "SELECT count(*) FROM information_schema.{} WHERE is_grantable = 'YES' AND grantee = ANY(:names)"
    assert [[[0]]] * 2 == [migrated.run(grantable.format(of), names=NAMES) for of in ("table_privileges", "column_privileges")]
