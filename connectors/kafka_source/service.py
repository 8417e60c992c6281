"""One source as a whole: its pump in the event loop, its reader in a thread, and what both say of it."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from connectors.kafka_source import letter, metrics, sink
from connectors.kafka_source.consumer import Reader
from connectors.kafka_source.plan import Source
from connectors.kafka_source.pump import Pump
from shared import bearer
from shared.config import Settings

log = logging.getLogger(__name__)

_WATCH_S = 0.5
_LEAVE_S = 5.0  # how long the last commit and the goodbye may take


class Service:
    """A source that runs."""

    def __init__(self, source: Source, settings: Settings, failed: Callable[[BaseException], None]) -> None:
        self.source = source
        self._function, self._http = sink.clients(source, bearer.headers(settings.delivery_token))
        self._shutdown_timeout_s = settings.shutdown_timeout
        self.pump = Pump(
            source, sink.Sink(source, self._function, self._http), letter.Letters(source, self._http, failed), settings, failed
        )
        self.reader = Reader(source, settings, self.pump, asyncio.get_running_loop(), failed)
        self._state: tuple[str, str | None] = ("starting", None)
        self._since = datetime.now(UTC)
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read."""
        self.reader.start()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    def pause(self, reason: str) -> None:
        """Deliver nothing until `resume`; what is in flight ends."""
        self.pump.held = reason
        log.warning("paused by hand", extra={"source": self.source.name, "reason": reason})

    def resume(self, accept_letters: int | None = None) -> None:
        """Deliver again. The breaker begins to count anew, or lets so many letters through before it trips again."""
        self.pump.resume(accept_letters)
        log.info("resumed by hand", extra={"source": self.source.name, "accept_letters": accept_letters})

    async def stop(self) -> None:
        """Start nothing new, let what is in flight end within SHUTDOWN_TIMEOUT, commit, leave the group."""
        if self._watching is not None:
            self._watching.cancel()
        await self.pump.stop(self._shutdown_timeout_s)
        self.reader.end()
        await asyncio.to_thread(self.reader.join, self._shutdown_timeout_s + _LEAVE_S)
        if self.reader.is_alive():
            log.warning("Kafka does not answer: the group was not left in good order", extra={"source": self.source.name})
        self._function.close()
        await self._http.aclose()

    def status(self) -> dict[str, object]:
        """What `GET /sources` says of it."""
        state = self._now()
        if state != self._state:
            self._state, self._since = state, datetime.now(UTC)
        return {
            "topic": ",".join(self.source.topics),
            "group": self.source.group,
            "function": self.source.sink,
            "lag": self.reader.lag(),
            "state": state[0],
            "reason": state[1],
            "since": self._since.isoformat(timespec="milliseconds"),
            "breaker": self.pump.breaker.status(),
            "partitions": sorted(number for _, number in list(self.reader.assignment.partitions)),
        }

    async def _watch(self) -> None:
        """Notice a change of state when it happens, not when somebody asks."""
        while True:
            self.status()
            await asyncio.sleep(_WATCH_S)

    def measure(self) -> None:
        """Set the gauges."""
        name = self.source.name
        lag = self.reader.lag()
        metrics.lag.labels(name).set(float("nan") if lag is None else lag)
        metrics.paused.labels(name, "hand").set(self.pump.held is not None)
        metrics.paused.labels(name, "outage").set(self.pump.outage.paused)
        metrics.paused.labels(name, "breaker").set(self.pump.breaker.open)

    def _now(self) -> tuple[str, str | None]:
        pump = self.pump
        if pump.stopping:
            return "stopped", None
        if pump.held is not None:
            return "paused", pump.held
        if pump.breaker.open:
            return "paused", f"{pump.breaker.reason}; and its probe: {pump.outage.reason}" if pump.outage.paused else pump.breaker.reason
        if pump.outage.paused:
            return ("probing" if pump.probing else "paused"), pump.outage.reason
        if not self.reader.assignment.known:
            return "starting", self.reader.trouble
        return "running", self.reader.trouble
