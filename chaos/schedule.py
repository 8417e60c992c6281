"""Which fault comes when: a function of the seed and of nothing else.

Pairs of a kind and a target are drawn from a bag that holds each of them, some more than once, and is filled anew when it is empty: so
every kind comes to every target, whatever the seed. Faults overlap, but not without bound: the system is to work, or nothing is tested.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SERVERS = ("kafka", "postgres")
OURS = ("orders", "assembly_on_payment", "order_on_assembled", "notify", "dlq_router", "source-1", "source-2", "relay-1", "relay-2")
PROCESSES = (*OURS, *SERVERS)
TO_KAFKA = ("source-1", "source-2", "relay-1", "relay-2", "dlq_router")
TO_POSTGRES = ("orders", "assembly_on_payment", "order_on_assembled", "notify", "dlq_router", "relay-1", "relay-2")
DELIVERED_TO = ("assembly_on_payment", "order_on_assembled", "notify", "dlq_router")
LINKS = (
    *(f"{client}>kafka" for client in TO_KAFKA),
    *(f"{client}>postgres" for client in TO_POSTGRES),
    *(f"sources>{function}" for function in DELIVERED_TO),
    "clients>orders",
)

# How long each lasts, in seconds; 0 is over at once. Group sessions and leases end after 6 s, requests and transactions after 15 and 12.
LASTS_S = {
    "kill": (0.0, 0.0),
    "restart": (0.0, 0.0),
    "freeze": (0.3, 3.0),
    "long_freeze": (6.5, 13.0),
    "latency": (2.0, 6.0),
    "bandwidth": (2.0, 6.0),
    "timeout": (1.0, 4.0),
    "long_timeout": (7.0, 13.0),
    "reset_peer": (0.3, 2.0),
    "disabled": (0.3, 4.0),
}
OF_PROCESSES = ("kill", "restart", "freeze", "long_freeze")
OF_LINKS = ("latency", "bandwidth", "timeout", "long_timeout", "reset_peer", "disabled")
WEIGHTS = {"kill": 3, "restart": 2, "freeze": 1, "long_freeze": 1}  # of our own processes; everything else comes once a bag

FIRST_S = 2.0
GAP_S = (0.1, 1.2)
CYCLE_S, CALM_S = 25.0, 4.0  # so often, and for so long, nothing begins and nothing lasts
LASTING_MAX = 4  # at once
SERVER_REST_S = 10.0  # after a fault of Kafka or PostgreSQL itself until the next of either


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault: `at_s` after the beginning, for `lasts_s`. `how` holds what the kind needs beside that."""

    n: int
    at_s: float
    kind: str
    target: str
    lasts_s: float
    how: Mapping[str, Any] = field(default_factory=dict)


def pairs() -> list[tuple[str, str]]:
    """Every kind with every target that it can meet."""
    return [(kind, target) for target in PROCESSES for kind in OF_PROCESSES] + [(kind, link) for link in LINKS for kind in OF_LINKS]


def faults(seed: int) -> Iterator[Planned]:
    """The faults of a seed, in time, without end."""
    chance = random.Random(f"faults {seed}")  # noqa: S311  has to be the same again
    bag: list[tuple[str, str]] = []
    lasting: list[tuple[float, str]] = []  # until when, and what
    servers_at, now, n = 0.0, FIRST_S, 0
    while True:
        now = round(now + chance.uniform(*GAP_S), 2)
        lasting = [(until, target) for until, target in lasting if until > now]
        if len(bag) < len(pairs()) // 4:
            more = _bag()
            chance.shuffle(more)
            bag += more
        held = {target for _, target in lasting}
        drawn = [(kind, target, round(chance.uniform(*LASTS_S[kind]), 2)) for kind, target in bag]
        busy = SERVERS if now < servers_at else ()
        place = next((place for place, one in enumerate(drawn) if one[1] not in busy and _fits(now, one, held)), None)
        if place is None:
            continue
        del bag[place]
        kind, target, lasts_s = drawn[place]
        n += 1
        yield Planned(n, now, kind, target, lasts_s, _how(chance, kind))
        if lasts_s:
            lasting.append((now + lasts_s, target))
        if target in SERVERS:
            servers_at = now + lasts_s + SERVER_REST_S


def _bag() -> list[tuple[str, str]]:
    return [pair for pair in pairs() for _ in range(WEIGHTS.get(pair[0], 1) if pair[1] in OURS else 1)]


def _fits(now: float, one: tuple[str, str, float], held: set[str]) -> bool:
    _, target, lasts_s = one
    ends_in_time = now % CYCLE_S + lasts_s <= CYCLE_S - CALM_S
    return ends_in_time and (not lasts_s or (len(held) < LASTING_MAX and target not in held))


def _how(chance: random.Random, kind: str) -> dict[str, Any]:
    stream = _one(chance, ("upstream", "downstream"))
    match kind:
        case "latency":
            return {"stream": stream, "latency": chance.randrange(50, 1200), "jitter": chance.randrange(0, 200)}
        case "bandwidth":
            return {"stream": stream, "rate": chance.randrange(1, 16)}
        case "timeout" | "long_timeout" | "reset_peer":
            return {"stream": stream, "timeout": 0}
    return {}


def _one(chance: random.Random, of: Sequence[str]) -> str:
    return of[chance.randrange(len(of))]
