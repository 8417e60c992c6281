"""infra/terraform, read and evaluated without a provider: what holds wherever the tests run."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest

from ops import declared, roles
from shared import topics
from tests.deploy import terraforming

ENVIRONMENTS = sorted((terraforming.FILES / "environments").glob("*.tfvars"))
CHECK = terraforming.FILES / "check.sh"

needs_terraform = pytest.mark.skipif(
    shutil.which("terraform") is None, reason="!!! terraform is not installed: how infra/terraform reads contracts/ was NOT tested !!!"
)


def test_nothing_deletes_a_topic_or_the_database() -> None:
    kept = {
        f"{kind}.{name}": body["lifecycle"][0]["prevent_destroy"]
        for kind, name, body in _blocks("resource")
        if kind in {"kafka_topic", "postgresql_database", "terraform_data"}
    }

    # A literal: Terraform takes no variable here, and no environment is let off.
    assert {"kafka_topic.all": True, "postgresql_database.this": True, "terraform_data.environment": True} == kept


def test_every_topic_of_the_contract_becomes_a_resource() -> None:
    (body,) = [body for kind, _, body in _blocks("resource") if kind == "kafka_topic"]
    (topics_module,) = [body for name, _, body in _blocks("module") if name == "topics"]
    (contract,) = [body for name, _, body in _blocks("module") if name == "contract"]

    assert "${var.topics}" == body["for_each"]
    assert "${module.contract.topics}" == topics_module["topics"]
    assert "${path.root}/../../contracts" == contract["folder"]


def test_no_password_leaves_in_an_output_that_is_shown() -> None:
    shown = {name: body["value"] for name, _, body in _blocks("output") if not body.get("sensitive")}

    assert {} == {name: value for name, value in shown.items() if re.search("password|dsn|random_", value)}
    assert {"topics", "roles", "users", "acls"} == shown.keys()


def test_every_variable_that_holds_a_password_is_sensitive() -> None:
    named = {name: body for name, _, body in _blocks("variable") if "password" in name and body["type"] != "bool"}

    assert named
    assert dict.fromkeys(named, True) == {name: body.get("sensitive") for name, body in named.items()}


@pytest.mark.parametrize("file", ENVIRONMENTS, ids=lambda file: file.stem)
def test_a_variable_file_sets_what_is_declared_and_nothing_else(file: Path) -> None:
    declared = {name: body for name, _, body in _blocks("variable", terraforming.FILES)}
    given = _read(file)
    secret = {name for name, body in declared.items() if body.get("sensitive")}

    assert set() == given.keys() - declared.keys()
    assert set() == {name for name, body in declared.items() if "default" not in body} - secret - given.keys()
    assert file.stem == given["environment"]


def test_no_password_lies_in_the_variables_of_production() -> None:
    assert set() == {name for name in _read(terraforming.FILES / "environments" / "prod.tfvars") if "password" in name}


def test_the_providers_are_pinned() -> None:
    wanted = {
        name: (of["source"], of["version"])
        for _, _, block in _blocks("terraform")
        for name, of in block["required_providers"][0].items()
        if not name.startswith("__")
    }

    assert {
        "kafka": ("Mongey/kafka", "~> 0.13"), "postgresql": ("cyrilgdn/postgresql", "~> 1.26"), "random": ("hashicorp/random", "~> 3.6"),
    } == wanted  # fmt: skip


@needs_terraform
@pytest.mark.parametrize("brokers", [1, 3])
def test_terraform_reads_the_topics_as_every_other_part_does(tmp_path: Path, brokers: int) -> None:
    read = terraforming.contract(tmp_path / "place", brokers)["topics"]

    wanted = [declared.fitted(topic, brokers, local=True) for topic in topics.read().all()]
    assert {
        topic.name: {
            "name": topic.name,
            "partitions": topic.partitions,
            "replication_factor": topic.replication_factor,
            "config": topic.config | {"min.insync.replicas": str(topic.min_insync_replicas)},
        }
        for topic in wanted
    } == read


@needs_terraform
def test_terraform_makes_the_roles_that_the_migrations_grant_to(tmp_path: Path) -> None:
    assert sorted(role.name for role in roles.read()) == sorted(terraforming.contract(tmp_path / "place", 1)["roles"])


@needs_terraform
def test_a_further_consumer_needs_no_line_of_terraform(tmp_path: Path) -> None:
    row = (
        "    consumers:\n      - group: fraud-check\n        setting: KAFKA_FRAUD_GROUP_ID\n        source: fraud-check\n"
        "        function: fraud_check\n        inbox: fraud_inbox_events\n        dead_letter_topic: order.notification.dlq\n"
    )

    read = terraforming.contract(tmp_path / "place", 1, change=lambda text: text.replace("    consumers:\n", row, 1))

    assert "orderflow_fraud" in read["roles"]
    assert {"user": "orderflow-source", "operation": "Read", "type": "Group", "name": "fraud-check", "pattern": "Literal"} in read["acls"]


@needs_terraform
def test_each_that_speaks_to_kafka_may_do_its_own_work_and_no_more(tmp_path: Path) -> None:
    catalogue = topics.read()
    groups = {consumer.group for _, consumer in catalogue.consumers()}
    read = {topic.name for topic, _ in catalogue.consumers()}
    events = {topic.name for topic in catalogue.topics if topic.event}
    letters = {topic.name for topic in catalogue.dead_letter_topics}

    may: dict[tuple[str, str, str, str], set[str]] = {}
    for acl in terraforming.contract(tmp_path / "place", 3)["acls"]:
        may.setdefault((acl["user"], acl["operation"], acl["type"], acl["pattern"]), set()).add(acl["name"])

    assert {
        ("orderflow-source", "Read", "Topic", "Literal"): read,
        ("orderflow-source", "Read", "Group", "Literal"): groups,
        ("orderflow-relay", "Write", "Topic", "Literal"): events | letters,
        ("orderflow-dlq-router", "Write", "Topic", "Literal"): letters,
        ("orderflow-command", "Read", "Topic", "Literal"): events | letters,
        ("orderflow-command", "Read", "Group", "Prefixed"): {"orderflow-"},
        ("orderflow-command", "Describe", "Group", "Literal"): groups,
    } == may


@needs_terraform
def test_names_that_the_environment_gives_hold_for_topics_groups_and_rights(tmp_path: Path) -> None:
    given = {"KAFKA_ORDER_PAYMENT_COMPLETED_TOPIC": "eu.paid", "KAFKA_ASSEMBLY_CONSUMER_GROUP_ID": "eu-assembly"}

    read = terraforming.contract(tmp_path / "place", 1, names=given)

    assert "eu.paid" == read["topics"]["order.payment.completed"]["name"]
    assert {"eu.paid", "eu-assembly"} <= {acl["name"] for acl in read["acls"] if acl["user"] == "orderflow-source"}
    assert {"order.payment.completed", "assembly-service"}.isdisjoint(acl["name"] for acl in read["acls"])


def test_the_check_is_loud_where_there_is_no_terraform(tmp_path: Path) -> None:
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")

    done = subprocess.run([CHECK], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60)

    assert (0, True) == (done.returncode, "!!! terraform-check: terraform is not installed" in done.stderr)


@needs_terraform
def test_the_check_is_loud_where_there_are_no_providers(tmp_path: Path) -> None:
    config = tmp_path / "terraformrc"
    config.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{tmp_path}"\n  }}\n}}\n', encoding="utf-8")

    done = subprocess.run(
        [CHECK], env=os.environ | {"TF_CLI_CONFIG_FILE": str(config)}, capture_output=True, text=True, check=False, timeout=60
    )

    assert (0, True) == (done.returncode, "!!! terraform-check: the providers cannot be had" in done.stderr)


def _blocks(kind: str, folder: Path | None = None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every block of `kind`, in `folder` or in all of them, with its one or two labels."""
    files = sorted(folder.glob("*.tf") if folder else terraforming.FILES.rglob("*.tf"))
    for file in files:
        if ".terraform" in file.parts:
            continue
        for block in _read(file).get(kind, []):
            if kind == "terraform":
                yield "", "", block
                continue
            ((first, body),) = _own(block)
            if kind == "resource":
                ((second, body),) = _own(body)
                yield first, second, body
            else:
                yield first, "", body


def _own(block: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in block.items() if not name.startswith("__")]


def _read(file: Path) -> dict[str, Any]:
    """A file without the parser's own remarks and the quotes that it keeps."""
    found = _bare(hcl2.loads(file.read_text(encoding="utf-8")))
    assert isinstance(found, dict)
    return found


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {_bare(key): _bare(item) for key, item in value.items() if not str(key).startswith("__")}
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return value[1:-1] if isinstance(value, str) and value[:1] == value[-1:] == '"' else value
