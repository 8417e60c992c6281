"""A paid order whose parts are assembled becomes an assembled order."""

from collections.abc import Sequence

from shared import events
from shared.database import Transaction
from shared.delivery import on


@on(events.OrderAssembled, inbox="order_inbox_events")
def handle(assembled: Sequence[events.OrderAssembled], tx: Transaction) -> list[events.Event]:
    """Set the orders to assembled. One that is unknown or was assembled before is no error: nothing is left to do.

    It may run more than once for an event, but commits once: it has no effect outside `tx`.
    """
    tx.run("UPDATE orders SET status = 'assembled' WHERE id = ANY(:ids) AND status = 'paid'", ids=[event.order_id for event in assembled])
    return []
