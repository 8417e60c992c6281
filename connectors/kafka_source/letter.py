"""A failed record goes to the dead-letter sink, byte for byte, and is tried until it is safe there. Nothing is committed before."""

import asyncio
import contextlib
import logging
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import anyio
import httpx
import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE

from connectors.kafka_source import answers, metrics, outage
from connectors.kafka_source.plan import Source
from connectors.kafka_source.record import Record, headers_of

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/vnd.orderflow.failed-record+json"
LETTERS_IN_FLIGHT = 8
ANSWER_BYTES_MAX = 64 << 10
Reason = Literal["refused", "out_of_retries", "dependency_away"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a record failed: the last answer, and which rule ended its tries."""

    reason: Reason
    answer: answers.Answer
    attempts: int


class Letters:
    """The dead-letter sink of one source."""

    def __init__(self, source: Source, http: httpx.AsyncClient, failed: Callable[[BaseException], None]) -> None:
        self.failing = False
        self._failed = failed
        self._source = source
        self._http = http
        self._slots = asyncio.Semaphore(LETTERS_IN_FLIGHT)
        self._tasks: dict[asyncio.Task[None], Record] = {}

    def start(self, record: Record, failure: Failure, then: Callable[[Record, bool], None]) -> None:
        """Send the letter of `record` until it is safe or its partition is no longer ours; then call `then` with which it was."""
        where = {
            "source": self._source.name,
            "topic": record.partition.topic,
            "partition": record.partition.number,
            "offset": record.offset,
        }
        answer = failure.answer
        log.warning("a record failed for good", extra=where | {"reason": failure.reason, "status": answer.status, "detail": answer.detail})
        task = asyncio.get_running_loop().create_task(self._send(record, failure, then))
        self._tasks[task] = record
        task.add_done_callback(self._ended)

    async def end(self, wait_s: float, *, closed_only: bool) -> None:
        """Let the letters of closed partitions, or all, end within `wait_s`; what is late or fails anyway is given up, uncommitted."""
        tasks = [task for task, record in self._tasks.items() if record.partition.closed or not closed_only]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=0 if self.failing else wait_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._failed(bug)

    async def _send(self, record: Record, failure: Failure, then: Callable[[Record, bool], None]) -> None:
        body = letter(record, failure)
        url = self._source.letter_url(record.partition.topic)
        n, safe = 0, False
        with metrics.letters_waiting.labels(self._source.name).track_inprogress():
            while not record.partition.closed:
                async with self._slots:
                    problem, retry_after_s = await self._post(url, body)
                if problem is None:
                    self._log_end()
                    metrics.letters.labels(self._source.name, failure.reason).inc()
                    safe = True
                    break
                n += 1
                self._log_failure(problem)
                await asyncio.sleep(outage.backoff_s(n, retry_after_s))
        then(record, safe)

    async def _post(self, url: str, body: bytes) -> tuple[str | None, float | None]:
        try:
            with anyio.fail_after(self._source.timeout_s):  # asyncio.timeout would now and then leave the connection in use for ever
                async with self._http.stream("POST", url, content=body, headers={"content-type": MEDIA_TYPE}) as response:
                    told = await _told(response)
        except (httpx.HTTPError, TimeoutError) as exc:
            return f"{type(exc).__name__}: {exc}", None
        if response.is_success:
            return None, None
        return f"{response.status_code}: {answers.cut(told)[:200]}", answers.retry_after_s(response.headers)

    def _log_failure(self, problem: str) -> None:
        if not self.failing:
            log.error(
                "the dead-letter sink fails: nothing past its records is committed, and they are sent again",
                extra={"source": self._source.name, "reason": problem},
            )
        self.failing = True

    def _log_end(self) -> None:
        if self.failing:
            log.info("the dead-letter sink takes letters again", extra={"source": self._source.name})
        self.failing = False


def letter(record: Record, failure: Failure) -> bytes:
    """The failed record as dlq_router reads it."""
    message = record.message
    kind, timestamp_ms = message.timestamp()
    answer = failure.answer
    return msgspec.json.encode(
        {
            "topic": record.partition.topic,
            "partition": record.partition.number,
            "offset": record.offset,
            "timestamp": None if kind == TIMESTAMP_NOT_AVAILABLE else timestamp_ms,
            "key": _base64(record.key),
            "value": _base64(message.value()),
            "headers": [[name, _base64(value)] for name, value in headers_of(message)],
            "status": answer.status,
            "code": "dependency_away" if failure.reason == "dependency_away" else answer.code,
            "detail": answers.cut(answer.detail),
            "place": answer.place or None,
            "reason": failure.reason,
            "attempts": failure.attempts,
        }
    )


async def _told(response: httpx.Response) -> str:
    """The answer's body, or its beginning, as it came: one that was compressed all the same is not unpacked."""
    body = b""
    async with contextlib.aclosing(response.aiter_raw()) as parts:  # type: ignore[type-var]  # httpx says iterator of its generator
        async for part in parts:
            body += part
            if len(body) > ANSWER_BYTES_MAX:
                break
    return body[:ANSWER_BYTES_MAX].decode("utf-8", "replace")


def _base64(value: bytes | str | None) -> str | None:
    if value is None:
        return None
    return b64encode(value.encode() if isinstance(value, str) else value).decode()
