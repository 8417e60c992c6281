"""Tables, keys, indexes and rights, beside what the functions and the relay need; and rows that somebody should know of."""

from collections.abc import Iterator, Mapping, Sequence

from ops import roles as login_roles
from ops.doctor.checks import finds
from ops.doctor.facts import EXPIRING, Index, Letters, LiveTopic, Outbox, Right, Step
from ops.doctor.findings import Finding
from shared.topics import Catalogue

LATE_S = 60.0
_DAY_S = 86_400.0
# What infra/migrations makes, a test holds the two together. An inbox has its key alone.
KEYS = {
    "orders": ("id",),
    "order_items": ("order_id", "product_id"),
    "order_idempotency_keys": ("user_id", "key"),
    "order_outbox_events": ("event_id",),
    "removal_walks": ("table_name",),
    "dlq_letters": ("letter_id",),
    "dlq_positions": ("topic", "partition"),
    "dlq_runs": ("run_id",),
    "dlq_run_items": ("run_id", "n"),
    "parked_events": ("consumer", "event_id"),
}
INDEXES = {
    "orders": ("orders_newest",),
    "order_idempotency_keys": ("order_idempotency_keys_expires",),
    "order_outbox_events": ("order_outbox_events_due", "order_outbox_events_key", "order_outbox_events_failed"),
    "dlq_letters": (
        *("dlq_letters_newest", "dlq_letters_consumer", "dlq_letters_fingerprint", "dlq_letters_order"),
        *("dlq_letters_event", "dlq_letters_parent", "dlq_letters_key"),
    ),
    "dlq_history": ("dlq_history_letter", "dlq_history_run", "dlq_history_failed", "dlq_history_written"),
    "dlq_runs": ("dlq_runs_newest",),
    "dlq_run_items": ("dlq_run_items_open", "dlq_run_items_letter"),
    "parked_events": ("parked_events_key",),
}
_WALK = ("turn_at", "next_page", "oldest_at", "last_oldest_at")
_RELAY = ("status", "attempts", "last_error", "sent_at")


def rights(catalogue: Catalogue, placed: Mapping[str, str], place: str) -> list[Right]:
    """What the processes whose tables are at `place` need there to claim, stage, relay and remove."""
    found: list[Right] = []
    for consumer in {consumer.inbox: consumer for _, consumer in catalogue.consumers() if placed[consumer.role] == place}.values():
        privileges = ["SELECT", "INSERT", "DELETE", *(["UPDATE"] if consumer.leased else [])]
        found += [Right(consumer.login, consumer.inbox, privilege) for privilege in privileges]
        found += [Right(consumer.login, "removal_walks", "UPDATE", column) for column in _WALK]
        found += [Right(consumer.login, "parked_events", "INSERT"), Right(consumer.login, "dlq_letters", "SELECT", "letter_key")]
    if placed["order"] == place:
        writers = ["orderflow_orders", "orderflow_dlq", *(role.login for _, role in catalogue.consumers() if role.role == "assembly")]
        found += [Right(role, "order_outbox_events", "INSERT") for role in dict.fromkeys(writers)]
        found += [Right("orderflow_orders", table, "INSERT") for table in ("orders", "order_items", "order_idempotency_keys")]
        found += [Right("orderflow_relay", "order_outbox_events", privilege) for privilege in ("SELECT", "DELETE")]
        found += [Right("orderflow_relay", "order_outbox_events", "UPDATE", column) for column in _RELAY]
        found += [Right("orderflow_relay", "removal_walks", "UPDATE", column) for column in _WALK]
    if placed["dlq"] == place:
        found += [Right("orderflow_dlq", "dlq_letters", privilege) for privilege in ("SELECT", "INSERT", "UPDATE")]
        found += [Right("orderflow_dlq", "dlq_history", privilege) for privilege in ("SELECT", "INSERT")]
    return found


@finds("migrations_behind")
def migrated(revisions: Mapping[str, str | None], steps: Sequence[Step]) -> Iterator[Finding]:
    """Whether tables are as this version has them. A contract step may wait, and a newer version's migrations only add."""
    known = [step.revision for step in steps]
    for place, revision in revisions.items():
        done = 0 if revision is None else known.index(revision) + 1 if revision in known else len(known)
        if done < len(steps) and not (done and steps[done].contract):
            yield Finding(
                "migrations_behind",
                f"{place} is at {revision or 'no migration'}, this version's newest is {known[-1]}",
                "`orderflow migrate`",
            )


@finds("inbox_missing")
def inboxes(catalogue: Catalogue, placed: Mapping[str, str], tables: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    """Whether every consumer has its inbox, where its function looks for it."""
    for consumer in {consumer.inbox: consumer for _, consumer in catalogue.consumers()}.values():
        place = placed[consumer.role]
        if place in tables and consumer.inbox not in tables[place]:
            yield Finding("inbox_missing", f"{consumer.inbox} of {consumer.function}, in {place}", "`orderflow migrate`")


@finds("key_missing", "index_missing")
def keyed(
    catalogue: Catalogue, placed: Mapping[str, str], tables: Mapping[str, frozenset[str]], indexes: Mapping[str, Sequence[Index]]
) -> Iterator[Finding]:
    """Whether what makes an event unique, and what finds it, is there and valid."""
    for place, found in indexes.items():
        there = tables.get(place, frozenset())
        inboxes = {consumer.inbox: ("event_id",) for _, consumer in catalogue.consumers() if placed[consumer.role] == place}
        for table, columns in (KEYS | inboxes).items():
            if table in there and not any(one.table == table and one.columns == columns and one.unique and one.valid for one in found):
                yield Finding(
                    "key_missing",
                    f"{table} in {place} has no valid primary key ({', '.join(columns)})",
                    f"`ALTER TABLE {table} ADD PRIMARY KEY ({', '.join(columns)})`, once no value is there twice",
                )
        by_name = {one.name: one for one in found}
        for table, names in INDEXES.items():
            for name in names if table in there else ():
                if name not in by_name:
                    yield Finding(
                        "index_missing", f"{name} of {table} in {place} is missing", f"CREATE INDEX {name} as infra/migrations has it"
                    )
        for one in found:
            if not one.valid:
                yield Finding(
                    "index_missing", f"{one.name} of {one.table} in {place} is not valid", f"`REINDEX INDEX CONCURRENTLY {one.name}`"
                )


@finds("role_missing")
def logins(placed: Mapping[str, str], roles: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    """Whether every process can log in."""
    for role in login_roles.read():
        place = placed[role.consumer]
        if place in roles and role.name not in roles[place]:
            yield Finding("role_missing", f"{role.name} of {role.process}, at {place}", "Terraform, or `orderflow migrate --create-roles`")


@finds("grant_missing")
def allowed(lacking: Mapping[str, Sequence[Right]]) -> Iterator[Finding]:
    """Whether every process may do its work."""
    for place, rights in lacking.items():
        for right in rights:
            what = f"{right.privilege} ({right.column})" if right.column else right.privilege
            yield Finding(
                "grant_missing",
                f"{right.role} has no {what} on {right.table} in {place}",
                f"`GRANT {what} ON {right.table} TO {right.role}`",
            )


@finds("outbox_set_aside", "outbox_late")
def published(outbox: Outbox) -> Iterator[Finding]:
    """Whether events get out."""
    if outbox.set_aside:
        yield Finding(
            "outbox_set_aside", f"{outbox.set_aside} rows of order_outbox_events", "`orderflow outbox list`, then `orderflow outbox retry`"
        )
    if outbox.oldest_due_s > LATE_S:
        yield Finding("outbox_late", f"the oldest has been due for {outbox.oldest_due_s:.0f} s", "`orderflow status`; the relay's log")


@finds("letters_expiring")
def kept(letters: Sequence[Letters], live: Mapping[str, LiveTopic]) -> Iterator[Finding]:
    """Open letters that their topic will not have for much longer."""
    for one in letters:
        kept_s = int(live[one.topic].config.get("retention.ms", -1)) / 1000 if one.topic in live else -1
        if 0 <= kept_s * EXPIRING < one.oldest_s:
            yield Finding(
                "letters_expiring",
                f"{one.count} open letters of {one.topic}; the oldest is {one.oldest_s / _DAY_S:.3g} days old of {kept_s / _DAY_S:.3g}",
                "`orderflow dlq groups`, then replay, edit or discard; `orderflow dlq archive` keeps a copy",
            )
