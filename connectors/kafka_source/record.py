"""One record on its way, and the CloudEvent that it is: as KafkaSource shows it, for one request or as an element of a batch."""

import re
import struct
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from connectors.kafka_source import partition, splice
from connectors.kafka_source.plan import Source

_STRUCTURED = "application/cloudevents+json"
_NAMES_MAX = 4096
_HEAD_BYTES_MAX = 16 << 10  # of attributes as HTTP headers; what servers take begins at that
_NAME = re.compile(r"[a-z0-9]+")  # the rule of CloudEvents; anything else could end a header and begin another
# What HTTP carries unchanged: no control characters, nothing beyond Latin-1, no blanks at the ends.
_HEADER_TEXT = re.compile(r"(?:[!-~\xa1-\xff](?:[ -~\xa0-\xff]*[!-~\xa1-\xff])?)?")

_encoder = msgspec.json.Encoder()
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])

HttpHeaders = list[tuple[bytes, bytes]]
RecordHeaders = Sequence[tuple[str, str | bytes | None]]


class Record:
    """One record: where it lies, and what was tried. Attempts live in memory only."""

    # Most records never need these: defaults of the class cost nothing to make.
    done = False
    tries = 0  # requests that carried it, as far as they failed
    failures = 0  # tries that count
    shared_failure = False  # whether one of them was a request's that carried others too
    aways = 0  # answers in a row that were not its fault
    away_since: float | None = None

    def __init__(self, message: Message, of: "partition.Partition", offset: int, arrived: float) -> None:
        self.message = message
        self.partition = of
        self.offset = offset
        self.key = message.key()
        self.size = len(message)
        self.arrived = arrived


class Envelope:
    """Makes CloudEvents of one source's records."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._origin = f"/apis/v1/namespaces/{source.namespace}/kafkasources/{source.name}"
        self._extensions = dict(source.extensions)
        self._names: dict[str, str] = {}
        self._splicer = splice.Splicer(self._origin, source.key_type, source.extensions, self._learn)

    def element(self, record: Record) -> bytes:
        """The record as an element of a JSON batch. A value that is JSON stands there as it is, any other in base64."""
        return self._splicer.element(record) or self.careful_element(record)

    def careful_element(self, record: Record) -> bytes:
        """The same the long way, whatever the record holds."""
        members, data = self._read(record)
        if data is None:
            pass
        elif _is_json_type(members.get("datacontenttype")) and splice.is_json(data):
            members["data"] = msgspec.Raw(data)
        else:
            members["data_base64"] = data  # msgspec writes bytes in base64
        return _encoder.encode(members)

    def request(self, record: Record) -> tuple[HttpHeaders, bytes | None]:
        """The record as one request: binary mode, or structured where HTTP headers could not carry its attributes, or not unchanged."""
        attributes, data = self._read(record)
        size = sum(map(len, attributes)) + sum(map(len, attributes.values())) + 8 * len(attributes)
        if size > _HEAD_BYTES_MAX or not all(map(_HEADER_TEXT.fullmatch, attributes.values())):
            return [(b"content-type", _STRUCTURED.encode())], self.careful_element(record)
        headers = [(b"Prefer", b"reply"), (b"Kn-Namespace", self._source.namespace.encode())]
        for name, text in attributes.items():
            key = {"datacontenttype": "content-type", "traceparent": "traceparent"}.get(name, f"ce-{name}")
            headers.append((key.encode(), text.encode("latin-1")))
        return headers, data

    def _read(self, record: Record) -> tuple[dict[str, Any], bytes | None]:
        """Attributes (text) and data of the event that the record is."""
        headers: Any = headers_of(record.message)
        names = self._names
        try:
            attributes = {names[name]: raw.decode() for name, raw in headers}
        except (KeyError, AttributeError, UnicodeDecodeError):  # a new name, a null, no UTF-8
            attributes = {self._learn(name): _shown(raw) for name, raw in headers if raw is not None}
        attributes.pop("", None)
        data: bytes | None = record.message.value()
        get = attributes.get
        content_type = get("datacontenttype")
        if get("specversion") and get("id") and get("type") and get("source"):
            pass
        elif content_type and content_type.lower().startswith(_STRUCTURED) and (structured := _structured(data)):
            attributes, data = structured
        else:
            attributes = self._plain(record, content_type, get("traceparent"), headers)
        attributes.update(self._extensions)
        if record.partition.number_text:  # a dead letter's record may have lain nowhere that is known
            attributes["knativekafkapartition"] = record.partition.number_text
            attributes["knativekafkaoffset"] = str(record.offset)
        return attributes, data

    def _learn(self, name: str) -> str:
        """The attribute that the record header `name` holds; empty where it holds none."""
        lower = name.lower()
        if name.startswith("ce_"):
            attribute = re.sub(r"[^a-z0-9]", "", lower[3:])
            attribute = "" if attribute in {"data", "datacontenttype"} else attribute
        else:
            attribute = {"content-type": "datacontenttype", "traceparent": "traceparent"}.get(lower, "")
        if len(self._names) < _NAMES_MAX:
            self._names[name] = attribute
        return attribute

    def _plain(self, record: Record, content_type: str | None, traceparent: str | None, headers: RecordHeaders) -> dict[str, str]:
        """A record that is no CloudEvent, as KafkaSource wraps it."""
        number, offset = record.partition.number, record.offset
        attributes = {
            "specversion": "1.0",
            "id": f"partition:{number}/offset:{offset}",
            "source": f"{self._origin}#{record.partition.topic}",
            "type": "dev.knative.kafka.event",
            "subject": f"partition:{number}#{offset}",
        }
        kind, timestamp_ms = record.message.timestamp()
        if kind != TIMESTAMP_NOT_AVAILABLE and (moment := splice.time_text(timestamp_ms)):
            attributes["time"] = moment
        if record.key:
            attributes["key"] = attributes["partitionkey"] = key_text(record.key, self._source.key_type)
        if content_type:
            attributes["datacontenttype"] = content_type.lower()
        if traceparent:
            attributes["traceparent"] = traceparent
        for name, raw in headers:
            if raw is not None and name.lower() != "content-type":
                attributes["kafkaheader" + re.sub(r"[^a-z0-9]", "", name.lower())] = _shown(raw)
        return attributes


def _is_json_type(content_type: str | None) -> bool:
    """Whether data of this type is JSON; without a type it is, if it reads as such."""
    return content_type is None or splice.JSON_TYPE.fullmatch(content_type.partition(";")[0].strip()) is not None


def _shown(raw: bytes | str) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw


def headers_of(message: Message) -> RecordHeaders:
    """The record's headers, in their order, repeats and nulls kept. Names that are no UTF-8 make them unreadable: none then."""
    try:
        return cast("RecordHeaders", message.headers() or ())
    except UnicodeDecodeError:
        return ()


def key_text(key: bytes, key_type: str) -> str:
    """The key as KafkaSource shows it for a key type; a key that does not fit the type is shown as text."""
    if key_type == "byte-array":
        return msgspec.to_builtins(key)  # type: ignore[no-any-return]  # base64 text
    if key_type == "int" and len(key) == 4:
        return str(int.from_bytes(key, "big", signed=True))
    if key_type == "float" and len(key) in {4, 8}:
        return _java_float(key)
    return key.decode("utf-8", "replace")


def _java_float(key: bytes) -> str:
    """Java's shortest text of a float or double: 1.5, 5.9E-44, NaN."""
    code = ">f" if len(key) == 4 else ">d"
    (number,) = struct.unpack(code, key)
    if number != number or number in {float("inf"), float("-inf")}:  # noqa: PLR0124  NaN alone differs from itself
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(number)]
    digits = next((text for n in range(1, 18) if struct.pack(code, float(text := f"{number:.{n}g}")) == key), repr(number))
    magnitude = abs(number)
    if magnitude == 0 or 1e-3 <= magnitude < 1e7:
        plain = f"{float(digits):f}".rstrip("0") if "e" in digits else digits
        return plain if "." in plain and not plain.endswith(".") else f"{plain.rstrip('.')}.0"
    mantissa, _, exponent = f"{float(digits):.{max(len(re.sub(r'[^0-9]', '', digits.partition('e')[0])) - 1, 1)}e}".partition("e")
    mantissa = mantissa.rstrip("0") + ("0" if mantissa.rstrip("0").endswith(".") else "")
    return f"{mantissa}E{int(exponent)}"


def _structured(value: bytes | None) -> tuple[dict[str, str], bytes | None] | None:
    """Attributes and data of a CloudEvent in JSON; None where the value is none, and the record then counts as plain."""
    try:
        if not value or (not value.isascii() and value.decode() is None):
            return None
        members = _members.decode(value)
        texts = ((name, _text(raw)) for name, raw in members.items() if name not in {"data", "data_base64"})
        attributes = {name: text for name, text in texts if text is not None}
        if not all(attributes.get(name) for name in splice.REQUIRED) or not all(map(_NAME.fullmatch, attributes)):
            return None
        if "data_base64" in members:
            return attributes, msgspec.json.decode(members["data_base64"], type=bytes)
        data = members.get("data")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return None
    content_type = attributes.get("datacontenttype")
    if (
        data is not None
        and content_type
        and not splice.JSON_TYPE.fullmatch(content_type.partition(";")[0].strip())
        and bytes(data)[:1] == b'"'
    ):
        return attributes, msgspec.json.decode(data, type=str).encode()
    return attributes, None if data is None else bytes(data)


def _text(raw: msgspec.Raw) -> str | None:
    """An attribute as text: 7 and true as KafkaSource writes them; null is absent. Raises ValueError for what is no attribute."""
    found = msgspec.json.decode(raw)
    if isinstance(found, bool):
        return "true" if found else "false"
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, int):
        return str(found)
    raise ValueError("an attribute is text, a number or a truth value")
