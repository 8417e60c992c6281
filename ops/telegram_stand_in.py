"""A Telegram that runs here, for demonstrations: it takes messages over HTTP, counts them, and refuses those it is told to refuse."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from ops import child


class TelegramStandIn:
    """On a free loopback port until the end of the block. What names `refused` is answered 400, as Telegram answers a bad text."""

    def __init__(self) -> None:
        self.refused: str | None = None
        self.taken: list[str] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = json.loads(self.rfile.read(int(self.headers["content-length"])))["text"]
                refused = stand_in.refused is not None and stand_in.refused in text
                if not refused:
                    stand_in.taken.append(text)
                answer = {"ok": False, "description": "Bad Request: the text is not acceptable"} if refused else {"ok": True, "result": {}}
                body = json.dumps(answer).encode()
                self.send_response(400 if refused else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((child.LOOPBACK, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def settings(self) -> dict[str, str]:
        """The settings with which notify sends its messages here."""
        url = f"http://{child.LOOPBACK}:{self._server.server_port}"
        return {"TELEGRAM_ENABLED": "true", "TELEGRAM_BOT_TOKEN": "1:stand-in", "TELEGRAM_CHAT_ID": "1", "TELEGRAM_URL": url}

    def count(self, order_id: str, what: str) -> int:
        """How many messages say `what` of an order."""
        return sum(text.startswith(f"Order {order_id} is {what}\n") for text in list(self.taken))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
