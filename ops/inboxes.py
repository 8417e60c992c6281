"""The inboxes that no migration made: a consumer's row in contracts/topics.yaml is enough for its table and its role's rights to it.

Everything here follows from the pipe that each consumer's events go through (shared/delivery.py). What a handler needs beyond that,
such as tables of its own or leave to write to the outbox, is for a migration.
"""

import sqlalchemy as sa

from shared import errors, topics
from shared.topics import Consumer

# As infra/migrations made the first three; `status` tells a leased one from the other.
_CLAIMED = """
    CREATE TABLE {inbox} (
        event_id text PRIMARY KEY,
        event_type text NOT NULL,
        occurred_at timestamptz NOT NULL,
        order_id text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    GRANT SELECT, INSERT, DELETE ON {inbox} TO {role};
"""
_LEASED = """
    CREATE TABLE {inbox} (
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
    GRANT SELECT, INSERT, UPDATE, DELETE ON {inbox} TO {role};
"""
# The first part is what removal needs (shared/removal.py). Vacuum must not wait until a fifth of the table is dead, and not give the
# room at its end back: for that it would hold up all deliveries for a moment, and new rows need the room.
# The second is what parking asks (shared/parking.py): whether a letter of an order is open, but not what is in it.
_ALIKE = """
    ALTER TABLE {inbox}
        SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05, vacuum_truncate = off);
    INSERT INTO removal_walks (table_name) VALUES ('{inbox}') ON CONFLICT DO NOTHING;
    GRANT SELECT, UPDATE (turn_at, next_page, oldest_at, last_oldest_at) ON removal_walks TO {role};
    GRANT SELECT (letter_id, consumer, letter_key, event_id, event_type, order_id, state, parent_letter_id, failed_at) ON dlq_letters
        TO {role};
    GRANT SELECT (run_id, target, state) ON dlq_runs TO {role};
    GRANT SELECT (run_id, letter_id, consumer, status, open) ON dlq_run_items TO {role};
    GRANT SELECT, INSERT, UPDATE (state) ON parked_events TO {role};
"""
_COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"


def make_missing(connection: sa.Connection, catalogue: topics.Catalogue) -> None:
    """Make the inbox of each consumer of `catalogue` that has none. Raises ConfigError for one whose effect has moved since."""
    there: dict[str, set[str]] = {}
    for table, column in connection.execute(sa.text(_COLUMNS)):
        there.setdefault(table, set()).add(column)
    for inbox, consumer in {consumer.inbox: consumer for _, consumer in catalogue.consumers()}.items():
        if inbox not in there:
            shape = _LEASED if consumer.leased else _CLAIMED
            role = connection.dialect.identifier_preparer.quote_identifier(consumer.login)
            connection.exec_driver_sql((shape + _ALIKE).format(inbox=inbox, role=role))
        elif ("status" in there[inbox]) != consumer.leased:
            raise errors.ConfigError([_moved(consumer)])


def _moved(consumer: Consumer) -> str:
    return (
        f"topics.yaml: {consumer.group}: its effect lies {consumer.effect} the database, and {consumer.inbox} is made for the other kind: "
        "a migration has to change it (ops/inboxes.py has both)"
    )
