"""The Idempotency-Key: the answer to a key's first order, kept in that order's own transaction.

The insert of the key decides. Where another transaction holds the key uncommitted, it waits for that one's end, at most WAIT_S; then the
row is either there, and holds the answer, or it is ours. Within one process a repeat waits for its elder before it takes a connection, so
that one key that is stuck does not hold up the others.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from functions.orders import faults
from shared import errors
from shared.database import Transaction

HEADER = "Idempotency-Key"
WAIT_S = 2.0
SWEEP_ROWS_MAX = 500

_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")

# An expired row is replaced as if it were not there.
_CLAIM = """
INSERT INTO order_idempotency_keys AS k (user_id, key, body_sha256, order_id, response, created_at, expires_at)
SELECT u.user_id, u.key, u.body_sha256, u.order_id, u.response, clock_timestamp(), clock_timestamp() + make_interval(secs => :ttl_s)
FROM unnest(:user_ids::text[], :keys::text[], :bodies::bytea[], :order_ids::text[], :responses::bytea[])
     AS u(user_id, key, body_sha256, order_id, response)
ORDER BY u.user_id, u.key
ON CONFLICT (user_id, key) DO UPDATE
   SET body_sha256 = EXCLUDED.body_sha256, order_id = EXCLUDED.order_id, response = EXCLUDED.response,
       created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
 WHERE k.expires_at <= clock_timestamp()
RETURNING k.order_id
"""

_FIRST_ANSWERS = """
SELECT k.user_id, k.key, k.body_sha256, k.order_id, k.response
FROM order_idempotency_keys k JOIN unnest(:user_ids::text[], :keys::text[]) AS u(user_id, key) USING (user_id, key)
"""

_SWEEP = """
DELETE FROM order_idempotency_keys k USING (
    SELECT user_id, key FROM order_idempotency_keys WHERE expires_at <= clock_timestamp()
    ORDER BY expires_at LIMIT :rows_max::int FOR UPDATE SKIP LOCKED
) AS old WHERE (k.user_id, k.key) = (old.user_id, old.key)
RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A key about to be taken for an order, with the answer that is to be remembered."""

    user_id: str
    key: str
    body_sha256: bytes
    order_id: str
    response: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a key's first order was answered."""

    order_id: str
    response: bytes


class KeyReused(faults.InvalidRequest):
    """The key was used for another order."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__([faults.fault(HEADER, "reused", "was used with another body; take a new key for a new order")])


def read(values: Sequence[str]) -> str | None:
    """The key among a request's header values, or None. Raises Malformed."""
    if not values:
        return None
    if len(values) > 1 or not _VISIBLE.fullmatch(values[0]):
        raise faults.Malformed([faults.fault(HEADER, "format", "must be one value of 1 to 255 visible ASCII characters")])
    return values[0]


def claim(tx: Transaction, wanted: Sequence[Claim], *, ttl_s: float) -> dict[str, Answer | KeyReused]:
    """Take the keys of `wanted`, no two of them equal. Gives, by the order id that was not to be, what is known of keys that were taken.

    Raises Busy when another transaction holds one for longer than the lock timeout, Conflict when a row vanished under our eyes.
    """
    if not wanted:
        return {}
    taken = tx.run(
        _CLAIM,
        user_ids=[each.user_id for each in wanted],
        keys=[each.key for each in wanted],
        bodies=[each.body_sha256 for each in wanted],
        order_ids=[each.order_id for each in wanted],
        responses=[each.response for each in wanted],
        ttl_s=ttl_s,
    )
    ours = {order_id for (order_id,) in taken}
    repeats = {(each.user_id, each.key): each for each in wanted if each.order_id not in ours}
    if not repeats:
        return {}
    rows = tx.run(_FIRST_ANSWERS, user_ids=[user_id for user_id, _ in repeats], keys=[key for _, key in repeats])
    if len(rows) != len(repeats):
        raise errors.Conflict("a key expired at this very moment")
    known: dict[str, Answer | KeyReused] = {}
    for user_id, key, body_sha256, order_id, response in rows:
        repeat = repeats[user_id, key]
        known[repeat.order_id] = Answer(order_id, response) if body_sha256 == repeat.body_sha256 else KeyReused()
    return known


def sweep(tx: Transaction) -> int:
    """Remove expired keys, at most SWEEP_ROWS_MAX of them. Gives their number."""
    return len(tx.run(_SWEEP, rows_max=SWEEP_ROWS_MAX))


class Turns:
    """One request at a time for each key of this process."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def turn(self, wanted: Claim, until: float) -> AsyncIterator[None]:
        """Wait for the key's elders, at most `until` (monotonic). Raises Busy."""
        name = (wanted.user_id, wanted.key)
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await lock.acquire()
        except TimeoutError:
            raise still_working() from None
        try:
            yield
        finally:
            lock.release()


def still_working() -> errors.Busy:
    """The answer while a key's first order is still on its way."""
    return errors.Busy(f"an order with this {HEADER} is still being worked on", code="idempotency_key_in_use")
