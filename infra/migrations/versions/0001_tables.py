"""The orders, the three inboxes and the outbox, with what each role may do to them."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_INBOX = """
    CREATE TABLE {consumer}_inbox_events (
        event_id text PRIMARY KEY,
        event_type text NOT NULL,
        occurred_at timestamptz NOT NULL,
        order_id text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX {consumer}_inbox_events_received ON {consumer}_inbox_events (received_at);
"""

_NOTIFICATION_INBOX = """
    CREATE TABLE notification_inbox_events (
        event_id text PRIMARY KEY,
        event_type text NOT NULL,
        occurred_at timestamptz NOT NULL,
        order_id text NOT NULL,
        topic text,
        partition integer,
        message_offset bigint,
        status text NOT NULL CHECK (status IN ('claimed', 'sent')),
        lease_token text,
        lease_ends_at timestamptz,
        attempts integer NOT NULL DEFAULT 1,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        processed_at timestamptz
    );
    CREATE INDEX notification_inbox_events_received ON notification_inbox_events (received_at);
"""

_ORDERS = """
    CREATE TABLE orders (
        id text PRIMARY KEY,
        user_id text NOT NULL,
        status text NOT NULL CHECK (status IN ('paid', 'assembled')),
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX orders_newest ON orders (user_id, created_at DESC, id DESC);
    CREATE TABLE order_items (
        order_id text NOT NULL REFERENCES orders,
        product_id text NOT NULL,
        quantity bigint NOT NULL CHECK (quantity > 0),
        PRIMARY KEY (order_id, product_id)
    );
    CREATE TABLE order_idempotency_keys (
        user_id text NOT NULL,
        key text NOT NULL,
        body_sha256 bytea NOT NULL,
        order_id text NOT NULL,
        response bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        expires_at timestamptz NOT NULL,
        PRIMARY KEY (user_id, key)
    );
    CREATE INDEX order_idempotency_keys_expires ON order_idempotency_keys (expires_at);
"""

# The relay reads by two partial indexes that hold unsent rows only, so millions of sent rows cost it nothing: `due` gives the
# oldest rows that are due, `key` the oldest unsent row of a key. A Kafka key has any length and a btree entry has not: hence the hash.
# Every sent row leaves a dead entry in both; vacuum must not wait until a fifth of the table is dead.
_OUTBOX = """
    CREATE TABLE order_outbox_events (
        event_id text PRIMARY KEY,
        event_type text NOT NULL,
        occurred_at timestamptz NOT NULL,
        aggregate_id text NOT NULL,
        payload bytea NOT NULL,
        topic text NOT NULL,
        status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'sent', 'failed', 'discarded')),
        attempts integer NOT NULL DEFAULT 0,
        last_error text,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        sent_at timestamptz,
        record_key bytea,
        headers jsonb NOT NULL DEFAULT '{}',
        due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        seq bigint GENERATED ALWAYS AS IDENTITY,
        producer text NOT NULL
    ) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
    CREATE INDEX order_outbox_events_due ON order_outbox_events (due_at, seq) WHERE status = 'pending';
    CREATE INDEX order_outbox_events_key
        ON order_outbox_events (hashtextextended(encode(record_key, 'hex'), hashtext(topic)), due_at, seq)
        WHERE status IN ('pending', 'failed');
    CREATE INDEX order_outbox_events_failed ON order_outbox_events (seq) WHERE status = 'failed';
"""

# ON CONFLICT (event_id) reads that column, hence SELECT on it for those who may only insert.
_GRANTS = """
    GRANT SELECT, INSERT ON orders, order_items TO orderflow_orders;
    GRANT SELECT, INSERT, UPDATE, DELETE ON order_idempotency_keys TO orderflow_orders;
    GRANT INSERT, SELECT (event_id) ON order_outbox_events TO orderflow_orders, orderflow_assembly, orderflow_dlq;
    GRANT SELECT, INSERT ON order_inbox_events TO orderflow_order;
    GRANT SELECT, UPDATE (status) ON orders TO orderflow_order;
    GRANT SELECT, INSERT ON assembly_inbox_events TO orderflow_assembly;
    GRANT SELECT, INSERT, UPDATE ON notification_inbox_events TO orderflow_notification;
    GRANT SELECT, UPDATE (status, attempts, last_error, sent_at) ON order_outbox_events TO orderflow_relay;
"""


def upgrade() -> None:
    """Make the tables and grants."""
    for statements in (_INBOX.format(consumer="order"), _INBOX.format(consumer="assembly"), _NOTIFICATION_INBOX, _ORDERS, _OUTBOX, _GRANTS):
        op.get_bind().exec_driver_sql(statements)
