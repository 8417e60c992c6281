"""Old rows can be removed: who may, where it stands, and tables that stay small and fast with it.

For tables of any size: nothing is rewritten and no row is read. The indexes that go are taken away under a lock that lets nobody at their
table for that moment. The version before this one works with the tables as they are then.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# `oldest_at` is the oldest row that the walk under way has left behind so far, `last_oldest_at` that of the last whole walk.
_WALKS = """
    CREATE TABLE removal_walks (
        table_name text PRIMARY KEY,
        turn_at timestamptz NOT NULL DEFAULT '-infinity',
        next_page bigint NOT NULL DEFAULT 0,
        oldest_at timestamptz,
        last_oldest_at timestamptz
    ) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
    INSERT INTO removal_walks (table_name) VALUES ('order_outbox_events');
    GRANT SELECT, UPDATE (turn_at, next_page, oldest_at, last_oldest_at) ON removal_walks TO orderflow_relay;
    GRANT DELETE ON order_outbox_events TO orderflow_relay;
"""

# Every inbox that is there, whoever made it. Removal walks by pages, so the index on received_at served nobody but people, at a cost of
# 2.4 µs of PostgreSQL's for every event. Vacuum must not wait until a fifth of the table is dead. It gives the room at the table's end
# back under a lock that holds up all deliveries for a moment, and new rows need that room: so it does not.
_INBOXES = """
    DO $$
    DECLARE
        inbox text;
        consumer text;
    BEGIN
        FOR inbox IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND right(tablename, 13) = '_inbox_events'
                     ORDER BY 1 LOOP
            consumer := quote_ident('orderflow_' || left(inbox, -13));
            EXECUTE 'DROP INDEX IF EXISTS ' || quote_ident(inbox || '_received');
            EXECUTE 'ALTER TABLE ' || quote_ident(inbox) || ' SET (autovacuum_vacuum_scale_factor = 0.02,'
                 || ' autovacuum_analyze_scale_factor = 0.05, vacuum_truncate = off)';
            EXECUTE 'GRANT DELETE ON ' || quote_ident(inbox) || ' TO ' || consumer;
            EXECUTE 'GRANT SELECT, UPDATE (turn_at, next_page, oldest_at, last_oldest_at) ON removal_walks TO ' || consumer;
            INSERT INTO removal_walks (table_name) VALUES (inbox);
        END LOOP;
    END $$;
"""

# An order is written twice: paid, then assembled. With room beside it the second version stays on its page, and no index hears of it:
# a quarter of PostgreSQL's work for an event. Orders that were placed together are assembled together, in one transaction, so there must
# be room for all of a page, and a row grows with the longer word. Rows that are there already stay as they lie.
_TABLES = """
    ALTER TABLE orders SET (fillfactor = 45);
    ALTER TABLE order_outbox_events SET (vacuum_truncate = off);
"""


def upgrade() -> None:
    """Change settings and grants, and make the table of walks."""
    run = op.get_bind().exec_driver_sql
    for statements in (_WALKS, _INBOXES, _TABLES):
        run(statements)
