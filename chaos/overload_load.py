"""`python -m chaos.overload_load JOB`: offers requests at a steady rate, whatever becomes of them, and prints what did.

A process of its own, so that it takes little of the machine that it loads. JOB is JSON: url, kind (orders,
events: batches of them), name (of what it sends), seconds, connections, per_second (null: as fast as they are answered) and accepted, a
file for the ids of what was answered well. A request that is due while no connection is free is not sent, and counted.
"""

import asyncio
import contextlib
import functools
import json
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import uvloop

from bench.http_connection import Connection
from shared import events

BATCH_EVENTS = 50
STEP_S = 0.001
SETTLE_S = 90.0  # a request that was taken may wait for DELIVERY_DEADLINE
WINDOW_S = 10.0
_PLACE = "@@"


class Load:
    """The requests of one job."""

    def __init__(self, job: dict[str, Any], accepted: IO[str]) -> None:
        url = urlsplit(job["url"])
        self._host, self._port = url.hostname or "", url.port or 80
        self._requests = REQUESTS[job["kind"]](job["name"], f"{self._host}:{self._port}", url.path or "/")
        self._seconds, self._per_second, self._wanted = job["seconds"], job["per_second"], job["connections"]
        self._accepted = accepted
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._missing = 0
        self._ending, self._answered_all = False, asyncio.Event()
        self._numbers = iter(range(sys.maxsize))
        self._began = 0.0
        self.sent = self.unsent = self.done = self.without_retry_after = 0
        self.statuses: Counter[str] = Counter()
        self.waits: list[array[float]] = []  # of what was done, by windows

    async def run(self) -> None:
        """Offer, then wait for what was not answered yet."""
        for _ in range(self._wanted):
            await self._connect()
        self._began = time.perf_counter()
        await (self._pace(self._per_second) if self._per_second else self._back_to_back())
        self._ending = True
        if self._busy:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered_all.wait(), SETTLE_S)
        self.statuses["no answer"] += len(self._busy)
        for connection in [*self._idle, *self._busy]:
            connection.close()

    async def _pace(self, per_second: float) -> None:
        offered = 0
        while (passed_s := time.perf_counter() - self._began) < self._seconds:
            while self._missing:
                self._missing -= 1
                await self._connect()
            due = int(passed_s * per_second) - offered
            for _ in range(due):
                if self._idle:
                    self._send(self._idle.popleft())
                else:
                    self.unsent += 1
            offered += due
            await asyncio.sleep(STEP_S)

    async def _back_to_back(self) -> None:
        while time.perf_counter() - self._began < self._seconds:
            while self._idle:
                self._send(self._idle.popleft())
            await asyncio.sleep(STEP_S)

    async def _connect(self) -> None:
        _, made = await asyncio.get_running_loop().create_connection(functools.partial(Connection, self), self._host, self._port)
        self._idle.append(made)

    def _send(self, connection: Connection) -> None:
        number = next(self._numbers)
        self._busy.add(connection)
        self.sent += 1
        request = self._requests(number)
        connection.send(request, time.perf_counter(), number)

    def answered(self, connection: Connection, head: bytes, body: bytes) -> None:
        """Count an answer."""
        now = time.perf_counter()
        status = head[9:12].decode()
        self._free(connection)
        if status in {"200", "201"}:
            self.statuses[status] += 1
            self.done += 1
            window = int((now - self._began) // WINDOW_S)
            while len(self.waits) <= window:
                self.waits.append(array("d"))
            self.waits[window].append(now - connection.sent_at)
            self._accepted.write(f"{json.loads(body)['id'] if status == '201' else connection.number}\n")
        elif status == "207":
            self.statuses.update(f"207 with {each['status']}" for each in json.loads(body)["results"])
        else:
            self.statuses[f"{status} {_code(body)}"] += 1
            self.without_retry_after += b"\r\nretry-after:" not in head
        if b"\r\nconnection: close" in head:
            connection.close()
        elif self._per_second is None and now - self._began < self._seconds:
            self._send(connection)
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection, exc: Exception | None) -> None:
        """Count a connection that has ended, and the request on it that got no answer."""
        del exc
        if connection in self._busy:
            self._free(connection)
            self.statuses["connection lost"] += 1
        elif connection in self._idle:
            self._idle.remove(connection)
        self._missing += 1

    def _free(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if self._ending and not self._busy:
            self._answered_all.set()


def _code(body: bytes) -> str:
    return str(json.loads(body)["code"])


def _orders(name: str, host: str, path: str) -> Any:
    del name

    def request(number: int) -> bytes:
        body = json.dumps({"user_id": f"user-{number % 5000}", "items": [{"product_id": f"p-{number % 7}", "quantity": 1}]}).encode()
        return b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            path.encode(), host.encode(), len(body), body,
        )  # fmt: skip

    return request


def event_id(name: str, number: int, of: int) -> str:
    """The id of an event of the batch `number`."""
    return f"{name}-{number}-{of}"


def _events(name: str, host: str, path: str) -> Any:
    event = events.OrderAssembled(event_id=_PLACE, occurred_at=datetime.now(UTC), order_id=_PLACE, user_id="user")
    facts = {"specversion": "1.0", "id": _PLACE, "type": event.event_type, "source": event.SOURCE, "datacontenttype": "application/json"}
    parts = json.dumps(facts | {"data": json.loads(event.value())}).encode().split(_PLACE.encode())

    def elements(number: int) -> Iterator[bytes]:
        for of in range(BATCH_EVENTS):
            yield event_id(name, number, of).encode().join(parts)

    def request(number: int) -> bytes:
        body = b"[" + b",".join(elements(number)) + b"]"
        return b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/cloudevents-batch+json\r\ncontent-length: %d\r\n\r\n%b" % (
            path.encode(), host.encode(), len(body), body,
        )  # fmt: skip

    return request


REQUESTS = {"orders": _orders, "events": _events}


async def offer(job: dict[str, Any], accepted: IO[str]) -> dict[str, Any]:
    """Offer the requests of `job`; counts, and waits in milliseconds."""
    load = Load(job, accepted)
    await load.run()
    waits = [wait for window in load.waits for wait in window]
    return {
        "offered": load.sent + load.unsent,
        "sent": load.sent,
        "unsent": load.unsent,
        "done": load.done,
        "statuses": dict(load.statuses),
        "without_retry_after": load.without_retry_after,
        "waits_ms": _waits(waits),
        "windows_ms": [_waits(window) for window in load.waits],
    }


def _waits(seconds: Any) -> dict[str, float]:
    found = sorted(seconds)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(1e3 * found[min(len(found) - 1, int(share * len(found)))], 1) for name, share in shares.items()} if found else {}


def main(job: dict[str, Any]) -> None:
    """Offer the requests of `job` and print what became of them."""
    with Path(job["accepted"]).open("w", encoding="utf-8") as accepted:
        print(json.dumps(uvloop.run(offer(job, accepted))))  # noqa: T201  its result


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
