"""A dead letter as its readers have it; functions/dlq_router writes it."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class DeadLetter(BaseModel):
    """A record that its consumer could not handle, byte for byte, and what is known of the failure."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    letter_id: Annotated[UUID, Field(description="The same record failing again for the same consumer has the same.")]
    consumer: Annotated[str, Field(description="The consumer group.")]
    original_topic: str
    original_partition: int | None
    original_offset: int | None
    original_timestamp: Annotated[int | None, Field(description="Milliseconds since 1970.")]
    original_key: Base64 | None
    original_value: Base64 | None
    original_headers: Annotated[
        list[tuple[str, Base64 | None]] | None, Field(description="Name and value, in order, repeats kept. Null when they are packed.")
    ]
    original_headers_packed: Annotated[
        Base64 | None,
        Field(description="Many small headers: each text with its length before it, as a base-128 number, one more than it is; null is 0."),
    ] = None
    original_exact: Annotated[bool, Field(description="Whether key, value and headers are the record's own.")]
    error_code: str
    error_message: Annotated[str, Field(description="Bounded; whatever does not print is escaped.")]
    error_status: Annotated[int | None, Field(description="The last HTTP status; null when there was no answer.")]
    place: Annotated[str | None, Field(description="Of a bug its class and line, of a refusal the fields.")] = None
    reason: Literal["refused", "out_of_retries", "dependency_away"]
    attempts: int | None
    failed_at: AwareDatetime
    event_type: str | None
    event_id: str | None
    order_id: str | None
    traceparent: str | None
