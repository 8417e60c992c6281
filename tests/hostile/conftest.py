"""Every function as production runs it, with short patience, for clients that mean no good."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import controls, stack
from tests.hostile import wire

FUNCTIONS = ("orders", "assembly_on_payment", "order_on_assembled", "notify", "dlq_router")
# How much a function may grow by all that is done to it: two bodies of the largest size, what parsing makes of them, and the
# allocator's own habits. What is not bounded grows by far more than that here.
GROWTH_MIB_MAX = 120
SHORT = {
    "REQUEST_READ_TIMEOUT": "500ms",
    "ANSWER_WRITE_TIMEOUT": "500ms",
    "CONNECTIONS_MAX": "64",
    "KAFKA_BROKERS": "127.0.0.1:1",  # letters go to the outbox
    "DLQ_PRODUCER_TIMEOUT": "100ms",
}


@dataclass(frozen=True)
class Target:
    """A running function, and a request that it takes."""

    name: str
    process: stack.Process
    path: str
    good: Callable[[], dict[str, Any]]
    database: stack.TestDatabase

    def post(self, client: httpx.Client | None = None, **changes: Any) -> httpx.Response:
        """Send the good request, or what `changes` make of it."""
        return (client or httpx).post(self.process.url + self.path, timeout=stack.PATIENCE_S, **(self.good() | changes))

    def request(self, *more: str) -> bytes:
        """The good request as bytes."""
        good = self.good()
        lines = [f"{name}: {value}" for name, value in good["headers"].items()]
        return wire.head(self.path, *lines, f"content-length: {len(good['content'])}", *more) + good["content"]

    def well(self) -> None:
        """Fails the test when it is not: it lives, answers, and no answer was a 500."""
        assert self.process.alive(), self.process.text[-3000:]
        assert self.post().status_code in {200, 201}, self.process.text[-3000:]
        assert 'status="500"' not in httpx.get(f"{self.process.url}/metrics", timeout=stack.PATIENCE_S).text
        assert "Traceback" not in self.process.text, self.process.text[-3000:]


StartTarget = Callable[..., Target]


def _order() -> dict[str, Any]:
    body = {"user_id": controls.new_id(), "items": [{"product_id": "tea", "quantity": 1}]}
    return {"headers": {"content-type": controls.JSON}, "content": json.dumps(body).encode()}


def _failed_record() -> dict[str, Any]:
    told = {"topic": "order.payment.completed", "partition": 0, "offset": 1, "timestamp": None, "key": None, "headers": [], "attempts": 1}
    told |= {
        "value": base64.b64encode(json.dumps(controls.paid()).encode()).decode(),
        "status": 422,
        "code": "invalid_event",
        "detail": "x",
    }
    return {"headers": {"content-type": "application/vnd.orderflow.failed-record+json"}, "content": json.dumps(told).encode()}


GOOD: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "orders": ("/orders", _order),
    "assembly_on_payment": ("/", lambda: controls.binary(controls.paid())),
    "order_on_assembled": ("/", lambda: controls.binary(controls.assembled())),
    "notify": ("/", lambda: controls.binary(controls.paid())),
    "dlq_router": ("/assembly-service/order.payment.completed", _failed_record),
}


@pytest.fixture(scope="session")
def hostile_database(postgres: stack.PostgresServer) -> Iterator[stack.TestDatabase]:
    """A fresh, migrated database for all of these tests."""
    made = postgres.new_database()
    yield made
    postgres.drop(made)


@pytest.fixture(scope="session")
def start_target(tmp_path_factory: pytest.TempPathFactory, hostile_database: stack.TestDatabase) -> Iterator[StartTarget]:
    """start_target(name, **settings) -> that function until these tests end. Then it must be well, and within its limits."""
    made: dict[tuple[str, ...], tuple[Target, float]] = {}

    def start(name: str, **settings: str) -> Target:
        called = (name, *settings.values())
        if called not in made:
            path, good = GOOD[name]
            log = Path(tmp_path_factory.mktemp(name)) / "log.txt"
            env = hostile_database.environment() | SHORT | settings
            if name == "order_on_assembled":  # it and orders share a setting, each with a role of its own
                env["ORDER_POSTGRES_DSN"] = hostile_database.dsn("orderflow_order")
            process = stack.start_function(name, env, log)
            target = Target(name, process, path, good, hostile_database)
            made[called] = target, 0.0
            target.well()
            made[called] = target, wire.memory_mib(process.pid)
        return made[called][0]

    yield start
    try:
        for target, before in made.values():
            target.well()
            grown = wire.memory_mib(target.process.pid) - before
            assert grown < GROWTH_MIB_MAX, f"{target.name} grew by {grown:.0f} MiB"
    finally:
        for target, _ in made.values():
            target.process.kill()


@pytest.fixture(scope="session")
def targets(start_target: StartTarget) -> list[Target]:
    """All of the functions, for what takes its time."""
    return [start_target(name) for name in FUNCTIONS]


@pytest.fixture(scope="session", params=FUNCTIONS)
def target(request: pytest.FixtureRequest, start_target: StartTarget) -> Target:
    """Each of the functions."""
    return start_target(request.param)
