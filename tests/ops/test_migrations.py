"""The tables, the roles and what each role may do."""

import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import typer
from pydantic import SecretStr

from ops import child, home, migrations, postgres, roles
from shared import config, database, errors, topics
from shared.database import Database
from tests import stack
from tests.ops import commands

UPGRADE = "import sys; from ops import migrations; migrations.upgrade(sys.argv[1], create_roles=True)"
TABLES = {
    "assembly_inbox_events",
    "dlq_history",
    "dlq_letters",
    "dlq_positions",
    "dlq_run_items",
    "dlq_runs",
    "notification_inbox_events",
    "order_idempotency_keys",
    "order_inbox_events",
    "order_items",
    "order_outbox_events",
    "orders",
    "parked_events",
    "removal_walks",
}
# What a role's SQL needs, and one thing each that is not its own. `{id}` is new each time.
INBOX = """INSERT INTO {0}_inbox_events (event_id, event_type, occurred_at, order_id) VALUES ('{{id}}', 't', now(), 'o')
           ON CONFLICT (event_id) DO NOTHING RETURNING event_id"""
OUTBOX = """INSERT INTO order_outbox_events (event_id, event_type, occurred_at, aggregate_id, payload, topic, producer)
            VALUES ('{id}', 't', now(), 'o', '', 't', 'p') ON CONFLICT (event_id) DO NOTHING"""
LETTER = """INSERT INTO dlq_letters
                (letter_id, consumer, topic, reason, error_code, error_message, fingerprint, failed_at, last_failed_at, value)
            VALUES ('{id}', 'c', 't', 'refused', 'e', '', 'f', now(), now(), '') ON CONFLICT (letter_id) DO NOTHING RETURNING letter_id"""
PARKED = """INSERT INTO parked_events (consumer, letter_key, event_id, event_type, order_id, occurred_at, payload)
            SELECT 'c', 'k', '{id}', 't', 'o', now(), '' WHERE NOT EXISTS (
                SELECT FROM dlq_letters WHERE consumer = 'c' AND letter_key = 'k' AND state = 'open') ON CONFLICT DO NOTHING"""
HISTORY = "INSERT INTO dlq_history (letter_id, at, what, who) VALUES ('{id}', now(), 'failed again', 'dlq_router')"
WALK = "UPDATE removal_walks SET turn_at = now(), next_page = 0, oldest_at = NULL WHERE table_name = 'x'"
ORDER = "INSERT INTO orders (id, user_id, status) VALUES ('{id}', 'u', 'paid')"
CLAIMED = """INSERT INTO notification_inbox_events AS n (event_id, event_type, occurred_at, order_id, status)
             VALUES ('{id}', 't', now(), 'o', 'claimed')
             ON CONFLICT (event_id) DO UPDATE SET attempts = n.attempts + 1 RETURNING event_id"""
ALLOWED = {
    "orderflow_orders": [ORDER, "SELECT * FROM orders JOIN order_items ON order_id = id", "DELETE FROM order_idempotency_keys", OUTBOX],
    "orderflow_order": [
        INBOX.format("order"),
        "UPDATE orders SET status = 'assembled' WHERE id = ANY('{}') AND status = 'paid'",
        PARKED,
        "DELETE FROM order_inbox_events",
        WALK,
    ],
    "orderflow_assembly": [INBOX.format("assembly"), OUTBOX, PARKED, "DELETE FROM assembly_inbox_events", WALK],
    "orderflow_notification": [
        CLAIMED,
        "UPDATE notification_inbox_events SET status = 'sent', processed_at = now()",
        PARKED,
        "DELETE FROM notification_inbox_events",
        WALK,
    ],
    "orderflow_dlq": [OUTBOX, LETTER, HISTORY, "UPDATE dlq_letters SET times = times + 1", "SELECT count(*) FROM parked_events"],
    "orderflow_relay": [
        "SELECT payload FROM order_outbox_events FOR UPDATE SKIP LOCKED",
        "UPDATE order_outbox_events SET status = 'sent'",
        "DELETE FROM order_outbox_events",
        WALK,
    ],
}
REFUSED = {
    "orderflow_orders": [INBOX.format("order"), LETTER, "UPDATE orders SET status = 'paid'", "SELECT payload FROM order_outbox_events"],
    "orderflow_order": [ORDER, "UPDATE orders SET user_id = 'x'", "SELECT * FROM order_items", OUTBOX, "SELECT value FROM dlq_letters"],
    "orderflow_assembly": ["SELECT * FROM orders", "UPDATE order_outbox_events SET status = 'sent'", INBOX.format("order")],
    "orderflow_notification": ["SELECT * FROM orders", OUTBOX, "DELETE FROM order_inbox_events"],
    "orderflow_dlq": [
        "SELECT payload FROM order_outbox_events",
        "SELECT * FROM notification_inbox_events",
        "DELETE FROM order_outbox_events",
        "DELETE FROM dlq_letters",
        "DELETE FROM dlq_history",
    ],
    "orderflow_relay": [OUTBOX, "DELETE FROM order_inbox_events", "UPDATE order_outbox_events SET payload = ''", "SELECT * FROM orders"],
}


def _tables(made: stack.TestDatabase) -> set[str]:
    """Its tables, without the inboxes that only follow from a row of topics.yaml."""
    found = {row[0] for row in made.run("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'")}
    return found - ({consumer.inbox for _, consumer in topics.read().consumers()} - TABLES)


def _settings(**dsns: str) -> config.Settings:
    return config.Settings(postgres_dsns={name: SecretStr(dsn) for name, dsn in dsns.items()})


def _run(sql: str, tx: database.Transaction) -> None:
    tx.run(sql)


def _as(made: stack.TestDatabase, role: str, statements: Sequence[str]) -> None:
    own = database.Database(made.dsn(role), settings=config.Settings(), application="test")
    try:
        for n, statement in enumerate(statements):
            own.transact(functools.partial(_run, statement.replace("{id}", f"{role}-{n}")))
    finally:
        own.close()


def test_a_migrated_database_has_every_table_and_a_repeat_changes_nothing(database: stack.TestDatabase) -> None:
    """Migrating again leaves tables and rows as they are."""
    assert _tables(database) == TABLES
    database.run("INSERT INTO orders (id, user_id, status) VALUES ('o', 'u', 'paid')")
    migrations.upgrade(database.dsn())
    migrations.upgrade(database.dsn(), create_roles=True)
    assert _tables(database) == TABLES
    assert database.run("SELECT id FROM orders") == [["o"]]
    assert database.run("SELECT version_num FROM alembic_version") == [["0003"]]


def test_a_missing_role_is_named_with_the_ways_to_make_it(private_postgres: Callable[..., stack.PostgresServer]) -> None:
    """On a cluster without roles a migration says which is missing, that Terraform makes it, and which command does; nothing is left."""
    server = private_postgres()
    dsn = postgres.dsn(server.port, postgres.OWNER, postgres.OWNER_PASSWORD)
    with pytest.raises(migrations.MigrationError, match=r"role orderflow_\w+ does not exist.*Terraform.*orderflow migrate --create-roles"):
        migrations.upgrade(dsn)
    made = stack.TestDatabase(server.port, postgres.DATABASE)
    assert _tables(made) == set()
    migrations.upgrade(dsn, create_roles=True)
    assert _tables(made) == TABLES
    made.close()


def test_migrations_at_once_do_not_meet(private_postgres: Callable[..., stack.PostgresServer]) -> None:
    """Four at once, two of them in another database of a cluster without roles: all succeed, and the roles are there once."""
    server = private_postgres()
    first = stack.TestDatabase(server.port, postgres.DATABASE)
    server._server.run("CREATE DATABASE second OWNER order_user")
    second = stack.TestDatabase(server.port, "second")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, made.dsn()], cwd=home.CHECKOUT, env=child.environment(), stderr=subprocess.PIPE, text=True
        )
        for made in (first, second, first, second)
    ]
    ended = [(process.communicate(timeout=60)[1], process.returncode) for process in started]
    waits = "another migration of this database runs: waiting for its end\n"
    assert [(said.replace(waits, ""), code) for said, code in ended] == [("", 0)] * 4
    assert _tables(first) == _tables(second) == TABLES
    _as(second, "orderflow_dlq", ALLOWED["orderflow_dlq"])
    first.close()
    second.close()


@pytest.mark.parametrize("role", sorted(ALLOWED))
def test_a_role_may_do_its_own_work_and_no_other(database: stack.TestDatabase, role: str) -> None:
    """Every statement of a role's process works, and what belongs to another is refused."""
    _as(database, role, ALLOWED[role])
    for statement in REFUSED[role]:
        with pytest.raises(errors.Unavailable, match="permission denied"):
            _as(database, role, [statement])


def test_every_role_is_tried() -> None:
    """The table above has each role, but for those of consumers whose rights follow from their row alone."""
    made_by_migrations = {f"orderflow_{table.removesuffix('_inbox_events')}" for table in TABLES if table.endswith("_inbox_events")}
    without_inbox = {role.name for role in roles.read() if role.process not in {of.function for _, of in topics.read().consumers()}}
    assert made_by_migrations | without_inbox == set(ALLOWED) == set(REFUSED)


@pytest.mark.parametrize("consumer", ["assembly", "notification"])
def test_an_inbox_that_no_migration_made_is_like_those_that_one_did(database: stack.TestDatabase, consumer: str) -> None:
    """Columns, keys, indexes and rights are the same, down to what parking asks; and the role is refused what others are."""
    inbox, role = f"{consumer}_inbox_events", f"orderflow_{consumer}"
    rights = (
        f"SELECT table_name, column_name, privilege_type FROM information_schema.column_privileges WHERE grantee = '{role}' ORDER BY 1,2,3"
    )
    looks = (
        "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns"
        f" WHERE table_name = '{inbox}' ORDER BY ordinal_position",
        f"SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{inbox}'::regclass ORDER BY 1",
        f"SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '{inbox}' ORDER BY 1",
        f"SELECT relacl::text, reloptions FROM pg_class WHERE oid = '{inbox}'::regclass",
        rights,
    )
    before = [database.run(look) for look in looks]
    database.run(f"DROP TABLE {inbox}")
    database.run(f"REVOKE ALL ON dlq_letters, dlq_runs, dlq_run_items, parked_events, removal_walks FROM {role}")
    lost = database.run(rights)
    migrations.upgrade(database.dsn())
    after = [database.run(look) for look in looks]
    assert before == after
    assert lost != after[-1]
    _as(database, role, [statement for statement in ALLOWED[role] if statement != OUTBOX])
    for statement in REFUSED[role]:
        with pytest.raises(errors.Unavailable, match="permission denied"):
            _as(database, role, [statement])


def test_an_inbox_that_was_made_before_gets_what_removal_needs(database: stack.TestDatabase) -> None:
    """A later consumer's inbox, at the version that knew no removal, is treated as the others are: by its table and not by a list."""
    looks = (
        "SELECT indexname FROM pg_indexes WHERE tablename = 'review_inbox_events' ORDER BY 1",
        "SELECT reloptions FROM pg_class WHERE relname = 'review_inbox_events'",
        "SELECT table_name FROM removal_walks WHERE table_name = 'review_inbox_events'",
        "SELECT privilege_type FROM information_schema.table_privileges"
        " WHERE table_name = 'review_inbox_events' AND grantee = 'orderflow_review' ORDER BY 1",
    )
    database.run("DO $$ BEGIN CREATE ROLE orderflow_review; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    database.run("CREATE TABLE review_inbox_events (LIKE assembly_inbox_events INCLUDING ALL)")
    _before_removal(database)
    database.run("CREATE INDEX review_inbox_events_received ON review_inbox_events (received_at)")
    database.run("GRANT SELECT, INSERT ON review_inbox_events TO orderflow_review")

    migrations.upgrade(database.dsn())

    options = ["autovacuum_vacuum_scale_factor=0.02", "autovacuum_analyze_scale_factor=0.05", "vacuum_truncate=off"]
    assert [
        [["review_inbox_events_pkey"]], [[options]], [["review_inbox_events"]], [["DELETE"], ["INSERT"], ["SELECT"]],
    ] == [database.run(look) for look in looks]  # fmt: skip


def test_a_migration_that_would_hold_up_deliveries_fails_and_changes_nothing(database: stack.TestDatabase) -> None:
    """A long transaction has an inbox: nobody queues up behind the migration for longer than its lock timeout, and it can be run again."""
    _before_removal(database)
    reader = Database(database.dsn(), settings=config.Settings(), application="test")
    with reader.session() as held:
        held.run("BEGIN")
        held.run("SELECT count(*) FROM order_inbox_events")
        with pytest.raises(migrations.MigrationError, match=r"another transaction has held a table for too long.*nothing was changed"):
            migrations.upgrade(database.dsn(), lock_tries=1)
        assert "removal_walks" not in _tables(database)
    reader.close()

    migrations.upgrade(database.dsn())

    assert _tables(database) == TABLES


def test_an_order_is_updated_on_its_page(database: stack.TestDatabase) -> None:
    """No index hears of it when orders that were placed together are assembled together."""
    database.run("INSERT INTO orders (id, user_id, status) SELECT n, 'u', 'paid' FROM generate_series(1, 5000) AS n")
    database.run("UPDATE orders SET status = 'assembled'")

    def heard() -> list[list[int]]:
        database.run("SELECT pg_stat_force_next_flush()")
        return database.run("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'orders' AND n_tup_upd > 0")

    [[updated, on_page]] = stack.eventually(heard, "the statistics")
    assert (5000, 5000) == (updated, on_page)


def _before_removal(made: stack.TestDatabase) -> None:
    """Take the newest migration back, as far as its own tests need it."""
    for inbox in ("assembly", "notification", "order"):
        made.run(f"CREATE INDEX {inbox}_inbox_events_received ON {inbox}_inbox_events (received_at)")
    made.run("DROP TABLE removal_walks")
    made.run("UPDATE alembic_version SET version_num = '0002'")


def test_an_inbox_of_the_other_kind_is_refused_and_left_as_it_is(database: stack.TestDatabase) -> None:
    """A consumer whose effect has moved needs a migration: its rows are what tells a repeat."""
    database.run("ALTER TABLE notification_inbox_events DROP COLUMN status")
    with pytest.raises(errors.ConfigError, match=r"notification-\w+: its effect lies outside the database.*a migration has to change it"):
        migrations.upgrade(database.dsn())


def test_a_database_of_its_own_gets_its_own_migrations(postgres: stack.PostgresServer) -> None:
    """NOTIFICATION_POSTGRES_DSN may name another database, also by notify's own role: both are migrated."""
    main, other = postgres.new_database(), postgres.new_database()
    other.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    settings = _settings(order=main.dsn(), notification=other.dsn("orderflow_notification"))
    assert migrations.upgrade_all(settings, create_roles=True) == [migrations.where(main.dsn()), migrations.where(other.dsn())]
    assert _tables(other) == TABLES
    postgres.drop(main)
    postgres.drop(other)


def test_a_database_of_a_newer_version_is_left_as_it_is_and_said_to_be_one(database: stack.TestDatabase) -> None:
    database.run("UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(migrations.MigrationError, match="of a newer one"):
        migrations.upgrade(database.dsn())

    assert [["9999"]] == database.run("SELECT version_num FROM alembic_version")


@pytest.mark.parametrize("consumer", ["assembly", "dlq", "relay"])
def test_an_outbox_that_nobody_would_relay_is_refused(consumer: str) -> None:
    """Those who write to the outbox, and the relay, share one database; another one is a wrong setting, said with its name."""
    settings = _settings(order="postgresql://u:secret@127.0.0.1:1/orders", **{consumer: "postgresql://u:secret@localhost:1/elsewhere"})
    with pytest.raises(errors.ConfigError, match=f"{consumer.upper()}_POSTGRES_DSN: names localhost:1/elsewhere") as caught:
        migrations.upgrade_all(settings)
    assert "secret" not in caught.value.detail


def test_a_password_comes_from_the_environment_a_file_or_the_local_default(tmp_path: Path) -> None:
    """In that order; a file that is not there, or a password that would not survive SASLprep, is a wrong setting."""
    relay = next(role for role in roles.read() if role.process == "outbox_relay")
    held = tmp_path / "password"
    held.write_text("from a file\n", encoding="utf-8")
    by_file = {"ORDERFLOW_RELAY_PASSWORD_FILE": str(held)}
    assert relay.password({}) == "orderflow_relay_password"
    assert relay.password(by_file) == "from a file"
    assert relay.password(by_file | {"ORDERFLOW_RELAY_PASSWORD": "given"}) == "given"
    with pytest.raises(errors.ConfigError, match="ORDERFLOW_RELAY_PASSWORD_FILE"):
        relay.password({"ORDERFLOW_RELAY_PASSWORD_FILE": str(tmp_path / "missing")})
    with pytest.raises(errors.ConfigError, match="printable ASCII"):
        relay.password({"ORDERFLOW_RELAY_PASSWORD": "pass\nword"})


def test_a_role_gets_its_password_and_no_log_does(private_postgres: Callable[..., stack.PostgresServer]) -> None:
    """The given password opens the role's own door; it is neither in the server's log of all statements nor on the screen."""
    server, password = private_postgres({"log_statement": "all"}), "very-secret '%s\\"
    owner = postgres.dsn(server.port, postgres.OWNER, postgres.OWNER_PASSWORD)
    env = {"ORDER_POSTGRES_DSN": owner, "ORDERFLOW_RELAY_PASSWORD": password}
    command = [sys.executable, "-c", "from ops import command; command.main()", "migrate", "--create-roles"]
    done = subprocess.run(command, cwd=home.CHECKOUT, env=child.environment(**env), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    own = database.Database(postgres.dsn(server.port, "orderflow_relay", password), settings=config.Settings(), application="test")
    assert own.transact(lambda tx: tx.run("SELECT count(*) FROM order_outbox_events")) == [[0]]
    own.close()
    assert "CREATE ROLE" in server.process.text
    assert password not in done.stdout + done.stderr + server.process.text


def test_the_command_speaks_in_sentences(database: stack.TestDatabase) -> None:
    """`orderflow migrate` says what is up to date; a server that is away, a wrong password and a broken DSN are one line each."""
    app = typer.Typer()
    app.command()(migrations.migrate)
    done = commands.run(app, "--dsn", database.dsn())
    assert (done.code, done.out) == (0, f"localhost:{database.port}/{database.name} is up to date\n")
    by_settings = commands.run(app, env={"ORDER_POSTGRES_DSN": database.dsn()})
    assert by_settings.out == done.out
    (port,) = child.free_ports(1)
    for dsn, said in (
        (f"postgresql://u:hidden@127.0.0.1:{port}/x", "refused"),
        (database.dsn().replace("order_password", "hidden"), "password authentication failed"),
        ("postgresql://u:hidden@h:port/x", "not a URL"),
    ):
        failed = commands.run(app, "--dsn", dsn)
        assert failed.code in {1, 2}
        assert said in failed.err
        assert "hidden" not in failed.err
        assert len(failed.err.strip().splitlines()) <= 2
