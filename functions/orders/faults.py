"""What can be wrong with a request, as failures that name the field."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

from shared import errors

FAULTS_MAX = 20  # named in one answer


class InvalidRequest(errors.Refused):
    """The request is not valid."""

    code = "invalid_request"

    def __init__(self, faults: Sequence[Mapping[str, str]], *, code: str = "") -> None:
        self.faults = faults[:FAULTS_MAX]
        super().__init__("; ".join(f"{fault['field']}: {fault['detail']}" for fault in faults[:3]), code=code)


class Malformed(InvalidRequest):
    """The request cannot be read."""

    status = 400
    code = "malformed_request"


class NotFound(errors.OrderflowError):
    """There is nothing at this address."""

    status = 404
    code = "not_found"


def fault(field: str, rule: str, detail: str) -> dict[str, str]:
    """One fault of one field."""
    return {"field": field, "rule": rule, "detail": detail}


def of_body(found: Sequence[ErrorDetails]) -> InvalidRequest:
    """What pydantic found in a body: Malformed when it is no JSON at all."""
    if found[0]["type"] == "json_invalid":
        return Malformed([fault("body", "json", "is not JSON: " + found[0]["msg"].removeprefix("Invalid JSON: "))])
    return InvalidRequest([_named(each, each["loc"]) for each in found])


def of_parameters(found: Sequence[Any]) -> InvalidRequest:
    """What FastAPI found in the parameters of the path and the query."""
    return InvalidRequest([_named(each, each["loc"][1:]) for each in found])


def _named(found: Any, location: tuple[int | str, ...]) -> dict[str, str]:
    detail = found["msg"].removeprefix("Value error, ")
    if found["type"] == "string_pattern_mismatch":  # the only pattern here is that of ids
        detail = "must not contain control characters"
    return fault(".".join(str(part) for part in location) or "body", found["type"], detail)
