"""Breaks the system on purpose in a run's own database, to see that the count would find it. Nothing of ours knows of this."""

from collections.abc import Callable

from ops import postgres
from shared import topics

KINDS = ("inbox",)

# A row that is there already makes way for the new one: so every claim succeeds, and every event is new for ever.
_FORGETFUL = """
CREATE FUNCTION forget_the_first() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    EXECUTE format('DELETE FROM %I WHERE event_id = $1', TG_TABLE_NAME) USING NEW.event_id;
    RETURN NEW;
END $$;
"""
_TRIGGER = "CREATE TRIGGER forget_the_first BEFORE INSERT ON {inbox} FOR EACH ROW EXECUTE FUNCTION forget_the_first();"


def breaker(kind: str | None) -> Callable[[postgres.Server], None]:
    """What breaks `kind`, once the tables are there; for None, nothing."""
    return _inbox if kind == "inbox" else lambda _server: None


def _inbox(server: postgres.Server) -> None:
    inboxes = sorted({consumer.inbox for _, consumer in topics.read().consumers()})
    server.run(_FORGETFUL + "".join(_TRIGGER.format(inbox=inbox) for inbox in inboxes), postgres.DATABASE)
