"""A handler whose failures tell all that it knows: its DSN, its token, its event. What of it reaches anybody is for a test to say."""

import os
from collections.abc import Sequence
from pathlib import Path

from shared import events
from shared.database import Transaction
from shared.delivery import on


@on(events.OrderAssembled, inbox="order_inbox_events")
def handle(assembled: Sequence[events.OrderAssembled], tx: Transaction) -> list[events.Event]:
    """Fail, with all of it in the text and in the cause."""
    token = Path(os.environ["DELIVERY_TOKEN_FILE"]).read_text(encoding="utf-8").strip()
    dsn = os.environ["ORDER_POSTGRES_DSN"]
    try:
        tx.run("INSERT INTO orders (id, user_id, status) VALUES (:id, :user, 'unheard-of')", id="o", user=assembled[0].user_id)
    finally:
        raise RuntimeError(f"cannot reach {dsn} as Bearer {token} for {assembled[0].user_id}: {assembled!r} {assembled[0].received!r}")
