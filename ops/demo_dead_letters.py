"""`orderflow demo-dead-letters`: a customer's notifications fail, an event is wrong; both are understood, put right and replayed."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import typer
from confluent_kafka import Producer

from ops import home, stand, terminal
from ops.telegram_stand_in import TelegramStandIn
from shared import broker, config, errors, events, topics

_PATIENCE_S = 90.0
_GOOD, _BROKEN = 3, 4
_BROKEN_USER = "customer-whose-notifications-fail"
_AMOUNT = 99_000


@terminal.failures()
def demo_dead_letters() -> None:
    """Break the notifications of one customer and send a wrong event; then find the causes, mend them, edit and replay.

    Exit code 0 only if in the end every order was announced exactly once for each of its events, and no letter of them is open.
    """
    if home.read_run(home.folder()) is not None:
        raise errors.Unavailable("`orderflow up` runs, and its Telegram is not ours to break: end it first, or set ORDERFLOW_HOME")
    with TelegramStandIn() as telegram, _environment(telegram.settings | {"ASSEMBLY_DURATION": "1s"}):
        telegram.refused = _BROKEN_USER
        with stand.running(home.folder(), say=terminal.note) as told, _environment(_servers(told)):
            faults = _play(told, telegram)
    for fault in faults:
        terminal.complain(fault)
    if faults:
        raise typer.Exit(terminal.FAILED)
    terminal.say("every order was announced exactly once for each of its events, and no letter of them is open", style="bold green")


def _play(told: dict[str, Any], telegram: TelegramStandIn) -> list[str]:
    since = datetime.now(UTC).isoformat(timespec="milliseconds")  # letters of an earlier run are left alone
    orders = [_place(told, f"customer-{number + 1}") for number in range(_GOOD)] + [_place(told, _BROKEN_USER) for _ in range(_BROKEN)]
    wrong = _send_wrong_event(told["kafka"]["brokers"])
    terminal.say(f"{_GOOD} orders of good customers, {_BROKEN} of {_BROKEN_USER}, and one event with a negative amount are on their way")
    # Each order of the broken customer is announced twice, and the wrong event has a letter of each of its consumers.
    wanted = 2 * _BROKEN + sum(topic.event == events.OrderPaid.__name__ for topic, _ in topics.read().consumers())
    if not _until(lambda: len(_open_letters(since)) == wanted):
        return [f"{len(_open_letters(since))} letters are open, wanted {wanted}"]

    _say_step("What failed, and why?")
    _run("groups", "--since", since)
    _say_step("The notifications' cause lay with Telegram, and is mended")
    telegram.refused = None
    _say_step("The event itself is wrong: it is edited, once for each of its consumers; the originals are never sent")
    for letter in [row for row in _open_letters(since) if row["order_id"] == wrong]:
        _run("edit", letter["letter_id"], "--set", f"amount={_AMOUNT}", "--yes")
    _say_step("They all go once more, each to the consumer that failed and to no other")
    _run("replay", "--since", since, "--yes")
    if not _until(lambda: all(telegram.count(order, "assembled") for order in [*orders, wrong])):
        terminal.note("not every order was announced as assembled in time")
    time.sleep(1.0)  # a second message for an event would be a fault, so wait for what may still come
    _say_step("What is left?")
    _run("groups", "--since", since)
    return [*_faults(telegram, [*orders, wrong]), *(f"letter {row['letter_id']} is still open" for row in _open_letters(since))]


def _servers(told: dict[str, Any]) -> dict[str, str]:
    """The settings with which the commands reach the system that was started."""
    return {"KAFKA_BROKERS": told["kafka"]["brokers"], "ORDER_POSTGRES_DSN": told["postgres"]["dsn"]}


def _faults(telegram: TelegramStandIn, orders: list[str]) -> Iterator[str]:
    for order in orders:
        for what in ("paid", "assembled"):
            if (count := telegram.count(order, what)) != 1:
                yield f"order {order}: announced as {what} {count} times, wanted once"


def _place(told: dict[str, Any], user_id: str) -> str:
    body = {"user_id": user_id, "items": [{"product_id": "part", "quantity": 1}]}
    answer = httpx.post(f"{told['functions']['orders']['url']}/orders", json=body, timeout=20, trust_env=False)
    if answer.status_code != 201:
        raise errors.Unavailable(f"POST /orders answered {answer.status_code}: {answer.text[:300]}")
    return str(answer.json()["id"])


def _send_wrong_event(brokers: str) -> str:
    """An event by hand, whose amount is negative. Its order id."""
    settings = config.load().model_copy(update={"kafka_brokers": brokers})
    order_id = str(uuid.uuid4())
    event = {
        "event_id": str(uuid.uuid4()), "event_type": events.OrderPaid.TYPE, "occurred_at": "2026-01-31T12:00:00Z",
        "order_id": order_id, "user_id": "customer-1", "amount": -_AMOUNT, "payment_method": "card",
    }  # fmt: skip
    producer = Producer(broker.producer(settings, "orderflow-demo", delivery_timeout_s=20, message_bytes_max=1 << 20))
    producer.produce(settings.topic(events.OrderPaid.TYPE), json.dumps(event).encode(), key=order_id.encode())
    if producer.flush(25):
        raise errors.Unavailable(f"Kafka at {brokers} did not take the event")
    return order_id


def _open_letters(since: str) -> list[dict[str, Any]]:
    command = _command("list", "--since", since, "--json", "--max", "1000")
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise errors.Unavailable(f"`orderflow dlq list` failed: {answer.stderr.strip()[-500:]}")
    return list(json.loads(answer.stdout)["letters"])


def _run(*arguments: str) -> None:
    terminal.say(f"$ orderflow dlq {' '.join(arguments)}", style="bold")
    if subprocess.run(_command(*arguments), stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise errors.Unavailable(f"`orderflow dlq {arguments[0]}` failed; what it said stands above")


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from ops import command; command.main()", "dlq", *arguments]


def _say_step(line: str) -> None:
    terminal.say(f"\n{line}", style="bold cyan")
    sys.stdout.flush()


def _until(look: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if look():
            return True
        time.sleep(0.5)
    return False


@contextmanager
def _environment(added: dict[str, str]) -> Iterator[None]:
    """These settings for the processes that are started within the block."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
