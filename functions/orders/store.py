"""Orders in PostgreSQL. An order, its items, its event and its key commit together or not at all."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from functions.orders import faults, idempotency, models
from shared import events, outbox
from shared.config import Settings
from shared.database import Transaction

PRODUCER = "orders"

_INSERT = """
WITH placed AS (
    INSERT INTO orders (id, user_id, status)
    SELECT u.id, u.user_id, 'paid' FROM unnest(:ids::text[], :user_ids::text[]) AS u(id, user_id)
)
INSERT INTO order_items (order_id, product_id, quantity)
SELECT * FROM unnest(:order_ids::text[], :product_ids::text[], :quantities::bigint[])
"""

_COLUMNS = """
o.id, o.user_id, o.status, o.created_at, i.products, i.quantities
FROM orders o CROSS JOIN LATERAL (
    SELECT array_agg(product_id ORDER BY product_id COLLATE "C") AS products,
           array_agg(quantity ORDER BY product_id COLLATE "C") AS quantities
    FROM order_items WHERE order_id = o.id
) i
"""
_FIND = f"SELECT {_COLUMNS} WHERE o.id = :id"
_NEWEST = f"SELECT {_COLUMNS} WHERE o.user_id = :user_id ORDER BY o.created_at DESC, o.id DESC LIMIT :rows::int"
_OLDER = (
    f"SELECT {_COLUMNS} WHERE o.user_id = :user_id AND (o.created_at, o.id) < (:created_at::timestamptz, :id)"
    " ORDER BY o.created_at DESC, o.id DESC LIMIT :rows::int"
)


@dataclass(frozen=True, slots=True)
class Placement:
    """An order about to be stored: what it will look like, its event, and its key if it has one."""

    order: models.Order
    paid: events.OrderPaid
    response: bytes
    claim: idempotency.Claim | None = None


Outcome = idempotency.Answer | idempotency.KeyReused


def place(tx: Transaction, placements: Sequence[Placement], settings: Settings) -> list[Outcome]:
    """Store `placements`, no two of them with the same key; gives an answer for each, in their order.

    One whose key was used before stores nothing and gets the first answer.
    """
    claims = [placement.claim for placement in placements if placement.claim is not None]
    known = idempotency.claim(tx, claims, ttl_s=settings.idempotency_key_ttl)
    new = [placement for placement in placements if placement.order.id not in known]
    if new:
        items = [(placement.order.id, item) for placement in new for item in placement.order.items]
        tx.run(
            _INSERT,
            ids=[placement.order.id for placement in new],
            user_ids=[placement.order.user_id for placement in new],
            order_ids=[order_id for order_id, _ in items],
            product_ids=[item.product_id for _, item in items],
            quantities=[item.quantity for _, item in items],
        )
        outbox.stage(tx, [placement.paid for placement in new], producer=PRODUCER, settings=settings)
    return [known.get(placement.order.id) or idempotency.Answer(placement.order.id, placement.response) for placement in placements]


def find(tx: Transaction, order_id: str) -> models.Order | None:
    """The order `order_id`, or None."""
    rows = tx.run(_FIND, id=order_id)
    return _order(rows[0]) if rows else None


def newest(tx: Transaction, user_id: str, *, limit: int, cursor: str | None) -> models.Page:
    """At most `limit` orders of `user_id`, newest first, after `cursor`. Raises InvalidRequest for a cursor that is not ours."""
    if cursor is None:
        rows = tx.run(_NEWEST, user_id=user_id, rows=limit + 1)
    else:
        created_at, order_id = _position(cursor)
        rows = tx.run(_OLDER, user_id=user_id, created_at=created_at, id=order_id, rows=limit + 1)
    shown = rows[:limit]
    more = _cursor(shown[-1][3], shown[-1][0]) if len(rows) > limit else None
    return models.Page(orders=[_order(row) for row in shown], next_cursor=more)


def _order(row: list[Any]) -> models.Order:
    order_id, user_id, status, _, products, quantities = row
    pairs = zip(products or (), quantities or (), strict=True)
    items = [{"product_id": product, "quantity": quantity} for product, quantity in pairs]
    return models.Order.model_validate({"id": order_id, "user_id": user_id, "status": status, "items": items})


def _cursor(created_at: datetime, order_id: str) -> str:
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {order_id}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[datetime, str]:
    try:
        text = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        moment, _, order_id = text.partition(" ")
        created_at = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error) as exc:
        raise _bad_cursor() from exc
    if created_at.tzinfo is None or not 1970 < created_at.year < 9999 or not order_id or not order_id.isprintable():
        raise _bad_cursor()
    return created_at.astimezone(UTC), order_id  # Python knows offsets that PostgreSQL does not


def _bad_cursor() -> faults.InvalidRequest:
    return faults.InvalidRequest([faults.fault("cursor", "format", "must be the next_cursor of an earlier page")])
