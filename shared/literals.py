"""Python values as PostgreSQL's text literals: checked before the driver sees them, and a whole array in a few string operations."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from shared import errors

_MARK = "\x00"  # no PostgreSQL text can hold it, so it can stand between the elements of an array while they are escaped


def text(value: object) -> str | None:
    """`value` as the text of a parameter; None is NULL, a sequence is an array, a mapping is JSON. Raises Refused, TypeError."""
    if value is None or isinstance(value, str):
        return _checked(value) if value is not None else None
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, Sequence):
        return array(value)
    raise TypeError(f"no PostgreSQL literal for {type(value).__name__}")


def array(values: Sequence[object]) -> str:
    """An array literal, each element quoted, so that the text `null` stays a text. Raises Refused where an element cannot be stored.

    Escaping the joined text once is ten times as fast as pg8000's own way, element by element.
    """
    if not values:
        return "{}"
    if None in values:
        return "{" + ",".join("NULL" if value is None else array([value])[1:-1] for value in values) + "}"
    if all(type(value) is datetime and value.tzinfo is UTC for value in values):
        return "{" + msgspec.json.encode(values).decode()[1:-1] + "}"  # a hundredth of what isoformat takes
    if all(type(value) is bytes for value in values):
        return '{"\\\\x' + '","\\\\x'.join([value.hex() for value in values]) + '"}'  # type: ignore[attr-defined]
    joined = _MARK.join([value if isinstance(value, str) else _element(value) for value in values])
    if joined.count(_MARK) != len(values) - 1:
        raise errors.Refused("a text must not contain the character NUL", code="value_error")
    escaped = joined.replace("\\", "\\\\").replace('"', '\\"').replace(_MARK, '","')
    return '{"' + _checked(escaped) + '"}'


def _element(value: object) -> str:
    made = text(value)
    if made is None:
        raise TypeError("an element must not be None here")
    return made


def _checked(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise errors.Refused("a text must not contain half of a surrogate pair", code="value_error") from exc
    return value
