"""Every setting, read once from the environment into one frozen value; every fault is listed at once."""

import functools
import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from shared import bearer, environ, errors, masking

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_BROKERS_BY_APP_ENV = {"local": "localhost:19092", "docker": "kafka:9092"}
_AWS_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")  # boto3 reads these by itself
_NO_SECRET = re.compile(r"security\.protocol|sasl\.(mechanisms?|username)|ssl\.(ca\.pem|.*(location|algorithm|suites|list))")
_POSTGRES_BY_APP_ENV = {"local": "localhost:15432", "docker": "postgres:5432"}


def seconds(text: object) -> float:
    """A duration such as `10s`, `500ms`, `1m30s`, `2h` or `40d` in seconds; a bare number is seconds. Raises ValueError."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    if isinstance(text, str) and re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if not text or match is None:
        raise ValueError(f"must be a duration such as 10s, 500ms or 1m30s, not {text!r}")
    days, hours, minutes, whole, milliseconds = (float(part or 0) for part in match.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + whole + milliseconds / 1000


def _brokers(text: str) -> str:
    for address in text.split(","):
        if not re.fullmatch(r"[^\s:,]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address.strip()):
            raise ValueError(f"must be host:port[,host:port…], and {address.strip()!r} is not host:port")
    return ",".join(address.strip() for address in text.split(","))


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be longer than 0s")
    return value


Seconds = Annotated[float, BeforeValidator(seconds)]
PositiveSeconds = Annotated[float, BeforeValidator(seconds), AfterValidator(_positive)]


class Retry(BaseModel, frozen=True):
    """How often and how late an event that failed by its own fault is tried again; None leaves it to the manifest."""

    max_attempts: Annotated[int, Field(ge=0, le=100)] | None = None
    backoff_base_s: PositiveSeconds | None = None


class Settings(BaseSettings):
    """The environment, checked whole. Secrets may come from a file named in NAME_FILE."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    unreadable: tuple[str, ...] = ()  # what NAME_FILE settings name and could not be read
    app_env: Literal["local", "docker"] = "local"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"

    kafka_brokers: Annotated[str, AfterValidator(_brokers)] = Field(
        default_factory=lambda known: _BROKERS_BY_APP_ENV[known.get("app_env", "local")]
    )
    kafka_topic: str = "test-topic"
    kafka_security: dict[str, SecretStr] = Field(default_factory=dict)
    kafka_retry_max_attempts: Annotated[int, Field(ge=0, le=100)] | None = None
    kafka_retry_backoff_base: PositiveSeconds | None = None
    kafka_unavailable_max: PositiveSeconds | None = None
    breaker_consecutive_max: Annotated[int, Field(ge=0)] = 20  # so many in a row, or
    breaker_ratio_max: Annotated[float, Field(ge=0, le=1)] = 0.5  # this part of the last
    breaker_window_records: Annotated[int, Field(ge=0, le=1_000_000)] = 100  # so many would become letters: the source pauses; 0: off
    kafka_group_protocol: Literal["classic", "consumer"] = "classic"  # every broker speaks classic; consumer needs Kafka 4
    sink_urls: str = ""  # name=url,… of the Services that KafkaSource manifests name
    sink_url_template: str = ""  # for names that SINK_URLS has not: http://gateway:8080/function/{name}
    retries: dict[str, Retry] = Field(default_factory=dict)
    parking: dict[str, bool] = Field(default_factory=dict)
    overrides: dict[str, str] = Field(default_factory=dict)

    postgres_dsns: dict[str, SecretStr] = Field(default_factory=dict)
    postgres_connections: Annotated[int, Field(ge=1, le=64)] = 2
    postgres_connect_timeout: PositiveSeconds = 3.0
    lock_timeout: PositiveSeconds = 0.5
    statement_timeout: PositiveSeconds = 5.0
    delivery_deadline: PositiveSeconds = 20.0

    shutdown_timeout: Seconds = 10.0
    drain_delay: Seconds = 0.0
    delivery_token: Annotated[tuple[SecretStr, ...], BeforeValidator(bearer.read)] = ()  # each lets in, the first is sent
    event_bytes_max: Annotated[int, Field(ge=1024)] = 1 << 20
    batch_bytes_max: Annotated[int, Field(ge=1024)] = 8 << 20
    batch_events_max: Annotated[int, Field(ge=1, le=10_000)] = 1000
    group_events_max: Annotated[int, Field(ge=1, le=5000)] = 500
    queue_events_max: Annotated[int, Field(ge=1)] = 5000
    request_read_timeout: PositiveSeconds = 30.0  # from a request's first byte to its last, and from a connection to its first request
    answer_write_timeout: PositiveSeconds = 30.0  # for a client to take what is written to it
    request_bytes_max: Annotated[int, Field(ge=1 << 20)] = 32 << 20  # of all requests that are read or worked on, together
    connections_max: Annotated[int, Field(ge=2)] = 512

    assembly_duration: Seconds = 10.0
    order_item_price_kopecks: Annotated[int, Field(ge=0, le=10**9)] = 10_000
    orders_concurrent_requests_max: Annotated[int, Field(ge=1)] = 256  # of one process; fewer than CONNECTIONS_MAX, or it is never reached
    orders_requests_per_second_max: Annotated[float, Field(gt=0)] | None = None  # of one process; unset: as many as are done
    orders_burst_requests_max: Annotated[int, Field(ge=1)] | None = None  # beyond that rate, at once; unset: a second's worth
    idempotency_key_ttl: PositiveSeconds = 86_400.0
    public_path_prefix: Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$")] = ""  # where a gateway shows orders: /function/orders

    telegram_enabled: bool = False
    telegram_bot_token: SecretStr | None = None
    telegram_chat_id: str | None = None
    telegram_timeout: PositiveSeconds = 5.0
    telegram_url: str = "https://api.telegram.org"
    notification_lease: PositiveSeconds = 15.0

    dlq_archive_bucket: str | None = None
    dlq_archive_endpoint: str | None = None  # "aws": AWS's own; unset: what AWS_ENDPOINT_URL says, else LocalStack when APP_ENV=local
    dlq_producer_timeout: PositiveSeconds = 5.0

    inbox_retention: PositiveSeconds | None = None  # longer than the topics demand, never shorter (shared/retention.py)
    outbox_retention: PositiveSeconds | None = None  # of rows that were sent or discarded; unset: as long as an inbox's
    removal_interval: PositiveSeconds = 60.0

    relay_sweep_interval: PositiveSeconds = 5.0
    relay_batch_rows: Annotated[int, Field(ge=1, le=2000)] = 500
    relay_batch_bytes: Annotated[int, Field(ge=1024)] = 8 << 20
    relay_workers: Annotated[int, Field(ge=1, le=16)] = 4
    relay_delivery_timeout: PositiveSeconds = 10.0
    relay_topic_unknown_max: PositiveSeconds = 60.0

    def model_post_init(self, _context: object) -> None:
        """Refuse secrets that could not be read, and settings that only make sense together."""
        faults = list(self.unreadable)
        if self.telegram_enabled:
            faults += [
                f"{name}: is needed when TELEGRAM_ENABLED=true"
                for name in ("TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID")
                if not getattr(self, name.lower())
            ]
        if self.telegram_timeout >= self.notification_lease:
            faults.append("TELEGRAM_TIMEOUT: must be shorter than NOTIFICATION_LEASE, or a send outlives its lease")
        if self.request_bytes_max < max(self.batch_bytes_max, self.event_bytes_max):
            faults.append("REQUEST_BYTES_MAX: must not be less than BATCH_BYTES_MAX and EVENT_BYTES_MAX, or no such request is ever taken")
        if not self.lock_timeout < self.statement_timeout < self.delivery_deadline:
            faults.append("STATEMENT_TIMEOUT: must lie between LOCK_TIMEOUT and DELIVERY_DEADLINE")
        if faults:
            raise errors.ConfigError(faults)

    def postgres_dsn(self, consumer: str) -> str:
        """The DSN of `consumer` (order, assembly, notification, dlq, relay): its own, else ORDER_POSTGRES_DSN, else the local one."""
        found = self.postgres_dsns.get(consumer) or self.postgres_dsns.get("order")
        if found is not None:
            return found.get_secret_value()
        return f"postgresql://order_user:order_password@{_POSTGRES_BY_APP_ENV[self.app_env]}/orders"

    def retry(self, consumer: str) -> Retry:
        """The retry settings of `consumer`, its own before the general ones."""
        own = self.retries.get(consumer, Retry())
        return Retry(
            max_attempts=self.kafka_retry_max_attempts if own.max_attempts is None else own.max_attempts,
            backoff_base_s=self.kafka_retry_backoff_base if own.backoff_base_s is None else own.backoff_base_s,
        )

    def parks(self, consumer: str) -> bool:
        """Whether `consumer` (order, assembly, notification) lets events wait behind an open letter of their order."""
        return self.parking.get(consumer, False)

    def override(self, setting: str, default: str) -> str:
        """The value of a topic or group setting (`KAFKA_…_TOPIC`, `KAFKA_…_GROUP_ID`), else `default`."""
        return self.overrides.get(setting, default)

    def topic(self, event_type: str) -> str:
        """The topic on which events of `event_type` travel: KAFKA_<EVENT_TYPE>_TOPIC, else the type itself."""
        return self.override(f"KAFKA_{event_type.upper().replace('.', '_')}_TOPIC", event_type)

    def kafka_client(self) -> dict[str, str]:
        """librdkafka's settings for a connection: brokers and security, secrets in the clear."""
        return {"bootstrap.servers": self.kafka_brokers} | {key: value.get_secret_value() for key, value in self.kafka_security.items()}

    def secrets(self) -> Iterator[str]:
        """Every secret in them: what nothing may show. A DSN as a whole."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            held = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, tuple | list) else [value])
            yield from (each.get_secret_value() for key, each in held if isinstance(each, SecretStr) and not _NO_SECRET.fullmatch(str(key)))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, in which NAME comes before NAME_FILE."""
        return init_settings, _Environment(settings_cls)


class _Environment(PydanticBaseSettingsSource):
    """The variables that are settings of ours, and no others: a stray RETRIES=3 of another program is not."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found, unreadable = environ.read(os.environ, Settings.model_fields)
        patterned = environ.patterned(found)
        fields = Settings.model_fields.keys() - patterned.keys() - {"unreadable"}
        plain = {name.lower(): value for name, value in found.items() if name.lower() in fields}
        return plain | {name: values for name, values in patterned.items() if values} | {"unreadable": unreadable}


def load() -> Settings:
    """The settings of this process's environment. Raises ConfigError with every fault, and never a value of a secret."""
    try:
        made = Settings()
    except ValidationError as exc:
        _, faults = environ.read(os.environ, Settings.model_fields)  # once more, for the files that could not be read
        found = exc.errors(include_input=False)
        faults += [f"{environ.name(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}" for fault in found]
        raise errors.ConfigError(faults) from None
    masking.keep_secret([*made.secrets(), *map(os.environ.get, _AWS_SECRETS)])
    return made


@functools.cache
def settings() -> Settings:
    """The settings of this process, read at the first call."""
    return load()
