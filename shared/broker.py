"""Kafka: client settings, for the few who may speak to it (the source, the relay, dlq_router, the command).

librdkafka tells of wrong credentials and certificates only through `error_cb`: every other call just times out. So it is always set.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from shared import errors
from shared.config import Settings

log = logging.getLogger(__name__)

ERROR_INTERVAL_S = 30.0  # in an outage librdkafka repeats itself with every try to connect
RECONNECT = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 1000}
_SETTINGS_AT_FAULT = frozenset({KafkaError._AUTHENTICATION, KafkaError._SSL})


def client(settings: Settings, name: str, told: Callable[[str], None] | None = None) -> dict[str, Any]:
    """What every client of the process `name` has: brokers, security, quick reconnects, errors in the log; wrong settings also to `told`.

    Raises ConfigError.
    """
    check(settings)
    return settings.kafka_client() | RECONNECT | {"client.id": name, "error_cb": on_error(name, _user(settings), told), "log_level": 0}


def check(settings: Settings) -> None:
    """Refuse security settings that the client does not take, such as a file that is not there. Raises ConfigError, naming the setting."""
    security = settings.kafka_client()
    del security["bootstrap.servers"]  # so that it connects to nobody
    if not security:
        return
    try:
        Producer({**security, "log_level": 0})
    except KafkaException as exc:
        reason = exc.args[0].str()
        at_fault = [setting(name) for name in security if name in reason] or sorted(map(setting, security))
        raise errors.ConfigError([f"{', '.join(at_fault)}: Kafka's client does not take it: {reason}"]) from exc


def setting(name: str) -> str:
    """The variable of a property of the client: KAFKA_SASL_PASSWORD is sasl.password."""
    return f"KAFKA_{name.upper().replace('.', '_')}"


def producer(settings: Settings, name: str, *, delivery_timeout_s: float, message_bytes_max: int, **more: Any) -> dict[str, Any]:
    """An idempotent producer's settings: acks=all, order kept, nothing waited for longer than `delivery_timeout_s`."""
    return client(settings, name) | {
        "enable.idempotence": True,
        "acks": "all",
        "delivery.timeout.ms": int(delivery_timeout_s * 1000),
        "request.timeout.ms": int(min(delivery_timeout_s, 30) * 1000),
        "message.max.bytes": message_bytes_max,
        **more,
    }


def _user(settings: Settings) -> str | None:
    user = settings.kafka_security.get("sasl.username")
    return user.get_secret_value() if user else None


def on_error(name: str, user: str | None = None, told: Callable[[str], None] | None = None) -> Callable[[KafkaError], None]:
    """A callback that logs what librdkafka says of connections, each thing at most once in ERROR_INTERVAL_S.

    Wrong credentials and certificates are errors, which `told` hears of too; an outage is a warning.
    """
    last_at: dict[int, float] = {}

    def report(error: KafkaError) -> None:
        code, now = error.code(), time.monotonic()
        if now - last_at.get(code, -ERROR_INTERVAL_S) < ERROR_INTERVAL_S:
            return
        last_at[code] = now
        facts = {"client": name, "user": user, "reason": error.str()}
        if code in _SETTINGS_AT_FAULT:
            why = _refusal(error, user)
            log.error(why, extra=facts)
            if told is not None:
                told(f"{why}: {error.str()}")
        else:
            log.warning("Kafka does not answer as it should", extra=facts)

    return report


def _refusal(error: KafkaError, user: str | None) -> str:
    if error.code() == KafkaError._SSL:
        return (
            f"no TLS with Kafka for {user or 'this client'}: its certificate is not of the authority in KAFKA_SSL_CA_LOCATION or"
            " KAFKA_SSL_CA_PEM, or is for another host than KAFKA_BROKERS names"
        )
    return f"Kafka refuses {user or 'this client'}: its KAFKA_SASL_… or KAFKA_SSL_… settings are wrong"
