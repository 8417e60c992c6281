#!/usr/bin/env python3
"""A stand-in for the of-watchdog binary, for tests on machines that cannot pull its image. Not for any other use, and never in an image
that is published.

It does of mode=http what our images rely on, as of-watchdog 0.11 does it: starts `fprocess`, split at spaces; passes its output on;
answers /_/health, and /_/ready by asking for ready_path; hands every other request to upstream_url; at SIGTERM turns not ready, forwards
the signal at once, goes on taking requests for healthcheck_interval, finishes those in flight, and ends. Where the process ends by
itself and not with 0, it ends with 1.
"""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LOCK = Path("/tmp/.lock")  # noqa: S108 - where of-watchdog has it: writable only if /tmp is
UPSTREAM = urllib.parse.urlsplit(os.environ["upstream_url"])  # noqa: SIM112 - of-watchdog's own names are small
READY_PATH = os.environ["ready_path"]  # noqa: SIM112
PORT = int(os.environ.get("port", "8080"))  # noqa: SIM112
INTERVAL_S = float(os.environ["healthcheck_interval"].removesuffix("s"))  # noqa: SIM112
TIMEOUT_S = float(os.environ["exec_timeout"].removesuffix("s"))  # noqa: SIM112
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class Handler(BaseHTTPRequestHandler):
    """One connection from outside."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _any(self) -> None:
        if self.path == "/_/health":
            return self._say(200 if LOCK.exists() else 503)
        if self.path == "/_/ready":
            return self._pass("GET", READY_PATH, b"") if LOCK.exists() else self._say(503)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self._pass(self.command, self.path, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _any  # noqa: N815 - as the base class looks for them

    def _pass(self, method: str, path: str, body: bytes) -> None:
        with InFlight():
            connection = http.client.HTTPConnection(UPSTREAM.hostname or "", UPSTREAM.port, timeout=TIMEOUT_S)
            try:
                connection.request(
                    method, path, body, {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                )
                answer = connection.getresponse()
                self._say(answer.status, answer.read(), [(n, v) for n, v in answer.getheaders() if n.lower() not in HOP_BY_HOP])
            except OSError as exc:
                self._say(504 if isinstance(exc, TimeoutError) else 500, b"", [("X-OpenFaaS-Internal", "of-watchdog")])
            finally:
                connection.close()

    def _say(self, status: int, body: bytes = b"", headers: "list[tuple[str, str]] | tuple[()]" = ()) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class InFlight:
    """How many requests are on their way."""

    count = 0
    changed = threading.Condition()

    def __enter__(self) -> None:
        with self.changed:
            InFlight.count += 1

    def __exit__(self, *_: object) -> None:
        with self.changed:
            InFlight.count -= 1
            self.changed.notify_all()


def main() -> int:
    """The exit code: 0 after a drain."""
    function = subprocess.Popen(os.environ["fprocess"].split(" "))  # noqa: SIM112
    server = ThreadingHTTPServer(("", PORT), Handler)
    server.daemon_threads = True
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    LOCK.touch()
    while not asked.wait(0.05):
        if function.poll():
            return 1
    LOCK.unlink()
    function.terminate()
    time.sleep(INTERVAL_S)
    server.shutdown()
    with InFlight.changed:
        InFlight.changed.wait_for(lambda: not InFlight.count, TIMEOUT_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
