"""Letters into Kafka: confirmed by every replica in sync, or a failure. One thread collects confirmations for all requests."""

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shared import errors
from shared.config import Settings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

log = logging.getLogger(__name__)

QUEUE_KILOBYTES_MAX = 64 * 1024
POLL_S = 0.5
GRACE_S = 2.0  # how much longer than Kafka's own delivery timeout a confirmation is waited for
METADATA_S = 2.0


class NotSent(errors.Unavailable):
    """Kafka did not confirm the letter."""

    code = "kafka_away"


class Kafka:
    """The producer, made at the first letter: importing it takes longer than starting the function without it."""

    def __init__(self, settings: Settings, *, letter_bytes_max: int) -> None:
        self._settings, self._letter_bytes_max = settings, letter_bytes_max
        self._client: _Client | None = None

    async def send(self, topic: str, *, key: bytes | None, value: bytes, headers: Mapping[str, str]) -> None:
        """Return when Kafka has confirmed the record. Raises NotSent; then the record may be there all the same."""
        client = self._running()
        try:
            async with asyncio.timeout(self._settings.dlq_producer_timeout + GRACE_S):
                error = await client.produced(topic, key, value, headers)
        except TimeoutError:
            raise NotSent("Kafka said nothing of the letter") from None
        if error is not None:
            if (error.fatal() or error.name() == "_FATAL") and self._client is client:
                log.error("the Kafka producer cannot go on and is made anew", extra={"reason": error.str()})
                self._client = None
                client.retire()
            raise NotSent(f"{error.name()}: {error.str()}")

    async def ping(self) -> None:
        """Whether a broker answers. Raises NotSent."""
        await asyncio.to_thread(self._running().ping)

    async def close(self) -> None:
        """Wait for the letters on their way, and end."""
        if self._client is not None:
            await asyncio.to_thread(self._client.close, self._settings.dlq_producer_timeout)

    def _running(self) -> "_Client":
        """The client. Raises NotSent where Kafka's client does not take the settings: the outbox then takes the letters."""
        if self._client is None:
            from confluent_kafka import Producer

            from shared import broker

            try:
                producer = broker.producer(
                    self._settings,
                    "dlq_router",
                    delivery_timeout_s=self._settings.dlq_producer_timeout,
                    message_bytes_max=self._letter_bytes_max,
                    **{
                        "linger.ms": 2,
                        "queue.buffering.max.kbytes": QUEUE_KILOBYTES_MAX,
                        # How long an unknown topic may be new; then it is unknown, and not a timeout.
                        "topic.metadata.propagation.max.ms": 2000,
                        "topic.metadata.refresh.interval.ms": 5000,  # a topic that was missing is found again after that
                    },
                )
            except errors.ConfigError as exc:
                raise NotSent("; ".join(exc.faults), code="kafka_settings") from exc
            self._client = _Client(Producer(producer))
        return self._client


class _Client:
    """A producer and the thread that serves its confirmations."""

    def __init__(self, producer: "Producer") -> None:
        self._producer = producer
        self._loop = asyncio.get_running_loop()
        self._confirmed: list[tuple[asyncio.Future[KafkaError | None], KafkaError | None]] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="letters", daemon=True)
        self._thread.start()

    async def produced(self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, str]) -> "KafkaError | None":
        """Hand the record to the producer; what Kafka says of it."""
        from confluent_kafka import KafkaException

        answer: asyncio.Future[KafkaError | None] = self._loop.create_future()

        def confirmed(error: "KafkaError | None", _message: object) -> None:
            self._confirmed.append((answer, error))  # in the thread below

        try:
            self._producer.produce(topic, value, key, headers=list(headers.items()), on_delivery=confirmed)
        except BufferError as exc:
            raise NotSent("too many letters wait for Kafka", code="kafka_queue_full") from exc
        except KafkaException as exc:
            error: KafkaError = exc.args[0]
            return error
        return await answer

    def ping(self) -> None:
        """Ask a broker for its name. Raises NotSent."""
        from confluent_kafka import KafkaException

        try:
            self._producer.list_topics(timeout=METADATA_S)
        except KafkaException as exc:
            raise NotSent(str(exc.args[0])) from exc

    def retire(self) -> None:
        """End once what is on its way is known."""
        self._ending.set()

    def close(self, wait_s: float) -> None:
        """Wait for what is on its way, at most `wait_s`, and end the thread."""
        self._producer.flush(wait_s)
        self._ending.set()
        self._thread.join(POLL_S * 4)

    def _serve(self) -> None:
        while not self._ending.is_set() or len(self._producer):
            self._producer.poll(POLL_S)  # returns with every confirmation that is there
            if self._confirmed:
                ready, self._confirmed = self._confirmed, []
                try:
                    self._loop.call_soon_threadsafe(_tell, ready)
                except RuntimeError:  # the loop has ended, and its requests with it
                    return


def _tell(ready: list[tuple["asyncio.Future[Any]", Any]]) -> None:
    for answer, error in ready:
        if not answer.done():
            answer.set_result(error)
