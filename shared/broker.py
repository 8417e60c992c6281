"""Kafka: client settings, for the few who may speak to it (the source, the relay, dlq_router, the command).

librdkafka tells of wrong credentials and certificates only through `error_cb`: every other call just times out. So it is always set.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError

from shared.config import Settings

log = logging.getLogger(__name__)

ERROR_INTERVAL_S = 30.0  # in an outage librdkafka repeats itself with every try to connect
RECONNECT = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 1000}
_SETTINGS_AT_FAULT = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})


def client(settings: Settings, name: str) -> dict[str, Any]:
    """What every client of the process `name` has: brokers, security, quick reconnects, errors in the log."""
    return settings.kafka_client() | RECONNECT | {"client.id": name, "error_cb": on_error(name, _user(settings)), "log_level": 0}


def producer(settings: Settings, name: str, *, delivery_timeout_s: float, message_bytes_max: int, **more: Any) -> dict[str, Any]:
    """An idempotent producer's settings: acks=all, order kept, nothing waited for longer than `delivery_timeout_s`."""
    return client(settings, name) | {
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "lz4",
        "delivery.timeout.ms": int(delivery_timeout_s * 1000),
        "request.timeout.ms": int(min(delivery_timeout_s, 30) * 1000),
        "message.max.bytes": message_bytes_max,
        **more,
    }


def _user(settings: Settings) -> str | None:
    user = settings.kafka_security.get("sasl.username")
    return user.get_secret_value() if user else None


def on_error(name: str, user: str | None = None) -> Callable[[KafkaError], None]:
    """A callback that logs what librdkafka says of connections, each thing at most once in ERROR_INTERVAL_S.

    Wrong credentials and certificates are errors; an outage is a warning.
    """
    last_at: dict[int, float] = {}

    def report(error: KafkaError) -> None:
        code, now = error.code(), time.monotonic()
        if now - last_at.get(code, -ERROR_INTERVAL_S) < ERROR_INTERVAL_S:
            return
        last_at[code] = now
        facts = {"client": name, "user": user, "reason": error.str()}
        if code in _SETTINGS_AT_FAULT:
            log.error("Kafka refuses %s: its KAFKA_SASL_… or KAFKA_SSL_… settings are wrong", user or "this client", extra=facts)
        else:
            log.warning("Kafka does not answer as it should", extra=facts)

    return report
