"""Ids of what is made here: UUIDs that begin with their time, so that a table's index grows at one end and its recent part stays near.

Among random ids each event meets a page of its own in every index: with 5,000,000 rows before, PostgreSQL then needs twice as much for an
event as with 1,000 (docs/performance.md). Ids of others are text like any other.
"""

import re
import time
import uuid

_BEGINS_WITH_TIME = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[78][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TIME = len("019afb04-c1a2")  # 48 bits of ms since 1970 (RFC 9562, section 5.7), and the version stands right behind them


def new() -> str:
    """A UUIDv7: 48 bits of time and 74 of chance."""
    return at(time.time_ns() // 1_000_000, uuid.uuid4())


def at(ms: int, chance: uuid.UUID) -> str:
    """The UUIDv7 of the moment `ms` since 1970, whose chance is that of the UUIDv4 `chance`."""
    moment = f"{ms:012x}"
    return f"{moment[:8]}-{moment[8:]}-7{str(chance)[_TIME + 2 :]}"


def derived(namespace: uuid.UUID, name: str, cause_id: str) -> str:
    """The one id that `name` has in `namespace`, made from what has the id `cause_id`: always the same for the same three.

    Where `cause_id` begins with a time it is a UUIDv8, which begins with the same one, and else a UUIDv5.
    """
    made = str(uuid.uuid5(namespace, name))
    return f"{cause_id[:_TIME]}-8{made[_TIME + 2 :]}" if _BEGINS_WITH_TIME.fullmatch(cause_id) else made
