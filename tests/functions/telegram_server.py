"""The far edge: a Telegram that counts what it is sent and answers what and when a test says, over real HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # a burst does not wait for the kernel to try again


class TelegramServer:
    """On a free loopback port until the end of the block. `answers` are used up first; then it takes every message."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.connections = 0  # so many were made
        self.answering = threading.Event()
        self.answering.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.messages.append(body)
                outer.paths.append(self.path)
                outer.answering.wait()
                status, answer = outer.answers.pop(0) if outer.answers else (200, {"ok": True, "result": {}})
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Its address, for TELEGRAM_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def forget(self) -> None:
        """Forget every message, and answer again."""
        self.messages, self.paths, self.answers = [], [], []
        self.answering.set()

    def about(self, order_id: str) -> list[str]:
        """The texts that name an order."""
        return [message["text"] for message in self.messages if order_id in message["text"]]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answering.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
