"""What the consumers' inboxes know of letters: an event that was handled after all needs nobody's work."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from shared import errors, topics
from shared.config import Settings
from shared.database import Database, Transaction
from shared.letters import Entry

# A leased inbox says `sent` when the effect is done; the others have a row only then.
_DONE = """
SELECT event_id, event_type, order_id, coalesce((to_jsonb(i)->>'processed_at')::timestamptz, received_at) FROM {inbox} AS i
WHERE event_id = ANY(:ids::text[]) AND coalesce(to_jsonb(i)->>'status', 'sent') = 'sent'
"""


def by_group(settings: Settings) -> dict[str, topics.Consumer]:
    """Every consumer by its group, under the name that the file gives it and the one that the environment does."""
    found: dict[str, topics.Consumer] = {}
    for (_, declared), (_, named) in zip(topics.read().consumers(), topics.catalogue(settings).consumers(), strict=True):
        found[declared.group] = found[named.group] = named
    return found


class Inboxes:
    """The inboxes of all consumers, each in its own database. `away` are those that did not answer."""

    def __init__(self, settings: Settings) -> None:
        self.away: set[str] = set()
        self._settings = settings
        self._consumers = by_group(settings)
        self._databases: dict[str, Database] = {}

    def done(self, entries: Iterable[Entry]) -> dict[str, datetime]:
        """Since when the events of these letters are done, by letter id; those of which no inbox knows are left out."""
        wanted: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in entries:
            consumer = self._consumers.get(entry.consumer)
            if consumer is not None and entry.event_id is not None:
                wanted[consumer.role, consumer.inbox].append(entry)
        found: dict[str, datetime] = {}
        for (role, inbox), asked in wanted.items():
            try:
                known = {row[0]: row[1:] for row in self._known(role, inbox, sorted({entry.event_id or "" for entry in asked}))}
            except errors.OrderflowError:
                self.away.add(inbox)
                continue
            for entry in asked:
                event_type, order_id, since = known.get(entry.event_id or "", (None, None, None))
                # A letter about another event that reuses the id is not done.
                same = entry.event_type in {None, event_type} and entry.order_id in {None, order_id}
                if since is not None and same:
                    found[entry.letter_id] = since
        return found

    def _known(self, role: str, inbox: str, event_ids: list[str]) -> list[list[Any]]:
        dsn = self._settings.postgres_dsn(role)
        if dsn not in self._databases:
            self._databases[dsn] = Database(dsn, settings=self._settings, application="orderflow dlq")

        def work(tx: Transaction) -> list[list[Any]]:
            return tx.run(_DONE.format(inbox=inbox), ids=event_ids)

        return self._databases[dsn].transact(work)

    def close(self) -> None:
        """Let go of their connections."""
        for database in self._databases.values():
            database.close()
