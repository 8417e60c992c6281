"""`python -m bench.http_load JOB`: sends prepared HTTP requests, back to back or at a steady rate, and prints what came back.

A process of its own, so that it takes as little as it can of the machine that is measured. JOB is JSON:
url, kind (events, orders), count, warm_up, connections, per_second (null: as fast as they are answered).
"""

import asyncio
import functools
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench import dataset
from bench.http_connection import Connection

STEP_S = 0.001
SETTLE_S = 60.0


class _Load:
    """The requests of one job."""

    def __init__(self, requests: list[bytes], per_second: float | None, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._missing = 0  # connections that the server has closed; some close what was idle for two seconds
        self._requests = deque(requests)
        self._left = len(requests)
        self._period_s = 1.0 / per_second if per_second else None
        self._idle: deque[Connection] = deque()
        self._waiting: deque[float] = deque()  # moments at which requests were due that no connection was free for
        self.waits_s: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.locations: list[str] = []
        self.started_at = self.ended_at = time.time()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, connections: int) -> None:
        for _ in range(connections):
            await self._connect()
        self.started_at = time.time()
        if self._period_s is None:
            while self._idle and self._requests:
                self._idle.popleft().send(self._requests.popleft(), time.perf_counter())
        else:
            await self._pace(self._period_s)
        await self.ended
        self.ended_at = time.time()

    async def _connect(self) -> None:
        _, made = await asyncio.get_running_loop().create_connection(functools.partial(Connection, self), self._host, self._port)
        self._idle.append(made)

    def close(self) -> None:
        """Close all connections; none is in use."""
        for connection in self._idle:
            connection.close()

    async def _pace(self, period_s: float) -> None:
        # A wait counts from when a request was due, so that a slow answer makes those behind it late too.
        due_at = time.perf_counter()
        while self._requests and not self.ended.done():
            now = time.perf_counter()
            while due_at <= now and len(self._waiting) < len(self._requests):
                self._waiting.append(due_at)
                due_at += period_s
            while self._waiting and self._missing and not self._idle:
                self._missing -= 1
                await self._connect()
            while self._waiting and self._idle:
                self._idle.popleft().send(self._requests.popleft(), self._waiting.popleft())
            await asyncio.sleep(STEP_S)

    def answered(self, connection: Connection, head: bytes, body: bytes) -> None:
        del body
        self.waits_s.append(time.perf_counter() - connection.sent_at)
        self.statuses[head[9:12].decode()] += 1
        at = head.find(b"location: /orders/")
        if at >= 0:
            self.locations.append(head[at + 18 : at + 54].decode())
        self._left -= 1
        if not self._left:
            self._idle.append(connection)
            self.ended.set_result(None)
        elif self._waiting:
            connection.send(self._requests.popleft(), self._waiting.popleft())
        elif self._period_s is None and self._requests:
            connection.send(self._requests.popleft(), time.perf_counter())
        else:
            self._idle.append(connection)

    def lost(self, connection: Connection, exc: Exception | None) -> None:
        if connection in self._idle and self._period_s is not None:
            self._idle.remove(connection)
            self._missing += 1
        elif not self.ended.done():
            self.ended.set_exception(ConnectionError(f"a connection was closed: {exc}"))


async def main(job: dict[str, Any]) -> dict[str, Any]:
    """Warm up, then measure. Waits are in milliseconds, moments in seconds since 1970."""
    url = urlsplit(job["url"])
    host, port = url.hostname or "", url.port or 80
    requests = list(_requests(job, f"{host}:{port}", url.path or "/"))
    warm_up = requests[: job["warm_up"]]
    locations: list[str] = []
    for part, per_second in ((warm_up, None), (requests[job["warm_up"] :], job.get("per_second"))):
        load = _Load(part, per_second, host, port)
        if part:
            await load.run(job["connections"])
        load.close()
        locations += load.locations
    waits = sorted(1e3 * wait for wait in load.waits_s)
    return {
        "started_at": load.started_at,
        "ended_at": load.ended_at,
        "statuses": load.statuses,
        "locations": locations,
        "waits_ms": waits[:: max(1, len(waits) // 10_000)],
    }


def _requests(job: dict[str, Any], host: str, path: str) -> Iterable[bytes]:
    if job["kind"] == "orders":
        for body in dataset.new_orders(job["count"]):
            yield _request(host, path, {"content-type": "application/json"}, body)
        return
    events = dataset.Dataset(job["count"])
    for event in events.assembled():
        headers = {"Prefer": "reply", "Kn-Namespace": "orderflow", "ce-kafkatopic": "order.assembly.completed"}
        yield _request(host, path, headers | dataset.http_headers(event), events.value(event))


def _request(host: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    told = "".join(f"{name}: {text}\r\n" for name, text in headers.items())
    return f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{told}content-length: {len(body)}\r\n\r\n".encode() + body


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(json.loads(sys.argv[1])))))  # noqa: T201  its result
