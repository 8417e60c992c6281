"""`orderflow demo`: five orders and a poison record go through the whole system, and what became of them is looked up, not assumed."""

import base64
import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import httpx
import typer
from confluent_kafka import Producer
from pydantic import SecretStr
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ops import home, stand, terminal
from ops.tail import Tail, tail
from shared import broker, config, database, errors, events, topics
from shared.config import Settings

ORDERS = 5
_EVERY_S = 0.2
_STEPS = ("paid", "payment announced", "assembled", "assembly announced")

_LOOK = """
SELECT o.id, o.status, o.created_at,
       (SELECT processed_at FROM notification_inbox_events n WHERE n.order_id = o.id AND n.event_type = :paid AND n.status = 'sent'),
       (SELECT received_at FROM order_inbox_events i WHERE i.order_id = o.id),
       (SELECT processed_at FROM notification_inbox_events n WHERE n.order_id = o.id AND n.event_type = :assembled AND n.status = 'sent')
  FROM orders o WHERE o.id = ANY(:ids)
"""


@dataclass
class _Seen:
    """One order: when each step was done, in seconds since it was placed, by the database's clock."""

    order_id: str
    status: str = ""
    steps: list[float | None] = field(default_factory=lambda: [None] * len(_STEPS))

    @property
    def done(self) -> bool:
        return self.status == "assembled" and None not in self.steps


@dataclass
class _Poison:
    """The record that nobody can handle, and the letters that came of it."""

    value: bytes
    wanted: frozenset[str]
    letters: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.wanted <= self.letters.keys()


@terminal.failures()
def demo(
    *, patience: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait, beside the assembly time, such as 60s.")] = "60s"
) -> None:
    """Place 5 orders and one poison record, watch them, and exit 0 only if each order was assembled and announced and each letter written.

    Uses the system of this checkout where it runs already; else starts it, from nothing, and ends it afterwards.
    """
    began = time.monotonic()
    settings = config.load()
    try:
        patience_s = config.seconds(patience)
    except ValueError as exc:
        raise terminal.usage(f"--patience {exc}") from exc
    with stand.running(home.folder(), say=terminal.note) as told:
        placed_at = time.monotonic()
        faults = _play(told, _of(told, settings), patience_s)
    if faults:
        for fault in faults:
            terminal.complain(fault)
        raise typer.Exit(terminal.FAILED)
    terminal.say(
        f"{ORDERS} orders were paid, assembled and announced twice each; the poison record became a letter for each of its consumers. "
        f"That took {time.monotonic() - placed_at:.1f} s, and {time.monotonic() - began:.1f} s with everything around it.",
        style="bold green",
    )


def _play(told: dict[str, Any], settings: Settings, patience_s: float) -> list[str]:
    catalogue = topics.catalogue(settings)
    paid = settings.topic(events.OrderPaid.TYPE)
    assembled = settings.topic(events.OrderAssembled.TYPE)
    letters = sorted({consumer.dead_letter_topic for topic, consumer in catalogue.consumers() if topic.name == paid})
    groups = frozenset(consumer.group for topic, consumer in catalogue.consumers() if topic.name == paid)
    url = told["functions"]["orders"]["url"]
    found = database.Database(settings.postgres_dsn("order"), settings=settings, application="orderflow-demo")
    try:
        with tail(settings, [assembled, *letters]) as records:
            orders = [_Seen(_place(url, number)) for number in range(ORDERS)]
            poison = _Poison(_poisoned(settings, paid), groups)
            with _shown(orders, poison) as show:
                deadline = time.monotonic() + settings.assembly_duration + patience_s
                while time.monotonic() < deadline and not (poison.done and all(order.done for order in orders)):
                    time.sleep(_EVERY_S)
                    _look(found, orders)
                    records.read()
                    _letters(records, letters, poison)
                    show()
            records.read(within_s=1.0)  # a second event for an order would be a fault, so wait for what may still come
            _show_letters(poison)
            return [*_faults(orders, records, assembled, url), *_missing(poison)]
    finally:
        found.close()


def _of(told: dict[str, Any], settings: Settings) -> Settings:
    """The settings with which the running system is reached."""
    update: dict[str, Any] = {"kafka_brokers": told["kafka"]["brokers"]}
    if told["postgres"]["ours"]:
        update["postgres_dsns"] = {"order": SecretStr(told["postgres"]["dsn"])}
    return settings.model_copy(update=update)


def _place(url: str, number: int) -> str:
    body = {"user_id": f"demo-user-{number + 1}", "items": [{"product_id": f"part-{number + 1}", "quantity": number + 1}]}
    answer = httpx.post(f"{url}/orders", json=body, timeout=20, trust_env=False)
    if answer.status_code != 201:
        raise errors.Unavailable(f"POST {url}/orders answered {answer.status_code}: {answer.text[:300]}")
    return str(answer.json()["id"])


def _poisoned(settings: Settings, topic: str) -> bytes:
    value = f'{{"event_id": "poison-{uuid.uuid4()}", "event_type": "{events.OrderPaid.TYPE}", "order_id": "cut off in the midd'.encode()
    faults: list[str] = []
    producer = Producer(broker.producer(settings, "orderflow-demo", delivery_timeout_s=20, message_bytes_max=1 << 20))
    producer.produce(topic, value, key=b"poison", on_delivery=lambda fault, _: faults.append(fault.str()) if fault else None)
    left = producer.flush(25)
    if left or faults:
        raise errors.Unavailable(f"Kafka at {settings.kafka_brokers} did not take the poison record: {', '.join(faults) or 'no answer'}")
    return value


def _look(found: database.Database, orders: list[_Seen]) -> None:
    by_id = {order.order_id: order for order in orders}
    types = {"paid": events.OrderPaid.TYPE, "assembled": events.OrderAssembled.TYPE}
    for order_id, status, created_at, *moments in found.transact(lambda tx: tx.run(_LOOK, ids=list(by_id), **types)):
        by_id[order_id].status = status
        by_id[order_id].steps = [0.0, *(_since(created_at, moment) for moment in moments)]


def _since(created_at: datetime, moment: datetime | None) -> float | None:
    return None if moment is None else (moment - created_at).total_seconds()


def _letters(records: Tail, names: list[str], poison: _Poison) -> None:
    for name in names:
        for message in records.of(name):
            letter = json.loads(message.value() or b"{}")
            if base64.b64decode(letter.get("original_value") or "") == poison.value:
                poison.letters[letter["consumer"]] = letter | {"on": name}


def _faults(orders: list[_Seen], records: Tail, assembled: str, url: str) -> Iterator[str]:
    keys = [(message.key() or b"").decode("utf-8", "replace") for message in records.of(assembled)]
    for order in orders:
        missing = [step for step, at in zip(_STEPS, order.steps, strict=True) if at is None]
        if missing:
            yield f"order {order.order_id}: not {', not '.join(missing)}"
        if keys.count(order.order_id) != 1:
            yield f"order {order.order_id}: {keys.count(order.order_id)} events on {assembled}, wanted 1"
        answer = httpx.get(f"{url}/orders/{order.order_id}", timeout=20, trust_env=False)
        if answer.status_code != 200 or answer.json()["status"] != "assembled":
            yield f"order {order.order_id}: GET answers {answer.status_code} {answer.text[:200]}"


def _missing(poison: _Poison) -> Iterator[str]:
    for group in sorted(poison.wanted - poison.letters.keys()):
        yield f"the poison record has no letter of {group}"


def _show_letters(poison: _Poison) -> None:
    for group, letter in sorted(poison.letters.items()):
        terminal.say(f"letter on {letter['on']}, of {group}: {letter['error_code']}: {letter['error_message']}", style="yellow")
        terminal.say(f"  the record itself: {terminal.printable(base64.b64decode(letter['original_value']))}")


@contextmanager
def _shown(orders: list[_Seen], poison: _Poison) -> Iterator[Any]:
    if sys.stdout.isatty():
        with Live(_table(orders, poison), console=Console(), refresh_per_second=5) as live:
            yield lambda: live.update(_table(orders, poison))
            live.update(_table(orders, poison))
        return
    told: set[str] = set()

    def lines() -> None:
        news = [
            f"order {o.order_id}: {step} after {at:.1f} s"
            for o in orders
            for step, at in zip(_STEPS, o.steps, strict=True)
            if at is not None
        ]
        news += [f"poison record: a letter of {group}" for group in sorted(poison.letters)]
        for line in news:
            if line not in told:
                told.add(line)
                terminal.say(line)

    yield lines


def _table(orders: list[_Seen], poison: _Poison) -> Table:
    table = Table("order", *_STEPS, show_edge=False)
    for order in orders:
        table.add_row(f"…{order.order_id[-8:]}", *("…" if at is None else f"{at:.1f} s" for at in order.steps))
    table.add_section()
    table.add_row("poison record", *[""] * 3, f"{len(poison.letters)} of {len(poison.wanted)} letters", style="yellow")
    return table
