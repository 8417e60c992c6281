"""A process with another's password, another's DSN or too few grants says so: 503, and an error in its log that names the role.

It is said at the first use, and by /ready: a process that refused to start would have to be started again by hand after an outage.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from ops import child
from tests import conftest, controls, stack

NOWHERE = "127.0.0.1:9"
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Case:
    """A function, the setting of its DSN, its role, the table that its work begins with, and a request that is such work."""

    function: str
    setting: str
    role: str
    table: str
    request: Callable[[], dict[str, Any]]
    path: str = ""


CASES = [
    Case("orders", "ORDER_POSTGRES_DSN", "orderflow_orders", "orders",
         lambda: {"json": {"user_id": "u", "items": [{"product_id": "p", "quantity": 1}]}}, "/orders"),
    Case("order_on_assembled", "ORDER_POSTGRES_DSN", "orderflow_order", "order_inbox_events",
         lambda: controls.binary(controls.assembled())),
    Case("assembly_on_payment", "ASSEMBLY_POSTGRES_DSN", "orderflow_assembly", "assembly_inbox_events",
         lambda: controls.binary(controls.paid())),
    Case("notify", "NOTIFICATION_POSTGRES_DSN", "orderflow_notification", "notification_inbox_events",
         lambda: controls.binary(controls.paid())),
    Case("dlq_router", "DLQ_POSTGRES_DSN", "orderflow_dlq", "order_outbox_events",
         lambda: {"content": b"x"}, "/assembly-service/order.payment.completed"),
]  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda case: case.function)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def start(case: Case, start_function: conftest.StartFunction) -> Callable[[str], stack.Process]:
    """start(dsn) -> the function of the case, without Kafka."""
    env = {"KAFKA_BROKERS": NOWHERE, "DLQ_PRODUCER_TIMEOUT": "1s"}
    return lambda dsn: start_function(case.function, env | {case.setting: dsn})


def refusal(case: Case, function: stack.Process) -> tuple[int, str, str]:
    """Status, code and detail of the answer to its work; that of dlq_router says that neither store took the letter, and why."""
    answer = httpx.post(function.url + case.path, timeout=30, **case.request())
    assert (PROBLEM, True) == (answer.headers["content-type"], int(answer.headers["retry-after"]) >= 1)
    return answer.status_code, answer.json()["code"], answer.json()["detail"]


def logged(process: stack.Process) -> list[dict[str, Any]]:
    """Its errors about roles."""
    lines = [json.loads(line) for line in process.text.splitlines() if line.startswith("{")]
    return [line for line in lines if line["level"] == "error" and "role" in line]


def with_password(database: stack.TestDatabase, role: str, password: str) -> str:
    return database.dsn(role).replace(f"{role}_password", password)


def test_anothers_password(case: Case, start: Callable[[str], stack.Process], database: stack.TestDatabase) -> None:
    function = start(with_password(database, case.role, "orderflow_another_password"))
    told = f'as {case.role}: password authentication failed for user "{case.role}" (28P01)'

    assert httpx.get(f"{function.url}/health", timeout=30).status_code == 200
    ready = httpx.get(f"{function.url}/ready", timeout=30)
    status, code, detail = refusal(case, function)

    assert (503, "credentials", True) == (ready.status_code, ready.json()["code"], told in ready.json()["detail"])
    assert (503, "no_store" if case.function == "dlq_router" else "credentials", True) == (status, code, told in detail), detail
    (line,) = {(line["role"], line["code"], told in line["reason"]) for line in logged(function)}
    assert (case.role, "credentials", True) == line
    assert "another_password" not in function.text


def test_anothers_dsn(case: Case, start: Callable[[str], stack.Process], database: stack.TestDatabase) -> None:
    another = "orderflow_notification" if case.role == "orderflow_relay" or case.function == "dlq_router" else "orderflow_relay"
    function = start(database.dsn(another))

    status, code, detail = refusal(case, function)

    told = f"the database is not set up for {another}: permission denied for table "
    assert (503, "no_store" if case.function == "dlq_router" else "permission", True) == (status, code, told in detail), detail
    assert (another, True) == (logged(function)[0]["role"], logged(function)[0]["reason"].startswith("permission denied for table "))


def test_a_grant_that_is_missing(case: Case, start: Callable[[str], stack.Process], database: stack.TestDatabase) -> None:
    database.run(f"REVOKE INSERT ON {case.table} FROM {case.role}")
    function = start(database.dsn(case.role))

    status, code, detail = refusal(case, function)

    told = f"the database is not set up for {case.role}: permission denied for table {case.table} (42501)"
    assert (503, "no_store" if case.function == "dlq_router" else "permission", True) == (status, code, told in detail), detail
    assert {"role": case.role, "sqlstate": "42501", "reason": f"permission denied for table {case.table} (42501)"}.items() <= logged(
        function
    )[0].items()


@pytest.mark.parametrize(
    ("role", "password", "database_name", "code", "reason"),
    [
        ("nobody", "x", None, "credentials", 'password authentication failed for user "nobody"'),
        ("orderflow_order", "orderflow_order_password", "no_such_database", "schema", 'database "no_such_database" does not exist'),
    ],
)
def test_a_role_or_database_that_is_not_there(
    start_function: conftest.StartFunction,
    database: stack.TestDatabase,
    role: str,
    password: str,
    database_name: str | None,
    code: str,
    reason: str,
) -> None:
    dsn = f"postgresql://{role}:{password}@127.0.0.1:{database.port}/{database_name or database.name}"
    function = start_function("order_on_assembled", {"ORDER_POSTGRES_DSN": dsn})

    answer = httpx.post(function.url, timeout=30, **controls.binary(controls.assembled()))

    assert (503, code, True) == (answer.status_code, answer.json()["code"], reason in answer.json()["detail"])
    assert (role, code) == (logged(function)[0]["role"], logged(function)[0]["code"])


def test_it_works_without_a_restart_once_the_password_is_right(
    start_function: conftest.StartFunction, private_postgres: Callable[..., stack.PostgresServer]
) -> None:
    server = private_postgres()
    database = server.new_database()
    function = start_function("order_on_assembled", {"ORDER_POSTGRES_DSN": with_password(database, "orderflow_order", "new")})
    assert httpx.get(f"{function.url}/ready", timeout=30).status_code == 503

    server.administer("ALTER ROLE orderflow_order PASSWORD 'new'")

    stack.eventually(lambda: httpx.get(f"{function.url}/ready", timeout=30).status_code == 200, "the function to be let in")
    assert httpx.post(function.url, timeout=30, **controls.binary(controls.assembled())).json() == {"outcome": "done"}


def test_a_relay_with_anothers_password(database: stack.TestDatabase, start_process: conftest.StartProcess) -> None:
    (port,) = child.free_ports(1)
    env = {"RELAY_POSTGRES_DSN": with_password(database, "orderflow_relay", "x"), "KAFKA_BROKERS": NOWHERE, "LOG_FORMAT": "json"}
    command = [sys.executable, "-m", "connectors.outbox_relay", "--control-port", str(port)]
    relay = start_process(command, env, f"http://127.0.0.1:{port}")
    relay.wait_ready()

    (line, *_) = stack.eventually(lambda: logged(relay), "its error")
    stack.eventually(lambda: httpx.get(f"{relay.url}/status", timeout=30).json()["state"] == "database_away", "its state")

    assert ("orderflow_relay", "credentials") == (line["role"], line["code"])
    assert 'as orderflow_relay: password authentication failed for user "orderflow_relay" (28P01)' in line["reason"]
    assert httpx.get(f"{relay.url}/ready", timeout=30).status_code == 503
