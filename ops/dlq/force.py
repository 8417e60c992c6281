"""`--force`: the inbox row that makes an event a duplicate is removed just before the event is sent, so that its handler runs again.

Only a row that is older than the run is removed. So a run that is resumed does not remove what it has made itself, and sends no event to a
second effect. Outbox rows stay: an event that was published is not published again, for its derived id is there already.
"""

from shared.config import Settings
from shared.database import Database, Transaction
from shared.topics import Consumer

_COLUMNS = "SELECT column_name FROM information_schema.columns WHERE table_name = :inbox AND table_schema = current_schema()"
# A claim without an outcome is left alone: it is taken over by itself when its lease ends.
_LEASED = "status = 'sent' AND coalesce(processed_at, received_at) < :before::timestamptz"
_PLAIN = "received_at < :before::timestamptz"


class Inbox:
    """The inbox of one consumer."""

    def __init__(self, consumer: Consumer, settings: Settings) -> None:
        self.table = consumer.inbox
        self._database = Database(settings.postgres_dsn(consumer.role), settings=settings, application="orderflow replay --force")
        self._where = ""

    def now(self) -> str:
        """The time by the clock that dates its rows."""
        return str(self._database.transact(lambda tx: tx.run("SELECT clock_timestamp()::text"))[0][0])

    def known(self, event_ids: list[str]) -> int:
        """How many of these events it holds."""
        sql = f"SELECT count(*) FROM {self.table} WHERE event_id = ANY(:ids::text[])"  # noqa: S608  the name of a table of ours
        return int(self._database.transact(lambda tx: tx.run(sql, ids=event_ids))[0][0])

    async def holds(self, event_id: str, before: str) -> bool:
        """Whether it holds the row of an event that was handled before that time. Raises Unavailable."""
        return bool(await self._database.run(lambda tx: tx.run(f"SELECT 1 {self._from(tx)}", id=event_id, before=before)))

    async def forget(self, event_id: str, before: str) -> None:
        """Remove that row. Raises Unavailable."""
        await self._database.run(lambda tx: tx.run(f"DELETE {self._from(tx)}", id=event_id, before=before))

    def _from(self, tx: Transaction) -> str:
        if not self._where:
            leased = "processed_at" in {row[0] for row in tx.run(_COLUMNS, inbox=self.table)}
            self._where = f"FROM {self.table} WHERE event_id = :id AND {_LEASED if leased else _PLAIN}"
        return self._where

    def close(self) -> None:
        """Let go of its connections."""
        self._database.close()


def patient(settings: Settings) -> Settings:
    """The same settings for statements about a hundred thousand rows."""
    return settings.model_copy(update={"statement_timeout": 600.0, "lock_timeout": 30.0, "delivery_deadline": 900.0})
