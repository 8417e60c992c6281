"""HTTP to the function: one request per group of records, and its health."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence

import anyio
import httpx

from connectors.kafka_source import answers, http1
from connectors.kafka_source.plan import Source
from connectors.kafka_source.record import Envelope, Record

_BATCH = [(b"content-type", b"application/cloudevents-batch+json")]
_CONNECT_TIMEOUT_S = 5.0
_HEALTH_TIMEOUT_S = 5.0
# Shorter than any server keeps an idle connection (functions-framework's command line: 2 s), so that no request meets its end.
_KEEP_ALIVE_S = 1.0
BATCH_BYTES_MAX = 7 << 20  # a function takes 8 MiB


def clients(source: Source, authorization: Mapping[str, str]) -> tuple[http1.Client, httpx.AsyncClient]:
    """For the function of `source`, and for what is rarer: its health, and letters."""
    headers = {"user-agent": "orderflow-kafka-source", "accept-encoding": "identity", **authorization}
    limits = httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_ALIVE_S)
    secure = any(url.startswith("https:") for url in (source.sink, source.health, source.letters))
    # Reading the machine's certificates takes 150 ms, which plain http need not wait for.
    tls = ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    connect_s = min(_CONNECT_TIMEOUT_S, source.timeout_s / 2)  # so that it ends as "not sent"
    function = http1.Client(source.sink, headers, tls, connect_s=connect_s, keep_s=_KEEP_ALIVE_S, keep_max=source.requests_in_flight + 2)
    timeout = httpx.Timeout(None, connect=connect_s)
    return function, httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout, verify=tls, trust_env=False, follow_redirects=False)


class Sink:
    """The function that a source delivers to."""

    def __init__(self, source: Source, function: http1.Client, http: httpx.AsyncClient) -> None:
        self._source = source
        self._function = function
        self._http = http
        self.envelope = Envelope(source)

    async def deliver(self, group: Sequence[Record], elements: Sequence[bytes]) -> answers.Answer | list[answers.Answer]:
        """What the function answers for each record of `group`, or for all of them at once.

        `elements` are its records as batch elements; a group of one travels as KafkaSource sends it.
        """
        if len(group) > 1:
            response = await self._post(_BATCH, b"[" + b",".join(elements) + b"]")
            return response if isinstance(response, answers.Answer) else answers.of_batch(response, len(group))
        response = await self._post(*self.envelope.request(group[0]))
        return response if isinstance(response, answers.Answer) else answers.of_single(response)

    async def healthy(self) -> bool:
        """Whether GET /health answers 200."""
        try:
            with anyio.fail_after(_HEALTH_TIMEOUT_S):  # asyncio.timeout would now and then leave the connection in use for ever
                async with self._http.stream("GET", self._source.health) as answer:  # whatever its body holds, nobody reads it
                    return answer.status_code == 200
        except (httpx.HTTPError, TimeoutError):
            return False

    async def _post(self, headers: list[tuple[bytes, bytes]], body: bytes | None) -> answers.Response | answers.Answer:
        """`body` is None for a null value, which has no content-length: so KafkaSource tells it from an empty one."""
        try:
            async with asyncio.timeout(self._source.timeout_s):
                return await self._function.post(headers, body)
        except http1.NotSent as exc:
            return answers.Answer(answers.Kind.AWAY, None, "unreachable", answers.cut(f"{self._source.sink} cannot be reached: {exc}"))
        except TimeoutError:
            return answers.Answer(answers.Kind.LOST, None, "timeout", f"no answer within {self._source.timeout_s:g} s")
        except http1.NoAnswer as exc:
            return answers.Answer(answers.Kind.LOST, None, "no_answer", answers.cut(f"the connection ended: {exc}"))
