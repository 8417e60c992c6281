"""The one edge that is fake: a Telegram that writes down every message before it answers, and sometimes answers badly."""

import contextlib
import json
import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from chaos import record
from chaos.record import Journal
from ops import child

NOT_TAKEN = ("500", "429")
PART_LATE, PART_CLOSED, PART_500, PART_429 = 0.005, 0.01, 0.01, 0.01
_OK = {"ok": True, "result": {}}


class Telegram:
    """On a free loopback port until the end of the block. What it does to a message follows from the seed, its text and its number.

    `late` and `closed` messages are taken, and only their answers are lost; `500` and `429` ones are not taken.
    """

    def __init__(self, journal: Journal, seed: int, late_s: float) -> None:
        self.kind = False  # from now on no more bad answers
        self.taken = 0
        self.bad: Counter[str] = Counter()
        self._journal, self._seed, self._late_s = journal, seed, late_s
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one piece: the second of two would wait until the first was acknowledged

            last: record.Telegram | None = None

            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle()
                if self.last is not None:
                    outer._journal.end(self.last, hung_up_at=time.time())

            def do_POST(self) -> None:
                text = json.loads(self.rfile.read(int(self.headers["content-length"])))["text"]
                fault = outer._fault(text)
                message = self.last = outer._journal.begin(record.Telegram, text=text, fault=fault)
                answered = self._answer(fault)
                outer._journal.end(message, answered=answered, ended_at=time.time())

            def _answer(self, fault: str) -> bool:
                if fault == "closed":
                    self.close_connection = True
                    return False
                if fault == "late":
                    time.sleep(outer._late_s)
                status = int(fault) if fault in NOT_TAKEN else 200
                body = _OK if status == 200 else {"ok": False, "description": "not now", "parameters": {"retry_after": 1}}
                content = json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                    self.wfile.flush()
                except OSError:
                    return False
                return status == 200

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = _Server((child.LOOPBACK, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="telegram", daemon=True)

    @property
    def settings(self) -> dict[str, str]:
        """The settings with which notify sends its messages here."""
        url = f"http://{child.LOOPBACK}:{self._server.server_port}"
        return {"TELEGRAM_ENABLED": "true", "TELEGRAM_BOT_TOKEN": "1:chaos", "TELEGRAM_CHAT_ID": "1", "TELEGRAM_URL": url}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _fault(self, text: str) -> str:
        with self._lock:
            self._times[text] += 1
            chance = random.Random(f"telegram {self._seed} {self._times[text]} {text}").random()  # noqa: S311  has to be the same again
            fault = "" if self.kind else _drawn(chance)
            self.bad[fault] += bool(fault)
            self.taken += fault not in NOT_TAKEN
        return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client may keep its connection open
    request_queue_size = 1024  # with the default of 5 a burst waits for the kernel to try again, for longer than notify waits for an answer

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients are killed here."""


def _drawn(chance: float) -> str:
    for fault, part in (("late", PART_LATE), ("closed", PART_CLOSED), ("500", PART_500), ("429", PART_429)):
        if chance < part:
            return fault
        chance -= part
    return ""
