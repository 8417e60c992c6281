"""The index of dead letters with its history, the runs that replay them, and the events that wait behind a letter of their order."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# `value` is the letter's JSON as on its topic. Numbers that a record or a source gives are bigint: an odd one has its row too.
# `letter_key` is the order id, else the record's key in base64 (by hash where it is long): what letters are ordered and parked by.
_LETTERS = """
    CREATE TABLE dlq_letters (
        letter_id text PRIMARY KEY,
        consumer text NOT NULL,
        topic text NOT NULL,
        partition bigint,
        message_offset bigint,
        dlq_topic text,
        dlq_partition integer,
        dlq_offset bigint,
        event_id text,
        event_type text,
        order_id text,
        letter_key text,
        reason text NOT NULL CHECK (reason IN ('refused', 'out_of_retries', 'dependency_away')),
        error_code text NOT NULL,
        error_message text NOT NULL,
        place text,
        fingerprint text NOT NULL,
        attempts bigint,
        failed_at timestamptz NOT NULL,
        last_failed_at timestamptz NOT NULL,
        times integer NOT NULL DEFAULT 1,
        state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'discarded', 'superseded')),
        state_reason text,
        parent_letter_id text,
        replaced_by text,
        value bytea NOT NULL,
        indexed_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX dlq_letters_newest ON dlq_letters (failed_at, letter_id);
    CREATE INDEX dlq_letters_consumer ON dlq_letters (consumer, state, failed_at, letter_id);
    CREATE INDEX dlq_letters_fingerprint ON dlq_letters (fingerprint, state);
    CREATE INDEX dlq_letters_order ON dlq_letters (order_id);
    CREATE INDEX dlq_letters_event ON dlq_letters (event_id);
    CREATE INDEX dlq_letters_parent ON dlq_letters (parent_letter_id) WHERE parent_letter_id IS NOT NULL;
    CREATE INDEX dlq_letters_key ON dlq_letters (consumer, letter_key) WHERE state = 'open';
    CREATE TABLE dlq_positions (
        topic text NOT NULL,
        partition integer NOT NULL,
        topic_id text NOT NULL,
        next_offset bigint NOT NULL,
        PRIMARY KEY (topic, partition)
    );
"""

# The same writing of a letter is read again and again (by its router, by every rebuild) and must not count twice: hence the unique index.
_HISTORY = """
    CREATE TABLE dlq_history (
        n bigint GENERATED ALWAYS AS IDENTITY,
        letter_id text NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        what text NOT NULL CHECK
            (what IN ('failed again', 'replayed', 'edited', 'discarded', 'restored', 'superseded', 'done', 'forced')),
        who text NOT NULL,
        detail text,
        run_id text
    );
    CREATE INDEX dlq_history_letter ON dlq_history (letter_id, at);
    CREATE INDEX dlq_history_run ON dlq_history (run_id) WHERE run_id IS NOT NULL;
    CREATE INDEX dlq_history_failed ON dlq_history (letter_id) WHERE what = 'failed again';
    CREATE UNIQUE INDEX dlq_history_written ON dlq_history (letter_id, at) WHERE what = 'failed again' AND run_id IS NULL;
"""

# `open` is true while the run is open and the item has no result: so a letter belongs to one open run at most. Items of one consumer
# and lane are sent in the order of `n`. `item` is the record of an event that is no letter's, as long as it is needed.
_RUNS = """
    CREATE TABLE dlq_runs (
        run_id text PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('letters', 'events')),
        target text,
        selection jsonb NOT NULL DEFAULT '{}',
        options jsonb NOT NULL DEFAULT '{}',
        state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'finished', 'abandoned')),
        who text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ended_at timestamptz,
        heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE INDEX dlq_runs_newest ON dlq_runs (created_at, run_id);
    CREATE TABLE dlq_run_items (
        run_id text NOT NULL REFERENCES dlq_runs ON DELETE CASCADE,
        n integer NOT NULL,
        letter_id text,
        item bytea,
        consumer text NOT NULL,
        lane text,
        event_id text,
        status text NOT NULL DEFAULT 'selected'
            CHECK (status IN ('selected', 'sent', 'done', 'duplicate', 'failed_again', 'skipped')),
        code text,
        detail text,
        attempts integer NOT NULL DEFAULT 0,
        open boolean NOT NULL DEFAULT true,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (run_id, n)
    );
    CREATE UNIQUE INDEX dlq_run_items_open ON dlq_run_items (letter_id) WHERE open AND letter_id IS NOT NULL;
    CREATE INDEX dlq_run_items_letter ON dlq_run_items (letter_id) WHERE letter_id IS NOT NULL;
"""

_PARKED = """
    CREATE TABLE parked_events (
        consumer text NOT NULL,
        letter_key text NOT NULL,
        seq bigint GENERATED ALWAYS AS IDENTITY,
        event_id text NOT NULL,
        event_type text NOT NULL,
        order_id text NOT NULL,
        occurred_at timestamptz NOT NULL,
        payload bytea NOT NULL,
        context jsonb NOT NULL DEFAULT '{}',
        parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        state text NOT NULL DEFAULT 'parked' CHECK (state IN ('parked', 'replayed')),
        PRIMARY KEY (consumer, event_id)
    );
    CREATE INDEX parked_events_key ON parked_events (consumer, letter_key, seq) WHERE state = 'parked';
"""

# dlq_router keeps the index; a consumer looks for a letter of its event's key and parks behind it. People work as the tables' owner.
_GRANTS = """
    GRANT SELECT, INSERT, UPDATE ON dlq_letters TO orderflow_dlq;
    GRANT SELECT, INSERT ON dlq_history TO orderflow_dlq;
    GRANT SELECT ON dlq_positions, dlq_runs, dlq_run_items, parked_events TO orderflow_dlq;
    GRANT SELECT (letter_id, consumer, letter_key, event_id, event_type, order_id, state, parent_letter_id, failed_at) ON dlq_letters
        TO orderflow_order, orderflow_assembly, orderflow_notification;
    GRANT SELECT (run_id, target, state) ON dlq_runs TO orderflow_order, orderflow_assembly, orderflow_notification;
    GRANT SELECT (run_id, letter_id, consumer, status, open) ON dlq_run_items
        TO orderflow_order, orderflow_assembly, orderflow_notification;
    GRANT SELECT, INSERT, UPDATE (state) ON parked_events TO orderflow_order, orderflow_assembly, orderflow_notification;
"""


def upgrade() -> None:
    """Make the tables and grants."""
    for statements in (_LETTERS, _HISTORY, _RUNS, _PARKED, _GRANTS):
        op.get_bind().exec_driver_sql(statements)
