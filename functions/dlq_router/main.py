"""A record that its consumer could not handle becomes a letter on that consumer's dead-letter topic.

POST /{consumer group}/{topic} answers 200 only when the letter is safe: Kafka confirmed it, or else PostgreSQL holds it in the outbox.
The outbox takes over whatever Kafka's trouble is, a missing topic or permission as much as an outage: the relay publishes the row, and
where Kafka goes on refusing sets it aside, for `orderflow outbox` to show and send again. So one wrong setting stops no partition, and
nothing is lost. With neither store the answer is 503; then our own source keeps the record, and a KafkaSource loses it in the end.
Where a consumer parks (`<CONSUMER>_PARKING`), 200 also says that the index has the letter.
"""

import asyncio
import logging
import re
from datetime import UTC, datetime
from typing import Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from functions.dlq_router import failed, letter
from functions.dlq_router.addresses import Address, Addresses
from functions.dlq_router.index import Index
from functions.dlq_router.index_metrics import IndexMetrics
from functions.dlq_router.kafka import Kafka, NotSent
from functions.dlq_router.letter import Letter
from shared import config, database, errors, outbox, server, telemetry

log = logging.getLogger("functions.dlq_router")

NAME = "dlq_router"
EVENT_TYPE = "orderflow.dead_letter"
SAFE_MAX = 32

_settings = config.settings()
_addresses = Addresses(_settings)
_database = database.connect("dlq", _settings, NAME)
_hint = outbox.Hint(_database)
_index = Index(database.connect("dlq", _settings, f"{NAME} index"))  # with connections of its own: it is never in a letter's way
_measured = IndexMetrics(database.connect("dlq", _settings, f"{NAME} metrics"), _addresses.groups)
_kafka = Kafka(_settings, letter_bytes_max=_addresses.letter_bytes_max)
_safe: dict[str, tuple[Letter, Literal["kafka", "outbox"]]] = {}  # letters that the index still lacks, where it has to have them
_CODE = re.compile(r"[a-z0-9_]{1,64}")
CODES_MAX = 100  # that the metric tells apart: whoever hands letters in makes up their codes
_codes: set[str] = set()


class NoSuchConsumer(errors.OrderflowError):
    """No consumer has this path."""

    status = 404
    code = "unknown_consumer"


async def _ready() -> None:
    try:
        await _kafka.ping()
    except errors.Unavailable:
        await _database.ping()


async def _end() -> None:
    await _kafka.close()
    await _index.close()
    await _measured.close()
    await asyncio.to_thread(_database.close)


@server.function(NAME, ready=_ready, measure=_measured.measure, end=_end)
async def handle(request: Request) -> Response:
    """Write one letter. Refuses nothing that a source hands over, whatever is in it."""
    if request.method != "POST":
        raise errors.MethodNotAllowed("A letter is handed in with POST.")
    address = _address(request)
    body = await server.read_body(request, _addresses.body_bytes_max)
    record = _read(address.topic, request, body)
    written = letter.write(record, address.group, now=datetime.now(UTC), bytes_max=address.letter_bytes_max)
    if address.parks:
        written, store = await _indexed(written, address)
    else:
        store = await _kept(written, address)
        _index.offer(address.dead_letter_topic, written.value)
    telemetry.letters.labels(address.group, _label(written.code), store).inc()
    log.warning(
        "a record became a letter",
        extra={
            "letter_id": written.letter_id,
            "consumer": address.group,
            "record": f"{record.topic}/{record.partition}/{record.offset}",
            "code": written.code,
            "store": store,
        },
    )
    return JSONResponse({"outcome": "done", "letter_id": written.letter_id, "store": store})


def _address(request: Request) -> Address:
    path = request.scope["path"]
    found = _addresses.find(path)
    if found is not None:
        return found
    if "ce-knativeerrordest" not in request.headers:
        raise NoSuchConsumer(f"{path} names no consumer group and its topic; known are {', '.join(_addresses.paths())}")
    found = _addresses.nearest(path)
    log.error("a KafkaSource's deadLetterSink has a wrong path; its record is kept as a letter of another consumer", extra={"path": path})
    return found


def _read(topic: str, request: Request, body: bytes) -> failed.Failed:
    try:
        return failed.read(topic, request.scope["headers"], body)
    except Exception:  # a fault of ours must not cost the record: a KafkaSource would lose it
        log.exception("a delivery could not be read; its letter holds the bytes")
        return failed.Failed(topic, body, detail="dlq_router failed to read what it was handed; its log has more")


async def _kept(written: Letter, address: Address) -> Literal["kafka", "outbox"]:
    try:
        await _kafka.send(address.dead_letter_topic, key=written.key, value=written.value, headers=written.headers)
    except NotSent as exc:
        refusal = exc.detail
    else:
        return "kafka"
    log.error("Kafka did not take a letter; it goes to the outbox", extra={"topic": address.dead_letter_topic, "reason": refusal})
    try:
        await _database.run(lambda tx: _stage(tx, written, address))
    except errors.OrderflowError as exc:
        raise errors.Unavailable(f"neither Kafka ({refusal}) nor PostgreSQL ({exc.detail}) took the letter", code="no_store") from exc
    _hint.send()
    return "outbox"


async def _indexed(written: Letter, address: Address) -> tuple[Letter, Literal["kafka", "outbox"]]:
    """Keep a letter and have it in the index before anyone is answered: the next event of its order may come then, and is to find it there.

    A letter that is safe and not in the index is not written again when its source tries again.
    """
    kept = _safe.pop(written.letter_id, None) or (written, await _kept(written, address))
    try:
        await _index.write(address.dead_letter_topic, kept[0].value)
    except errors.OrderflowError as exc:
        _safe[written.letter_id] = kept
        if len(_safe) > SAFE_MAX:
            del _safe[next(iter(_safe))]
        raise errors.Unavailable(
            f"the letter is safe, but not in the index, without which its order cannot wait: {exc.detail}", code="not_indexed"
        ) from exc
    return kept


def _label(code: str) -> str:
    if len(_codes) < CODES_MAX and _CODE.fullmatch(code):
        _codes.add(code)
    return code if code in _codes else "other"


def _stage(tx: database.Transaction, written: Letter, address: Address) -> None:
    outbox.stage_record(
        tx,
        event_id=written.letter_id,
        event_type=EVENT_TYPE,
        occurred_at=written.failed_at,
        aggregate_id=written.order_id or written.letter_id,
        topic=address.dead_letter_topic,
        record_key=written.key,
        payload=written.value,
        headers=written.headers,
        producer=NAME,
    )
