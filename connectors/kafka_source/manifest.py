"""KafkaSource documents (sources.knative.dev/v1), checked; every fault is named by its document and field."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from shared import errors

API_VERSION = "sources.knative.dev/v1"
KEY_TYPE_LABEL = "kafkasources.sources.knative.dev/key-type"
ANNOTATIONS = "orderflow.dev/"
_DURATION = re.compile(r"P(?=.)(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")


def duration_s(text: object) -> float:
    """An ISO 8601 duration such as PT0.5S or PT1M30S in seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("must be an ISO 8601 duration such as PT0.5S or PT30S")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds


def _http(url: str) -> str:
    if not re.match(r"https?://[^/\s]+", url) and not url.startswith("/"):
        raise ValueError("must be an http(s) URL, or a path below the ref")
    return url


def _extensions(values: dict[str, str]) -> dict[str, str]:
    for name in values:
        if not re.fullmatch(r"[a-z0-9]{1,64}", name):
            raise ValueError(f"{name}: the name of an extension holds only a-z and 0-9")
        if name in {"data", "specversion", "id", "type", "source"}:
            raise ValueError(f"{name}: cannot be overridden")
    return values


Duration = Annotated[float, BeforeValidator(duration_s)]
Name = Annotated[str, Field(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Ref(_Part):
    """The Service that is meant; its address is a setting."""

    api_version: str | None = None
    kind: str | None = None
    name: Name
    namespace: str | None = None


class Destination(_Part):
    """Where to send: a Service, an address, or a path below a Service."""

    ref: Ref | None = None
    uri: Annotated[str, AfterValidator(_http)] | None = None
    ca_certs: Annotated[str | None, Field(alias="CACerts")] = None
    audience: str | None = None

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.ref is None and (self.uri is None or self.uri.startswith("/")):
            raise ValueError("needs a ref, or a uri with a host")
        return self


class Delivery(_Part):
    """Retries and what comes after them. KafkaSource waits delay × 2^n before the nth retry, or delay × n."""

    dead_letter_sink: Destination
    retry: Annotated[int, Field(ge=0, le=100)] = 0
    backoff_policy: Literal["exponential", "linear"] = "exponential"
    backoff_delay: Duration = 0.2
    timeout: Annotated[Duration, Field(gt=0)] = 600.0
    retry_after_max: Duration | None = None

    @model_validator(mode="after")
    def _waits(self) -> Self:
        if self.retry and not self.backoff_delay:
            raise ValueError("backoffDelay: must be longer than PT0S, or KafkaSource makes no retries")
        return self


class Overrides(_Part):
    """Extensions that every event gets."""

    extensions: Annotated[dict[str, str], AfterValidator(_extensions)] = Field(default_factory=dict)


class Spec(_Part):
    """What is read, and where it goes."""

    bootstrap_servers: Annotated[tuple[str, ...], Field(min_length=1)]
    topics: Annotated[tuple[Name, ...], Field(min_length=1)]
    consumer_group: Name | None = None
    consumers: Annotated[int, Field(ge=0)] = 1
    initial_offset: Literal["earliest", "latest"] = "earliest"
    ordering: Literal["ordered", "unordered"] = "ordered"
    delivery: Delivery
    ce_overrides: Overrides = Overrides()
    net: dict[str, Any] | None = None
    sink: Destination


class Tuning(BaseModel):
    """Our annotations, each named orderflow.dev/…; KafkaSource does not know them."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=lambda name: name.replace("_", "-"))

    batch_size: Annotated[int, Field(ge=1, le=5000)] = 1
    batch_wait: Duration = 0.0
    requests_in_flight: Annotated[int, Field(ge=1, le=256)] = 4
    records_ahead_max: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000


class Document(BaseModel):
    """One KafkaSource."""

    name: Name
    namespace: Name = "default"
    key_type: str = "string"
    tuning: Tuning
    spec: Spec


def read(path: Path, names: Sequence[str] = ()) -> tuple[Document, ...]:
    """The KafkaSource documents of the file at `path`, all or those of `names`. Raises ConfigError with every fault."""
    try:
        raw = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise errors.ConfigError([f"{path}: {exc}"]) from exc
    found: list[Document] = []
    faults: list[str] = []
    for n, document in enumerate(raw, start=1):
        try:
            found += _document(document)
        except ValidationError as exc:
            where = f"{path.name}: document {n} ({_name(document)})"
            faults += [f"{where}: {_field(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}" for fault in exc.errors()]
    known = [document.name for document in found]
    faults += [f"{path.name}: {name}: two documents have this name" for name in sorted({name for name in known if known.count(name) > 1})]
    faults += [f"{path.name}: no KafkaSource is named {name}" for name in names if name not in known and not faults]
    if not raw or not (found or faults):
        faults.append(f"{path.name}: holds no KafkaSource ({API_VERSION})")
    if faults:
        raise errors.ConfigError(faults)
    return tuple(document for document in found if not names or document.name in names)


def _document(raw: object) -> list[Document]:
    return [checked(raw)] if isinstance(raw, dict) and raw.get("kind") == "KafkaSource" else []


def checked(raw: Mapping[str, Any]) -> Document:
    """One KafkaSource document as YAML has it. Raises pydantic's ValidationError with every fault."""
    metadata: dict[str, Any] = raw["metadata"] if isinstance(raw.get("metadata"), dict) else {}
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    document = {
        "name": metadata.get("name"),
        "namespace": metadata.get("namespace", "default"),
        "key_type": labels.get(KEY_TYPE_LABEL, "string"),
        "tuning": {name.removeprefix(ANNOTATIONS): text for name, text in annotations.items() if str(name).startswith(ANNOTATIONS)},
        "spec": raw.get("spec"),
    }
    return Document.model_validate(document)


def _name(raw: object) -> str:
    metadata = raw.get("metadata") if isinstance(raw, dict) else None
    return str(metadata.get("name", "without a name")) if isinstance(metadata, dict) else "without a name"


def _field(location: tuple[int | str, ...]) -> str:
    first, *rest = location
    prefix = {"name": "metadata.name", "namespace": "metadata.namespace", "tuning": "metadata.annotations.orderflow.dev"}.get(
        str(first), str(first)
    )
    return ("/" if first == "tuning" else ".").join([prefix, *(str(part) for part in rest)])
