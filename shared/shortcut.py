"""The short way from a payload to its model, for payloads in which nothing is odd.

pydantic alone decides what is refused, and in which words: all that is not surely right is left to it. Surely right is printable ASCII
without escapes, with all fields of the model and no others, each within its bounds, and times in UTC. It takes a quarter of the time.
A test holds the two ways against each other.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, get_origin

import annotated_types
import msgspec
from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo

M = TypeVar("M", bound=BaseModel)

_PLAIN = bytes(code for code in range(0x20, 0x7F) if code != ord("\\"))
_in_utc = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{6})?(Z|\+00:00)").fullmatch
_moment = datetime.fromisoformat
_BOUNDS = {annotated_types.MinLen: "min_length", annotated_types.MaxLen: "max_length", annotated_types.Ge: "ge", annotated_types.Le: "le"}
_asdict = msgspec.structs.asdict
_put: Callable[[object, str, Any], None] = object.__setattr__


def to(model: type[M], years: range) -> Callable[[bytes], M | None]:
    """The short way to `model`, whose texts may be any printable ones and whose times lie in `years`. None where care is needed."""
    shape = {name: _shape(field) for name, field in model.model_fields.items()}
    struct = msgspec.defstruct(model.__name__, list(shape.items()), forbid_unknown_fields=True, gc=False)
    decode = msgspec.json.Decoder(struct).decode
    times = [name for name, field in model.model_fields.items() if field.annotation is AwareDatetime]
    names, new = set(shape), model.__new__

    def read(payload: bytes) -> M | None:
        if payload.translate(None, _PLAIN):
            return None
        try:
            fields = _asdict(decode(payload))
            for name in times:
                text = fields[name]
                if _in_utc(text) is None:
                    return None
                fields[name] = moment = _moment(text)
                if moment.year not in years:
                    return None
        except ValueError:  # msgspec's own are among them
            return None
        # As model_construct does it, for an eighth of its time. The set is shared: these models are frozen.
        made = new(model)
        _put(made, "__dict__", fields)
        _put(made, "__pydantic_fields_set__", names)
        _put(made, "__pydantic_extra__", None)
        _put(made, "__pydantic_private__", None)
        return made

    return read


def _shape(field: FieldInfo) -> Any:
    """What msgspec has to know of a field. Raises TypeError for one that it cannot be told of."""
    if field.annotation is AwareDatetime:
        return str
    if get_origin(field.annotation) is Literal:
        return field.annotation
    if field.annotation not in {str, int}:
        raise TypeError(f"there is no short way to a field of type {field.annotation}")
    bounds = {_BOUNDS[type(rule)]: getattr(rule, _BOUNDS[type(rule)]) for rule in field.metadata if type(rule) in _BOUNDS}
    return Annotated[field.annotation, msgspec.Meta(**bounds)]
