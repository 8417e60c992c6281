"""The environment of this command, which should be that of the processes."""

from collections.abc import Iterator, Mapping

from connectors.outbox_relay.relay import MARK_S
from ops.doctor.checks import finds
from ops.doctor.findings import Finding
from ops.doctor.times import origin
from shared.config import Settings
from shared.topics import Catalogue


@finds("setting_refused")
def taken(refused: tuple[str, ...]) -> Iterator[Finding]:
    """What no process starts with."""
    for sentence in refused:
        yield Finding("setting_refused", sentence, f"put {sentence.partition(':')[0]} right, or take it away")


@finds("outbox_apart")
def one_outbox(catalogue: Catalogue, placed: Mapping[str, str]) -> Iterator[Finding]:
    """Whether all who write to the outbox, and its relay, have one database."""
    inside = [consumer.role for _, consumer in catalogue.consumers() if not consumer.leased]
    for role in dict.fromkeys([*inside, "dlq", "relay"]):
        if placed[role] != placed["order"]:
            yield Finding(
                "outbox_apart",
                f"{role.upper()}_POSTGRES_DSN names {placed[role]}, ORDER_POSTGRES_DSN names {placed['order']} (environment)",
                f"one database in both: {placed['order']}",
            )


@finds("parking_apart")
def letters_beside(settings: Settings, catalogue: Catalogue, placed: Mapping[str, str]) -> Iterator[Finding]:
    """Whether who parks can see the letters."""
    for role in dict.fromkeys(consumer.role for _, consumer in catalogue.consumers()):
        if settings.parks(role) and placed[role] != placed["dlq"]:
            yield Finding(
                "parking_apart",
                f"{role.upper()}_PARKING is on (environment); its tables are in {placed[role]}, the letters in {placed['dlq']}",
                f"DLQ_POSTGRES_DSN and {role.upper()}_POSTGRES_DSN of one database, or {role.upper()}_PARKING=false",
            )


@finds("timeouts_order")
def relay_marks_in_time(settings: Settings) -> Iterator[Finding]:
    """Whether the relay can mark what Kafka confirmed before PostgreSQL ends its transaction."""
    if settings.relay_delivery_timeout > settings.delivery_deadline - MARK_S:
        yield Finding(
            "timeouts_order",
            f"RELAY_DELIVERY_TIMEOUT is {settings.relay_delivery_timeout:g} s ({origin(settings, 'relay_delivery_timeout')}), and "
            f"DELIVERY_DEADLINE, at which PostgreSQL ends an idle transaction, {settings.delivery_deadline:g} s "
            f"({origin(settings, 'delivery_deadline')}): the relay does not start",
            f"RELAY_DELIVERY_TIMEOUT={settings.delivery_deadline - MARK_S:g}s or less",
        )
