"""The runner's own record of a run: what was sent and what was broken. Lines of JSON, only ever added to, each before it is acted upon.

A line is in its file before `Journal` returns, so it outlives this process; `fsync` would add only the machine's own death, which ends
the run anyway. What became of something is a line of its own; `read` puts the two together.
"""

import dataclasses
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

FILE = "record.jsonl"

Kind = Literal["order", "event", "duplicate", "reordered", "poison"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Something that was sent, and what became of it.

    An `order` is a POST, tried again with its `idempotency_key` until it was answered. All others are records on a source topic: an
    `event` is new and has to be handled once by each of `groups`; a `duplicate` and a `reordered` one (older than what its key has seen
    since) repeat an `event_id` and must have no effect; a `poison` record has to become one letter of each of `groups`.
    Times are seconds since 1970 by this machine's clock. No two orders or events have the same `user_id`.
    """

    n: int
    kind: Kind
    at: float
    user_id: str = ""  # names the order or the event in a Telegram text
    order_id: str | None = None  # of an order: once it was answered
    idempotency_key: str | None = None
    topic: str | None = None
    key: str | None = None
    event_id: str | None = None  # of the payload; None for an order and for poison
    event_type: str | None = None
    ce_id: str | None = None  # of the headers; None for a plain record
    ce_source: str | None = None
    value_sha256: str | None = None  # hexadecimal; None for a tombstone
    groups: tuple[str, ...] = ()
    note: str = ""  # which kind of poison; what a duplicate repeats
    # What became of it.
    answered: bool = False  # 2xx, or confirmed by Kafka
    answered_at: float | None = None
    status: int | None = None  # of the last HTTP answer
    tries: int = 0  # requests of an order
    partition: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that was broken on purpose. One that found its target gone already has `done` False and does not count."""

    n: int
    kind: str
    target: str  # a process, or a connection as client>server
    at: float
    detail: str = ""
    pid: int | None = None
    # What became of it.
    done: bool = False
    ended_at: float | None = None  # healed, or for a process: when it took place
    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telegram:
    """A message that reached the fake Telegram. `fault` says what it did to it on purpose, if anything.

    `late` and `closed`: it took the message, and the answer came too late or never. `500` and `429`: it did not take the message.
    """

    n: int
    at: float
    text: str
    fault: str = ""
    # What became of it.
    answered: bool = False  # a whole 200 was handed to the connection; that it arrived is not known
    ended_at: float | None = None
    hung_up_at: float | None = None  # the client closed the connection, on which no other message had come after this one

    @property
    def taken(self) -> bool:
        """Whether somebody now has read the message."""
        return self.fault not in {"500", "429"}

    @property
    def what(self) -> str:
        """paid or assembled."""
        return self.text.partition("\n")[0].rpartition(" is ")[2]

    @property
    def order_id(self) -> str:
        """The order that it names."""
        return self.text.partition("\n")[0].removeprefix("Order ").rpartition(" is ")[0]

    @property
    def user_id(self) -> str:
        """The user that it names: one order's or one event's own."""
        return next((line.removeprefix("User: ") for line in self.text.splitlines() if line.startswith("User: ")), "")


@dataclass(frozen=True, slots=True)
class Record:
    """All of it, in the order of its beginning."""

    about: Mapping[str, Any] = field(default_factory=dict)  # seed, minutes, and whatever else the run was asked for
    sent: tuple[Sent, ...] = ()
    faults: tuple[Fault, ...] = ()
    telegrams: tuple[Telegram, ...] = ()


Entry = Sent | Fault | Telegram
E = TypeVar("E", Sent, Fault, Telegram)
_KINDS: dict[str, type[Sent] | type[Fault] | type[Telegram]] = {"sent": Sent, "fault": Fault, "telegram": Telegram}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class Journal:
    """Writes the record of a run in `folder`. Any thread may."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._lock = threading.Lock()
        self._numbers = dict.fromkeys(_NAMES, 0)
        self._write({"is": "run", **about})

    def begin(self, kind: type[E], /, **fields: Any) -> E:
        """Write down what is about to be done, with its number and the time."""
        with self._lock:
            self._numbers[kind] += 1
            entry = kind(n=self._numbers[kind], at=time.time(), **fields)
            self._line({"is": _NAMES[kind], **_stated(entry)})
        return entry

    def end(self, entry: Entry, /, **became: Any) -> None:
        """Write down what became of it."""
        dataclasses.replace(entry, **became)  # refuses a field that it does not have
        self._write({"is": "became", "of": _NAMES[type(entry)], "n": entry.n, **became})

    def close(self) -> None:
        """Have all of it on the disk."""
        with self._lock:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1  # whoever still wants to write gets an OSError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            self._line(line)

    def _line(self, line: Mapping[str, Any]) -> None:
        os.write(self._file, json.dumps(line, ensure_ascii=True).encode() + b"\n")


def read(folder: Path) -> Record:
    """The record of the run in `folder`, as far as it was written: a last line that was cut off is left out."""
    about: dict[str, Any] = {}
    found: dict[str, dict[int, Any]] = {name: {} for name in _KINDS}
    for raw in (folder / FILE).read_bytes().split(b"\n")[:-1]:
        line = json.loads(raw)
        match line.pop("is"):
            case "run":
                about = line
            case "became":
                entries, n = found[line.pop("of")], line.pop("n")
                entries[n] = dataclasses.replace(entries[n], **line)
            case name:
                if "groups" in line:
                    line["groups"] = tuple(line["groups"])
                found[name][line["n"]] = _KINDS[name](**line)
    return Record(about, *(tuple(found[name].values()) for name in ("sent", "fault", "telegram")))


def _stated(entry: Entry) -> dict[str, Any]:
    defaults = {each.name: each.default for each in dataclasses.fields(entry)}
    return {name: value for name in defaults if (value := getattr(entry, name)) != defaults[name]}
