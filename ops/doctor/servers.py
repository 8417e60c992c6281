"""PostgreSQL's own settings."""

from collections.abc import Iterator, Mapping, Sequence

from ops.deployments import functions
from ops.doctor.checks import finds
from ops.doctor.findings import Finding
from shared.config import Settings

SPARE = 3  # for people and their commands
_RELAY_MORE = 3  # beside its workers: a look-up, the listener, the removal


@finds("fsync_off", "commit_not_waited")
def durable(
    server_settings: Mapping[str, Mapping[str, str]], role_settings: Mapping[str, Sequence[tuple[str, str, str]]]
) -> Iterator[Finding]:
    """Whether what was committed is there after a crash."""
    for place, given in server_settings.items():
        for name in ("fsync", "full_page_writes"):
            if given.get(name) == "off":
                yield Finding("fsync_off", f"{name} is off at {place}", f"`ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()`")
        if given.get("synchronous_commit") == "off":
            yield Finding(
                "commit_not_waited", f"synchronous_commit is off at {place}", "`ALTER SYSTEM SET synchronous_commit = on`, and reload"
            )
    for place, rows in role_settings.items():
        for who, name, value in rows:
            if name == "synchronous_commit" and value == "off":
                yield Finding(
                    "commit_not_waited", f"synchronous_commit is off for {who} at {place}", f"`ALTER {_kind(who)} RESET synchronous_commit`"
                )


@finds("database_read_only")
def writable(server_settings: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Whether it takes writes."""
    for place, given in server_settings.items():
        for name in ("in_recovery", "default_transaction_read_only"):
            if given.get(name) == "on":
                why = "is a replica (pg_is_in_recovery)" if name == "in_recovery" else f"has {name} on"
                yield Finding("database_read_only", f"{place} {why}", "the primary's address in every …_POSTGRES_DSN that names it")


@finds("vacuum_off")
def vacuumed(server_settings: Mapping[str, Mapping[str, str]]) -> Iterator[Finding]:
    """Whether dead rows go."""
    for place, given in server_settings.items():
        if given.get("autovacuum") == "off":
            yield Finding("vacuum_off", f"autovacuum is off at {place}", "`ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf()`")


@finds("connections_few")
def room(settings: Settings, placed: Mapping[str, str], server_settings: Mapping[str, Mapping[str, str]], prod: bool) -> Iterator[Finding]:
    """Whether all processes find a connection: each its pool and one for removal, the relay its workers. In production at full scale."""
    for place, given in server_settings.items():
        here = [of for of in functions.here().values() if placed.get(of.consumer) == place]
        replicas = sum(of.max_scale if prod else 1 for of in here)
        wanted = replicas * (settings.postgres_connections + 1) + SPARE
        wanted += settings.relay_workers + _RELAY_MORE if placed.get("relay") == place else 0
        reserved = sum(int(given.get(name, 0)) for name in ("superuser_reserved_connections", "reserved_connections"))
        free = int(given.get("max_connections", wanted)) - reserved
        if wanted > free:
            yield Finding(
                "connections_few",
                f"max_connections at {place} leaves {free}; {replicas} function processes, the relay and {SPARE} for people open {wanted}",
                f"`ALTER SYSTEM SET max_connections = {wanted + reserved}` and restart, or POSTGRES_CONNECTIONS lower than "
                f"{settings.postgres_connections}",
            )


def _kind(who: str) -> str:
    return f"DATABASE {who.removeprefix('database ')}" if who.startswith("database ") else f"ROLE {who}"
