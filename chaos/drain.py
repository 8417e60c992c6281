"""Whether nothing is left to do: no lag, no row in the outbox, no open lease. Asked directly, of Kafka and PostgreSQL themselves."""

import asyncio
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ops import topics_admin
from shared import broker, database, errors, topics
from shared.config import Settings

ANSWER_S = 10.0
EVERY_S = 1.0
SETTLED = 3  # so many looks in a row have to find nothing
_LEFT = """
SELECT (SELECT count(*) FROM order_outbox_events WHERE status = 'pending'),
       (SELECT count(*) FROM order_outbox_events WHERE status = 'failed'),
       (SELECT count(*) FROM notification_inbox_events WHERE status = 'claimed')
"""


class Drain:
    """Looks at what is left."""

    def __init__(self, settings: Settings) -> None:
        self.left = ""  # when it last looked
        self._settings = settings
        self._database = database.Database(settings.postgres_dsn("order"), settings=settings, application="chaos-drain")
        self._admin = topics_admin.Admin(settings)

    async def wait(self, still_s: float) -> str:
        """Wait until nothing is left, or what is left has not changed for `still_s`. What is left then; nothing, if nothing is."""
        changed, empty = time.monotonic(), 0
        while empty < SETTLED and time.monotonic() < changed + still_s:
            before, self.left = self.left, await asyncio.to_thread(self._look)
            if self.left != before:
                changed = time.monotonic()
            empty = 0 if self.left else empty + 1
            await asyncio.sleep(EVERY_S)
        return self.left

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def _look(self) -> str:
        try:
            lags = self._lags()
            [[pending, failed, claimed]] = self._database.transact(lambda tx: tx.run(_LEFT))
        except (errors.OrderflowError, KafkaException) as exc:
            return str(exc)
        parts = [f"{group} lags by {lag}" for group, lag in lags.items() if lag]
        rows = {"rows of the outbox are pending": pending, "are set aside": failed, "messages are claimed and not sent": claimed}
        return "; ".join([*parts, *(f"{count} {what}" for what, count in rows.items() if count)])

    def _lags(self) -> dict[str, int]:
        known = topics.catalogue(self._settings)
        parts = self._admin.partitions()
        ends = self._admin.ends((topic.name, number) for topic in known.topics if topic.consumers for number in range(parts[topic.name][0]))
        lags = {}
        for topic, consumer in known.consumers():
            committed = self._committed(consumer.group, [place for place in ends if place[0] == topic.name])
            lags[consumer.group] = sum(ends[place] - at for place, at in committed.items())
        return lags

    def _committed(self, group: str, places: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Where `group` stands, asked by a consumer that joins nothing: the admin client dies of an answer that names no coordinator."""
        consumer = Consumer(broker.client(self._settings, "chaos-drain") | {"group.id": group, "enable.auto.commit": False})
        try:
            found = consumer.committed([TopicPartition(*place) for place in places], timeout=ANSWER_S)
        finally:
            consumer.close()
        return {(part.topic, part.partition): max(0, part.offset) for part in found}
