"""HTTP/1.1 to one function: POST, and the answer whole. Connections are kept, their answers parsed by httptools.

A general client took 0.7 ms of CPU for a request, more than all else that an event alone costs on its way; this takes a tenth of it.
Where a request surely was not sent, that is `NotSent`; where it may have been and no answer came, `NoAnswer`.
"""

import asyncio
import base64
import select
import ssl
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import httptools
import httpx

ANSWER_BYTES_MAX = 16 << 20  # as it comes, with its head; a batch of 5000 is answered with less than two


class NotSent(Exception):
    """No connection could be made."""


class NoAnswer(Exception):
    """The connection ended, or what came over it was no HTTP."""


class Response(NamedTuple):
    """An answer; the names of its headers are in lower case."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes


class Client:
    """The connections to one address, as many as there are requests at a time. For one event loop."""

    def __init__(
        self, url: str, headers: Mapping[str, str], tls: ssl.SSLContext, *, connect_s: float, keep_s: float, keep_max: int
    ) -> None:
        place = httpx.URL(url)
        self._host, secure = place.host, place.scheme == "https"
        self._port = place.port or (443 if secure else 80)
        self._tls, self._connect_s, self._keep_s, self._keep_max = tls if secure else None, connect_s, keep_s, keep_max
        lines = {"host": place.netloc.decode("ascii"), **headers}
        if place.userinfo:
            lines["authorization"] = f"Basic {base64.b64encode(f'{place.username}:{place.password}'.encode()).decode()}"
        told = "".join(f"{name}: {text}\r\n" for name, text in lines.items())
        self._head = b"POST %b HTTP/1.1\r\n%b" % (place.raw_path, told.encode("ascii"))
        self._idle: deque[_Connection] = deque()

    async def post(self, headers: Iterable[tuple[bytes, bytes]], body: bytes | None) -> Response:
        """The answer to a request. A body that is None has no length, an empty one has. Raises NotSent, NoAnswer."""
        connection = self._kept() or await self._connected()
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        size = b"" if body is None else b"content-length: %d\r\n" % len(body)
        try:
            response = await connection.ask(b"%b%b%b\r\n%b" % (self._head, lines, size, body or b""))
        except BaseException:  # also when it is cancelled: what is still to come is nobody's answer
            connection.close()
            raise
        if connection.reusable and len(self._idle) < self._keep_max:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()
        return response

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> "_Connection | None":
        """The connection that was used last; the others grow old."""
        old = time.monotonic() - self._keep_s
        while self._idle and self._idle[0].idle_since < old:
            self._idle.popleft().close()
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None

    async def _connected(self) -> "_Connection":
        name = self._host if self._tls else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                _, made = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls, server_hostname=name)
        except TimeoutError as exc:
            raise NotSent(f"no connection within {self._connect_s:g} s") from exc
        except OSError as exc:
            raise NotSent(str(exc) or type(exc).__name__) from exc
        return made


class _Connection(asyncio.Protocol):
    """One connection, and the answer that is coming in over it."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.reusable = False
        self._answer: asyncio.Future[Response] | None = None
        self._ended = False
        self._begin()

    async def ask(self, request: bytes) -> Response:
        """Send `request`; its answer. Raises NoAnswer."""
        self._begin()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    @property
    def usable(self) -> bool:
        """Whether nothing has come since the last answer: neither the end nor what nobody asked for. Looks at the socket itself."""
        if self._ended or self._transport.is_closing():
            return False
        looking = select.poll()
        looking.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not looking.poll(0)

    def close(self) -> None:
        """Let go of it, whatever is on its way."""
        if self._answer is None and not self._transport.get_write_buffer_size():
            self._transport.close()
            return
        self._answer = None
        self._transport.abort()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._content: list[bytes] = []
        self._size = 0
        self._has_head = False

    # --- what asyncio calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self._ended = True  # nobody asked for it
            return
        self._size += len(data)
        if self._size > ANSWER_BYTES_MAX:
            self._ended = True
            self._fail(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._ended = True
            self._fail(f"what came is no answer: {exc!r}")

    def eof_received(self) -> None:
        self._ended = True
        if self._has_head and not self._headers.keys() & {"content-length", "transfer-encoding"}:
            self._complete(reusable=False)  # its end is the end of the connection
        self._fail("the server closed it before it had answered")

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._fail(str(exc or "") or "the server closed it before it had answered")

    def _fail(self, reason: str) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(NoAnswer(reason))

    # --- what httptools calls --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None:
            self._ended = True  # nobody asked for a second one

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._has_head = self._parser.get_status_code() >= 200

    def on_body(self, part: bytes) -> None:
        self._content.append(part)

    def on_message_complete(self) -> None:
        if self._has_head:
            self._complete(reusable=self._parser.should_keep_alive())
        else:
            self._headers.clear()  # 1xx: the answer itself is still to come

    def _complete(self, *, reusable: bool) -> None:
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        self.reusable = reusable and not self._ended and not self._transport.get_write_buffer_size()
        answer.set_result(Response(self._parser.get_status_code(), self._headers, b"".join(self._content)))
