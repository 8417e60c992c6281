"""What is deployed follows from topics.yaml, roles.yaml and the folders; what repeats for each function is made from it."""

import shutil
from pathlib import Path

import pytest

from ops import home, roles
from ops.deployments import functions, rendering
from ops.programs import Ports
from shared import errors

FILES = ("contracts/topics.yaml", "contracts/roles.yaml", "functions", "infra")
ROW = """    consumers:
      - group: audit-service
        setting: KAFKA_AUDIT_GROUP_ID
        source: audit
        function: audit
        inbox: audit_inbox_events
        dead_letter_topic: order.payment.completed.dlq
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of what functions are read from, with one consumer more, ahead of all others."""
    for name in FILES:
        source = home.CHECKOUT / name
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    topics = tmp_path / "contracts" / "topics.yaml"
    topics.write_text(topics.read_text(encoding="utf-8").replace("    consumers:\n", ROW, 1), encoding="utf-8")
    (tmp_path / "functions" / "audit").mkdir()
    (tmp_path / "functions" / "audit" / "main.py").write_text('"""It keeps a copy.\n\nOf all.\n"""\n', encoding="utf-8")
    return tmp_path


def test_the_functions_of_this_checkout_are_known_with_their_order_roles_and_ports() -> None:
    found = functions.functions()[:1] + functions.functions()[-1:]
    known = functions.here()

    assert ["orders", "dlq_router"] == [function.name for function in found]
    assert (True, False, True) == (known["orders"].public, known["orders"].token, known["dlq_router"].broker)
    assert ("ORDER_POSTGRES_DSN", "orderflow-orders-dsn") == (known["orders"].dsn_setting, known["orders"].dsn_secret)
    assert ("ORDER_POSTGRES_DSN", "orderflow-order-dsn") == (
        known["order_on_assembled"].dsn_setting,
        known["order_on_assembled"].dsn_secret,
    )
    assert (("TELEGRAM_BOT_TOKEN", "orderflow-telegram-token"),) == known["notify"].secrets
    assert ("notification-payment", "notification-assembly") == known["notify"].groups
    assert [8080, 8081, 8082, 8083, 8084] == sorted(
        known[name].port for name in ("orders", "assembly_on_payment", "order_on_assembled", "notify", "dlq_router")
    )


def test_a_row_and_a_folder_make_a_function_with_a_role_and_the_next_free_port(copied: Path) -> None:
    found = functions.functions(copied)
    made = found[1]

    assert ("audit", "It keeps a copy.", "orderflow_audit") == (made.name, made.summary, made.role)
    assert ("AUDIT_POSTGRES_DSN", "orderflow-audit-dsn") == (made.dsn_setting, made.dsn_secret)
    assert (("order.payment.completed",), ("audit-service",)) == (made.topics, made.groups)
    assert (False, True, False) == (made.public, made.token, made.broker)
    assert len(found) == len({function.port for function in found} - {*functions.CONNECTORS.values()})
    assert roles.Role("orderflow_audit", "audit", "audit") in roles.read(copied)


def test_the_files_of_this_checkout_are_what_their_templates_make() -> None:
    assert rendering.faults() == []


def test_a_file_that_is_stale_or_missing_is_found(copied: Path) -> None:
    for path in rendering.FILES:
        (copied / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(home.CHECKOUT / path, copied / path)
    (copied / "stack.yml").unlink()

    found = rendering.faults(copied)

    assert "stack.yml is missing; `orderflow contracts generate` renews it" in found
    assert "contracts/asyncapi.yaml is not what its template makes; `orderflow contracts generate` renews it" in found


def test_a_template_that_asks_for_what_is_not_there_is_named(copied: Path) -> None:
    (copied / "infra" / "templates" / "stack.yml.j2").write_text("{{ nothing }}", encoding="utf-8")

    assert ["infra/templates: 'nothing' is undefined"] == rendering.faults(copied)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("memories: {}\n", "memories: Extra inputs are not permitted"),
        ("port: 8081\n", "a port is given twice"),
        ("port: 8086\n", "a port is given twice"),
        ("memory: {request: much, limit: 1Gi}\n", "memory.request"),
        ("scale: [\n", "function.yaml"),
    ],
)
def test_a_wrong_function_yaml_is_named(copied: Path, text: str, told: str) -> None:
    (copied / "functions" / "audit" / "function.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(errors.ConfigError, match=told):
        functions.functions(copied)


def test_every_port_of_a_system_is_its_own() -> None:
    ports = Ports.near(20_000)

    assert len(ports.all()) == len(set(ports.all()))
    assert min(ports.all()) == 20_000 == ports.of("orders")
