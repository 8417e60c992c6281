"""Rows of the outbox that nothing more is to be done with go when they are old. A pending row never does, nor one that was set aside."""

from shared import retention
from shared.config import Settings
from shared.removal import Old, Removal

# A row that was given up has no time of its own; that of its making is as good for something that a person has looked at.
_AT = "COALESCE(sent_at, created_at)"


def of_outbox(settings: Settings) -> Removal:
    """The removal of rows that were sent or discarded. Raises ConfigError."""
    old = Old("order_outbox_events", _AT, "status IN ('sent', 'discarded')", retention.outbox_s(settings))
    return Removal("relay", old, settings, "orderflow-relay")
