"""A handler that fails as an event's `user_id` says (`bug`, `wait:/a/file`, …), to show what the pipe makes of it."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shared import errors, events
from shared.database import Transaction
from shared.delivery import on

_ORDER = "INSERT INTO orders (id, user_id, status) VALUES (:id, 'sample', :status)"


@on(events.OrderAssembled, inbox="order_inbox_events")
def handle(assembled: Sequence[events.OrderAssembled], tx: Transaction) -> list[events.Event]:
    """Insert an order for each event, then do what it says."""
    made: list[events.Event] = []
    for event in assembled:
        tx.run(_ORDER, id=event.order_id, status="assembled")
        name, _, argument = event.user_id.partition(":")
        if name == "text":
            return "done"  # type: ignore[return-value]
        if name in {"publish", "publish-then-bug"}:
            made.append(events.OrderAssembled.caused_by(event, consumer="sample", n=1, occurred_at=event.occurred_at))
        if name in _FAULTS:
            _FAULTS[name](event, tx, argument)
    return made


def _raise(failure: Exception) -> None:
    raise failure


def _mutate(event: events.OrderAssembled) -> None:
    event.__dict__["event_id"] = "changed"  # frozen: only by force


def _fail_while(path: str) -> None:
    if Path(path).exists():
        raise RuntimeError("not mended yet")


def _wait_while(path: str) -> None:
    while Path(path).exists():
        time.sleep(0.01)


def _die_once(path: str) -> None:
    if not Path(path).exists():
        Path(path).touch()
        os._exit(137)


_FAULTS: dict[str, Callable[[events.OrderAssembled, Transaction, str], Any]] = {
    "bug": lambda _event, _tx, _: _raise(ZeroDivisionError("division by zero")),
    "publish-then-bug": lambda event, tx, _: (tx.run("SELECT 1"), _raise(RuntimeError(event.order_id))),
    "constraint": lambda event, tx, _: tx.run(_ORDER, id=event.order_id + "x", status="unheard-of"),
    "value": lambda _event, tx, _: tx.run("SELECT :text::int", text="no number"),
    "statement": lambda _event, tx, _: tx.run("SELECT no_such_function()"),
    "timeout": lambda _event, tx, _: tx.run("SELECT pg_sleep(30)"),
    "away": lambda _event, _tx, _: _raise(errors.Unavailable("a dependency is away", code="dependency_away", retry_after_s=7)),
    "overloaded": lambda _event, _tx, _: _raise(errors.Overloaded("a limit is reached", retry_after_s=3)),
    "while": lambda _event, _tx, path: _fail_while(path),
    "mutate": lambda event, _tx, _: _mutate(event),
    "die": lambda _event, _tx, path: _die_once(path),
    "wait": lambda _event, _tx, path: _wait_while(path),
}
