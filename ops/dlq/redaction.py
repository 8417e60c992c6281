"""What is personal in an event, replaced by something of the same shape: so that a test fails for the same reason and names nobody.

The same text always becomes the same, in every letter: letters of one customer stay letters of one customer. Who knows a text can find what
it becomes, so this is for files among colleagues, not for publishing.
"""

import hashlib
import json
import re
import string
from typing import Any

from shared import errors

# Names of fields that hold what is personal, anywhere in an event; a name that ends so counts too (billing_address).
PERSONAL = (
    "user_id", "customer_id", "user", "customer", "name", "first_name", "last_name", "full_name", "email", "e_mail", "phone", "telephone",
    "mobile", "address", "street", "city", "zip", "postcode", "postal_code", "birthday", "birth_date", "date_of_birth", "ip", "ip_address",
    "chat_id", "telegram_id", "card", "card_number", "pan", "iban", "passport", "password", "token", "secret", "comment", "note",
)  # fmt: skip
# Headers that say what an event is and where it belongs; any other may hold anything.
_KNOWN_HEADERS = re.compile(r"ce_(specversion|id|type|source|subject|time|partitionkey|correlationid|causationid)|content-type|traceparent")
_ENDS = tuple(f"_{name}" for name in PERSONAL)
_FIELD = re.compile(r'"(?P<name>(?:[^"\\]|\\.)*)"(?P<colon>\s*:\s*)(?P<value>"(?:[^"\\]|\\.)*"?|-?\d[\d.eE+-]*)')


def is_personal(name: str) -> bool:
    """Whether a field of this name holds what is personal."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    return snake in PERSONAL or snake.endswith(_ENDS)


def text(value: str) -> str:
    """`value` with its letters and digits replaced, each by one of its kind; length, signs and case stay."""
    stream = _stream(value)
    made = []
    for character in value:
        for kind in (string.ascii_lowercase, string.ascii_uppercase, string.digits):
            if character in kind:
                made.append(kind[next(stream) % len(kind)])
                break
        else:
            made.append("x" if character.isalnum() else character)
    return "".join(made)


def value(data: bytes | None) -> bytes | None:
    """A record's value without what is personal. Raises Refused where it is no text, for then nobody knows what is in it."""
    if data is None:
        return None
    try:
        shown = data.decode()
    except UnicodeDecodeError as exc:
        raise errors.Refused(
            "the value is not UTF-8, so nothing in it can be redacted; --plain takes it as it is", code="not_text"
        ) from exc
    try:
        document = json.loads(shown)
    except (ValueError, RecursionError):  # cut off, say: field by field, and the rest stays broken as it is
        return _FIELD.sub(_field, shown).encode()
    made = json.dumps(_document(document, personal=False), ensure_ascii=False, separators=(",", ":"))
    return made.encode("utf-8", "surrogatepass")


def header(name: str, raw: bytes | None) -> bytes | None:
    """A header's value without what may be personal."""
    if raw is None or _KNOWN_HEADERS.fullmatch(name.lower()):
        return raw
    return text(raw.decode("latin-1")).encode("latin-1")


def _document(found: Any, *, personal: bool) -> Any:
    if isinstance(found, dict):
        return {name: _document(each, personal=personal or is_personal(name)) for name, each in found.items()}
    if isinstance(found, list):
        return [_document(each, personal=personal) for each in found]
    return _scalar(found) if personal else found


def _scalar(found: Any) -> Any:
    if isinstance(found, str):
        return text(found)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return found
    if isinstance(found, float):
        return 0.5 if found >= 0 else -0.5
    made = int(text(str(abs(found))))
    return made if found >= 0 else -made


def _field(match: re.Match[str]) -> str:
    name, told = match["name"], match["value"]
    if not is_personal(name):
        return match[0]
    made = f'"{text(told[1:-1])}"' if told.endswith('"') and len(told) > 1 else text(told)
    return f'"{name}"{match["colon"]}{made}'


def _stream(value: str) -> Any:
    """Numbers that only `value` decides."""
    block = hashlib.sha256(b"orderflow\x00" + value.encode("utf-8", "surrogatepass")).digest()
    while True:
        yield from block
        block = hashlib.sha256(block).digest()
