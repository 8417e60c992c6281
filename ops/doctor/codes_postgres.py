"""What can be found in PostgreSQL, and of clocks."""

from ops.doctor.findings import Code, Level

RED, AMBER = Level.RED, Level.AMBER

POSTGRES: dict[str, Code] = {
    "migrations_behind": Code(
        RED,
        "a database that is not at this version's newest migration",
        "tables, columns or rights are missing, and functions answer 503",
        "`orderflow migrate`",
    ),
    "inbox_missing": Code(
        RED,
        "a consumer without its inbox",
        "its function answers every event with 503",
        "`orderflow migrate`",
    ),
    "key_missing": Code(
        RED,
        "a table without its primary key, or with one that is not valid",
        "an inbox knows no duplicate without it, and effects repeat; the claim itself fails",
        "`ALTER TABLE … ADD PRIMARY KEY`, as the line says",
    ),
    "index_missing": Code(
        RED,
        "an index that is missing or not valid",
        "what it served reads the whole table: past STATEMENT_TIMEOUT the relay publishes nothing and deliveries are answered 503",
        "make it again as infra/migrations has it; one that is not valid: `REINDEX INDEX CONCURRENTLY …`",
    ),
    "role_missing": Code(
        RED,
        "a login role that is missing",
        "its process cannot connect",
        "Terraform, or `orderflow migrate --create-roles`",
    ),
    "grant_missing": Code(
        RED,
        "a right that a process needs and its role has not",
        "its function answers 503 with the code `permission`",
        "`GRANT …` as the line says",
    ),
    "fsync_off": Code(
        RED,
        "PostgreSQL with fsync or full_page_writes off",
        "a power cut destroys the database, inboxes and outbox with it",
        "`ALTER SYSTEM SET … = on` and reload",
    ),
    "commit_not_waited": Code(
        RED,
        "synchronous_commit off",
        "the last commits before a crash are lost though they were answered: orders, claims, letters",
        "set synchronous_commit to on, for the server and for each role",
    ),
    "database_read_only": Code(
        RED,
        "a database that takes no writes: a replica, or default_transaction_read_only",
        "nothing can be claimed or staged",
        "name the primary in the DSN",
    ),
    "connections_few": Code(
        RED,
        "fewer connections than all processes together open",
        "at full scale some of them are refused, and answer 503",
        "raise max_connections, lower POSTGRES_CONNECTIONS or the scale, or put a pool between",
    ),
    "vacuum_off": Code(
        AMBER,
        "autovacuum is off",
        "every sent outbox row leaves dead entries behind, and tables only grow",
        "`ALTER SYSTEM SET autovacuum = on` and reload",
    ),
    "outbox_set_aside": Code(
        RED,
        "outbox rows that were set aside",
        "their events are not published, and later ones of the same order wait behind them",
        "`orderflow outbox list`, mend the cause, `orderflow outbox retry`",
    ),
    "outbox_late": Code(
        AMBER,
        "outbox rows that have been due for a minute",
        "the relay does not run, or cannot publish",
        "`orderflow status`: the relay, then Kafka",
    ),
    "letters_expiring": Code(
        AMBER,
        "open letters that are about to leave their topic",
        "past it, they are only in the index and the archive",
        "`orderflow dlq groups`: replay, edit or discard them",
    ),
}

CLOCKS: dict[str, Code] = {
    "clock_skew": Code(
        AMBER,
        "a clock that differs from this machine's by more than 5 s",
        "times in events, logs, letters and leases no longer tell what came first",
        "run NTP (chrony, systemd-timesyncd) on both",
    ),
    "clock_far": Code(
        RED,
        "a clock that differs from this machine's by more than half an hour",
        "Kafka refuses records of an hour ahead, S3 requests of a quarter off, and the day between retention and removal is used up",
        "run NTP (chrony, systemd-timesyncd) on both",
    ),
}
