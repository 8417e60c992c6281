"""A paid order is assembled, which takes its time: the event that says so is due when that time is over."""

from collections.abc import Sequence
from datetime import timedelta

from shared import config, events
from shared.database import Transaction
from shared.delivery import on


@on(events.OrderPaid, inbox="assembly_inbox_events")
def handle(paid: Sequence[events.OrderPaid], tx: Transaction) -> list[events.Event]:
    """Announce each order as assembled, due ASSEMBLY_DURATION from now by the database's clock. No request waits for it.

    It may run more than once for an event, but commits once: no effect outside `tx`.
    """
    [[now]] = tx.run("SELECT clock_timestamp()")
    due = now + timedelta(seconds=config.settings().assembly_duration)
    return [events.OrderAssembled.caused_by(event, consumer="assembly-service", occurred_at=due) for event in paid]
