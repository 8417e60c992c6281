"""Which topics Kafka has. A record for one that it has not would wait in the client and hold up its neighbours' transaction."""

import logging
import threading
import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from shared import broker, errors
from shared.config import Settings

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
LOOK_TIMEOUT_S = 5.0
_UNKNOWN = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.TOPIC_EXCEPTION})


class Topics:
    """Topics by whether Kafka knows them. An unknown one's rows are held back, and given up after `unknown_max_s`."""

    def __init__(self, settings: Settings) -> None:
        self._admin = AdminClient(broker.client(settings, "orderflow-relay-topics"))
        self._unknown_max_s = settings.relay_topic_unknown_max
        self._known: set[str] = set()
        self._unknown_since: dict[str, float] = {}
        self._looked_at = 0.0
        self._gate = threading.Lock()

    def look(self, names: set[str]) -> None:
        """Find out about those of `names` that are not known, and again about the unknown ones. Raises Unavailable."""
        with self._gate:
            fresh = names - self._known - set(self.held())  # a row is about to be set aside: is its topic still not there?
            if self._unknown_since and time.monotonic() - self._looked_at >= LOOK_INTERVAL_S:
                fresh |= self._unknown_since.keys()
                self._looked_at = time.monotonic()
            for name in fresh:
                self._settle(name, exists=self._exists(name))

    def lost(self, name: str) -> None:
        """A report said that the topic `name` is not there after all."""
        with self._gate:
            self._settle(name, exists=False)

    def doubt(self, names: set[str]) -> None:
        """Records for `names` got no report: they may have been deleted, so look again before the next."""
        with self._gate:
            self._known -= names

    def held(self) -> list[str]:
        """The topics that are unknown, but not yet for so long that their rows are to be set aside."""
        now = time.monotonic()
        return [name for name, since in list(self._unknown_since.items()) if now - since < self._unknown_max_s]

    def missing(self, name: str) -> bool:
        """Whether `name` is unknown, whatever for how long."""
        return name in self._unknown_since

    def reachable(self, timeout_s: float) -> bool:
        """Whether Kafka answers now."""
        try:
            self._admin.list_topics(topic="__consumer_offsets", timeout=timeout_s)
        except KafkaException:
            self._say_why()
            return False
        return True

    def _say_why(self) -> None:
        """Have what the client knows of its connections logged: it tells of a wrong password only when it is polled."""
        self._admin.poll(0)

    def _exists(self, name: str) -> bool:
        try:
            found = self._admin.list_topics(topic=name, timeout=LOOK_TIMEOUT_S).topics.get(name)
        except KafkaException as exc:
            self._say_why()
            raise errors.Unavailable(f"Kafka does not answer: {exc.args[0].str()}", code="kafka_away") from exc
        return found is not None and (found.error is None or found.error.code() not in _UNKNOWN)

    def _settle(self, name: str, *, exists: bool) -> None:
        if exists:
            self._known.add(name)
            if self._unknown_since.pop(name, None) is not None:
                log.info("the topic is there now", extra={"topic": name})
        elif name not in self._unknown_since:
            self._known.discard(name)
            self._unknown_since[name] = time.monotonic()
            log.warning("Kafka does not know the topic: its rows wait", extra={"topic": name, "set_aside_after_s": self._unknown_max_s})
