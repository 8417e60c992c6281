"""A paid order is looked at. This is a whole consumer: say here what it does with the events that it claims."""

import logging
from collections.abc import Sequence

from shared import events
from shared.database import Transaction
from shared.delivery import on

log = logging.getLogger(__name__)


# The inbox is the table that contracts/topics.yaml names for this consumer; its first word is the prefix of the consumer's settings.
@on(events.OrderPaid, inbox="sample_inbox_events")
def handle(paid: Sequence[events.OrderPaid], tx: Transaction) -> list[events.Event]:
    """Get events that were never handled before, and return the events to publish; both are committed together by `tx`.

    It may run more than once for an event, but commits once: no effect outside `tx`.
    """
    [[orders]] = tx.run("SELECT count(DISTINCT id) FROM unnest(CAST(:ids AS text[])) AS id", ids=[event.order_id for event in paid])
    log.info("paid", extra={"orders": orders})
    return []
