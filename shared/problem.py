"""A failure as problem+json (RFC 9457), small enough that a KafkaSource keeps all of it: it passes on 1,024 bytes of an answer."""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from starlette.responses import Response

from shared import errors, masking

MEDIA_TYPE = "application/problem+json"
DETAIL_BYTES_MAX = 640  # escaping may make more of it; with the other members the whole body then stays below 1,024 bytes
PLACE_BYTES_MAX = 128


def response(
    error: errors.OrderflowError, *, faults: Sequence[Mapping[str, str]] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that failed with `error`; `faults` name fields, as `errors` of the body. Never a stack trace."""
    body: dict[str, object] = {
        "title": _title(error.status),
        "status": error.status,
        "code": error.code,
        "detail": bounded(error.detail),
    }
    if error.place:
        body["place"] = bounded(error.place, PLACE_BYTES_MAX)
    if faults:
        body["errors"] = list(faults)
    extra = dict(headers or {})
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
        extra.setdefault("Allow", "POST")  # a 405 has to say (RFC 9110); what is delivered is posted
    if error.status == HTTPStatus.UNAUTHORIZED:
        extra.setdefault("WWW-Authenticate", 'Bearer realm="orderflow"')  # likewise
    if error.retry_after_s is not None:
        extra["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return Response(json.dumps(body), status_code=error.status, media_type=MEDIA_TYPE, headers=extra)


def bounded(text: str, bytes_max: int = DETAIL_BYTES_MAX) -> str:
    """`text` in one line, without control characters, secrets and persons, whose JSON form has at most `bytes_max` bytes."""
    shown = masking.text(text[: bytes_max * 8])[: bytes_max * 2]  # enough of it: a text may be a whole body
    clean = " ".join("".join(character if character.isprintable() else " " for character in shown).split())
    if len(json.dumps(clean)) <= bytes_max:
        return clean
    while len(json.dumps(clean)) > bytes_max - 3:
        clean = clean[: max(0, len(clean) - max(1, (len(json.dumps(clean)) - bytes_max) // 6))]
    return clean + "..."


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
