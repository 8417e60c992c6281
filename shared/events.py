"""The facts that travel. Each is frozen, in the past tense, and the next is made from the last."""

import functools
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, cast

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from shared import errors, ids, masking, shortcut

# Ids of derived events are made in this namespace, so that a repeat makes the same event. Never to be changed.
NAMESPACE = uuid.UUID("6f1d3a52-0c1e-5b0e-9a53-7c2f64d1e8b4")
AMOUNT_KOPECKS_MAX = 10**15
KNATIVE_KAFKA_TYPE = "dev.knative.kafka.event"  # what a KafkaSource calls a record without CloudEvents headers
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_YEARS = range(1970, 9999)  # what both Python and a PostgreSQL timestamptz hold in any time zone


def _rfc_3339(value: object) -> object:
    if isinstance(value, str) and not _RFC_3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with a time zone, such as 2026-01-31T12:00:00Z")
    if not isinstance(value, str | datetime):
        raise ValueError("must be an RFC 3339 time as text")
    return value


def _in_reach(value: datetime) -> datetime:
    if value.year not in _YEARS:
        raise ValueError(f"must lie in the years {_YEARS.start} to {_YEARS.stop - 1}")
    return value.astimezone(UTC)


Id = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Time = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_reach)]


@dataclass(frozen=True, slots=True)
class Context:
    """What came with an event beside its payload: where its record lies, and which chain it belongs to."""

    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    replay: str | None = None  # the run that sends it again


class Origin(Protocol):
    """What an event came in."""

    @property
    def context(self) -> Context:
        """What came beside its payload."""

    @property
    def payload(self) -> bytes | None:
        """Its payload as it came, byte for byte; None for an event that was made here."""


@dataclass(frozen=True, slots=True)
class _Made:
    """The origin of an event that came in nothing."""

    context: Context
    payload: bytes | None = None


_NOWHERE = _Made(Context())


class Event(BaseModel):
    """What every event carries. `event_id` identifies it for deduplication; ids are opaque text of 1–128 characters."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    TYPE: ClassVar[str]
    SOURCE: ClassVar[str]
    VERSIONS: ClassVar[frozenset[int]] = frozenset({1})
    _known: ClassVar[dict[str, type["Event"]]] = {}
    __slots__ = ("_origin",)  # a private attribute of pydantic takes more time than the rest of an event

    event_id: Id
    event_type: str
    event_version: Annotated[int, Field(strict=True)] = 1
    occurred_at: Time
    order_id: Id
    user_id: Id

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Know every event by its type."""
        Event._known[cls.TYPE] = cls

    @property
    def context(self) -> Context:
        """Where the event came from, and the chain it belongs to."""
        return self._came_in().context

    @property
    def received(self) -> bytes:
        """Its payload as it came, byte for byte; as we write it where it did not come from elsewhere."""
        payload = self._came_in().payload
        return self.value() if payload is None else payload

    def personal(self) -> set[str]:
        """The texts of its personal fields: what no log shows (shared/masking.py)."""
        return {value for name in type(self).model_fields if masking.is_personal(name) and isinstance(value := getattr(self, name), str)}

    def within(self, context: Context, received: bytes | None = None) -> Self:
        """This event, with what came beside its payload, and that as it came. Returns itself."""
        return self.out_of(_Made(context, received))

    def out_of(self, origin: Origin) -> Self:
        """This event, with what it came in, which is asked only when somebody wants to know. Returns itself."""
        object.__setattr__(self, "_origin", origin)
        return self

    def __copy__(self) -> Self:
        """A copy has the same origin."""
        return super().__copy__().out_of(self._came_in())

    def _came_in(self) -> Origin:
        return cast("Origin", getattr(self, "_origin", _NOWHERE))

    @classmethod
    def caused_by(cls, cause: "Event", *, consumer: str, n: int = 0, occurred_at: datetime, **fields: Any) -> Self:
        """The event that `consumer` makes from `cause`, the nth of its type: same chain, derived id, so a repeat makes the same.

        It is published no earlier than `occurred_at`.
        """
        made = cls(
            event_id=derived_id(consumer, cls.TYPE, n, cause.event_id),
            event_type=cls.TYPE,
            occurred_at=occurred_at,
            order_id=cause.order_id,
            user_id=cause.user_id,
            **fields,
        )
        chain = cause.context
        return made.within(Context(chain.correlation_id or cause.event_id, cause.event_id, chain.traceparent))

    def headers(self) -> dict[str, str]:
        """The record headers of CloudEvents 1.0, Kafka protocol binding, binary mode."""
        chain = self.context
        attributes = {
            "ce_specversion": "1.0",
            "ce_id": self.event_id,
            "ce_type": self.event_type,
            "ce_source": self.SOURCE,
            "ce_subject": self.order_id,
            "ce_time": _text(self.occurred_at),
            "ce_partitionkey": self.order_id,
            "ce_correlationid": chain.correlation_id or self.event_id,
        }
        if chain.causation_id:
            attributes["ce_causationid"] = chain.causation_id
        if chain.traceparent:
            attributes["traceparent"] = chain.traceparent
        return attributes | {"content-type": "application/json"}

    def value(self) -> bytes:
        """The record's value: the payload as plain JSON in UTF-8."""
        return self.model_dump_json().encode()


class OrderPaid(Event):
    """A customer's order was paid."""

    TYPE: ClassVar[str] = "order.payment.completed"
    SOURCE: ClassVar[str] = "/orderflow/orders"

    event_type: Literal["order.payment.completed"] = "order.payment.completed"
    amount: Annotated[int, Field(strict=True, ge=0, le=AMOUNT_KOPECKS_MAX, description="kopecks")]
    payment_method: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]


class OrderAssembled(Event):
    """A paid order's parts are assembled."""

    TYPE: ClassVar[str] = "order.assembly.completed"
    SOURCE: ClassVar[str] = "/orderflow/assembly"

    event_type: Literal["order.assembly.completed"] = "order.assembly.completed"


class _Kind(BaseModel):
    """The part of a payload that says what it is."""

    event_type: str
    event_version: Annotated[int, Field(strict=True)] = 1


def derived_id(consumer: str, event_type: str, n: int, cause_id: str) -> str:
    """The id of the nth event of a type that a consumer makes from the event `cause_id`, as `ids.derived` has it."""
    return ids.derived(NAMESPACE, f"{consumer}/{event_type}/{n}/{cause_id}", cause_id)


def read(payload: bytes, kinds: Mapping[str, type[Event]]) -> Event:
    """The event in `payload` (JSON, UTF-8), one of `kinds` by type. Raises Refused, naming the field and the rule."""
    for kind in kinds.values():
        found = _short_way(kind)(payload)
        if found is not None and found.event_version in kind.VERSIONS:
            return found
    return read_with_care(payload, kinds)


@functools.cache
def _short_way(kind: type[Event]) -> Callable[[bytes], Event | None]:
    return shortcut.to(kind, Event, _YEARS)


def read_with_care(payload: bytes, kinds: Mapping[str, type[Event]]) -> Event:
    """What `read` gives, without its short way."""
    try:
        kind = _Kind.model_validate_json(payload)
        wanted = kinds.get(kind.event_type)
        if wanted is None:
            raise errors.Refused(
                f"event_type: {kind.event_type[:128]!r} is not handled here, only {', '.join(kinds)}",
                code="unknown_type",
                place="event_type",
            )
        if kind.event_version not in wanted.VERSIONS:
            raise errors.Refused(
                f"event_version: {kind.event_version} of {wanted.TYPE} is not supported, only {sorted(wanted.VERSIONS)}",
                code="unsupported_version",
                place="event_version",
            )
        return wanted.model_validate_json(payload)
    except ValidationError as exc:
        raise _refusal(exc.errors(include_url=False, include_input=False, include_context=False)) from exc


def known() -> Mapping[str, type[Event]]:
    """Every event type there is, by its name."""
    return Event._known


def _refusal(faults: list[ErrorDetails]) -> errors.Refused:
    if faults[0]["type"] == "json_invalid":
        return errors.Refused(f"the payload is not JSON: {faults[0]['msg'].removeprefix('Invalid JSON: ')}", code="unreadable")
    named = "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or 'payload'}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults[:5]
    )
    # Every payload's fields are those of its model, so this names no value.
    fields = sorted({str(fault["loc"][0]) for fault in faults if fault["loc"]})
    return errors.Refused(named, code="invalid_event", place=" ".join(fields) or "payload")


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
