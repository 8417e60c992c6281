"""Bytes over a socket, as no HTTP client would send them."""

import contextlib
import http.client
import itertools
import json
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil

from tests import stack

MIB = 1 << 20


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection."""

    def __init__(self, url: str, receive_bytes: int | None = None) -> None:
        place = urlsplit(url)
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(stack.PATIENCE_S)
        self.socket.connect((place.hostname, place.port))

    def send(self, *pieces: bytes) -> bool:
        """Whether all of it could be sent."""
        try:
            for piece in pieces:
                self.socket.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def closing(self) -> bool:
        """Whether something has come from the other side: an answer, or the end."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.socket.settimeout(stack.PATIENCE_S)
        return True

    def answer(self) -> Answer:
        """The next answer. Raises http.client.HTTPException, OSError where there is none."""
        with http.client.HTTPResponse(self.socket) as response:
            response.begin()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())

    def rest(self) -> bytes:
        """All that comes until the other side closes."""
        parts = []
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(1 << 16):
                parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def to(process: stack.Process, receive_bytes: int | None = None) -> Iterator[Wire]:
    """A connection to a process until the end of the block, which takes no more than `receive_bytes` before they are read."""
    wire = Wire(process.url, receive_bytes)
    try:
        yield wire
    finally:
        wire.close()


def drip(wires: Sequence[Wire], data: bytes, pause_s: float = 0.02) -> None:
    """Send `data` byte by byte over each of `wires`, until every other side has had enough. Fails the test when one never has."""
    deadline = time.monotonic() + stack.PATIENCE_S
    for byte in itertools.cycle(data):
        going = [wire for wire in wires if not wire.closing() and wire.send(bytes([byte]))]
        if not going:
            return
        assert time.monotonic() < deadline, f"{len(going)} take it still"
        time.sleep(pause_s)


@contextlib.contextmanager
def to_each(processes: Iterable[stack.Process]) -> Iterator[list[Wire]]:
    """A connection to each of `processes` until the end of the block."""
    with contextlib.ExitStack() as at_end:
        yield [at_end.enter_context(to(process)) for process in processes]


def head(path: str, *lines: str | bytes, method: str = "POST", version: str = "1.1") -> bytes:
    """A request's head."""
    told = [line.encode() if isinstance(line, str) else line for line in (f"{method} {path} HTTP/{version}", "host: x", *lines)]
    return b"\r\n".join([*told, b"", b""])


def memory_mib(pid: int) -> float:
    """The resident memory of a process."""
    return float(psutil.Process(pid).memory_info().rss) / MIB


def problem(answer: Any) -> str:
    """The code of a problem, which says what is wrong."""
    told = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert told["status"] == answer.status
    assert told["detail"]
    return str(told["code"])
