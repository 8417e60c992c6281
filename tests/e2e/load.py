"""A steady load whose every part is known: orders by POST through an address, and events that others write to the topic."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx
from confluent_kafka import Producer

from tests import controls, stack

CLIENTS = 3
PAUSE_S = 0.1
ORDERS_PER_CONNECTION = 5


class Load:
    """What was placed, what was written, and every answer that was not 201."""

    def __init__(self, orders_url: str, brokers: str, topic: str) -> None:
        self.placed: dict[str, str] = {}  # idempotency key → order
        self.written: dict[str, str] = {}  # event → order
        self.refused: list[str] = []
        self._orders_url, self._brokers, self._topic = orders_url, brokers, topic
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send until the block ends; all of it is answered or written then."""
        threads = [threading.Thread(target=self._place, args=(number,)) for number in range(CLIENTS)]
        threads.append(threading.Thread(target=self._write))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def goes_on(self, orders: int = 10) -> None:
        """Wait for so many orders more."""
        before = len(self.placed)
        stack.eventually(lambda: len(self.placed) >= before + orders, f"{orders} orders more; refused: {self.refused[:3]}")

    def _place(self, client_number: int) -> None:
        """As a client that goes away now and then, and never asks twice."""
        with httpx.Client(base_url=self._orders_url, timeout=30, trust_env=False) as client:
            number = 0
            while not self._stop.wait(PAUSE_S):
                number += 1
                last = {"connection": "close"} if number % ORDERS_PER_CONNECTION == 0 else {}
                self._order(client, f"{client_number}-{number}", last)

    def _order(self, client: httpx.Client, key: str, headers: Mapping[str, str]) -> None:
        body = {"user_id": f"user-{key}", "items": [{"product_id": "tea", "quantity": 2}]}
        try:
            answer = client.post("/orders", json=body, headers={"idempotency-key": key, **headers})
        except httpx.TransportError as exc:
            self.refused.append(f"{key}: {exc!r}")
            return
        if answer.status_code == 201:
            self.placed[key] = answer.json()["id"]
        else:
            self.refused.append(f"{key}: {answer.status_code} {answer.text}")

    def _write(self) -> None:
        """Events as another producer writes them: without headers, and without fields that came later."""
        producer = Producer(stack.CLIENT | {"bootstrap.servers": self._brokers, "acks": "all", "enable.idempotence": True})
        while not self._stop.wait(PAUSE_S):
            event = controls.paid()
            producer.produce(self._topic, json.dumps(event).encode(), key=event["order_id"])
            self.written[event["event_id"]] = event["order_id"]
            producer.poll(0)
        assert producer.flush(stack.PATIENCE_S) == 0
