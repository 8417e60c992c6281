"""Terraform with its providers, against a broker and a database server: what it makes, takes over, and refuses."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from confluent_kafka.admin import AclBindingFilter, AclOperation, AclPermissionType, AdminClient, ResourcePatternType, ResourceType

from ops import home, migrations, roles, topics_admin
from shared import config, database, errors, topics
from tests import stack
from tests.deploy import terraforming
from tests.deploy.terraforming import Place

MAKE = shutil.which("make") or "make"
REFUSED = "Instance cannot be destroyed"
PAYMENT = 'module.topics.kafka_topic.all["order.payment.completed"]'
PLAYGROUND = 'module.topics.kafka_topic.all["test-topic"]'


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with the providers."""
    made = terraforming.place(tmp_path_factory.mktemp("terraform") / "place")
    if shutil.which("terraform") is None:
        pytest.skip("!!! terraform is not installed: nothing that it does to a server was tested !!!")
    if made.run("init", "-input=false").returncode:
        pytest.skip("!!! Terraform's providers cannot be had (TF_CLI_CONFIG_FILE names a mirror): nothing that it does was tested !!!")
    return made


@pytest.fixture(scope="module")
def servers(initialised: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[stack.KafkaServer, stack.PostgresServer]]:
    """A broker and a database server with nothing of ours but the empty database and its owner."""
    with (
        stack.running(stack.KafkaServer, tmp_path_factory.mktemp("kafka")) as kafka,
        stack.running(stack.PostgresServer, tmp_path_factory.mktemp("postgres")) as server,
    ):
        yield kafka, server


@pytest.fixture(scope="module")
def applied(initialised: Place, servers: tuple[stack.KafkaServer, stack.PostgresServer], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place that was applied to `servers` once. A test that plans something else takes a copy."""
    made = initialised.copy(tmp_path_factory.mktemp("applied") / "place")
    made.variables = terraforming.local(*servers)
    made.apply()
    return made


@pytest.fixture
def changed(applied: Place, tmp_path: Path) -> Place:
    """A copy of `applied`, to change."""
    return applied.copy(tmp_path / "place")


def test_a_plan_from_nothing_asks_no_server(initialised: Place, tmp_path: Path) -> None:
    place = initialised.copy(tmp_path / "place")
    place.variables = terraforming.local()

    plan = place.plan()

    assert {"create"} == {action for actions in plan.values() for action in actions}
    assert {f'module.topics.kafka_topic.all["{name}"]' for name in terraforming.topic_names()} <= plan.keys()
    assert {f'module.postgres.postgresql_role.all["{role.name}"]' for role in roles.read()} <= plan.keys()


def test_what_was_applied_is_there_and_nothing_is_left_to_do(
    applied: Place, servers: tuple[stack.KafkaServer, stack.PostgresServer]
) -> None:
    there = _admin(servers[0]).partitions()

    assert {topic.name: (topic.partitions, 1) for topic in topics.read().all()} == there
    assert {} == applied.plan()


def test_L17_a_topic_by_another_name_is_refused_by_the_plan(
    changed: Place, servers: tuple[stack.KafkaServer, stack.PostgresServer]
) -> None:
    before = _admin(servers[0]).topic_ids(terraforming.topic_names())
    changed.edit(lambda text: text.replace("- name: order.payment.completed\n", "- name: order.paid\n"))

    refusal = changed.refusal()

    assert (True, True) == (REFUSED in refusal, PAYMENT in refusal)
    assert before == _admin(servers[0]).topic_ids(terraforming.topic_names())


def test_L17_a_name_from_the_environment_replaces_no_topic_either(changed: Place) -> None:
    changed.variables["kafka_names"] = {"KAFKA_ORDER_PAYMENT_COMPLETED_TOPIC": "order.paid"}

    refusal = changed.refusal()

    assert (True, True) == (REFUSED in refusal, PAYMENT in refusal)


def test_L17_a_topic_whose_row_is_gone_is_refused_by_the_plan(changed: Place) -> None:
    changed.edit(lambda text: re.sub(r"  - name: test-topic.*?(?=\ndead_letter_topics)", "", text, flags=re.DOTALL))

    refusal = changed.refusal()

    assert (True, True) == (REFUSED in refusal, PLAYGROUND in refusal)


def test_fewer_partitions_are_refused_by_the_plan(changed: Place) -> None:
    changed.edit(lambda text: text.replace("  partitions: 8 ", "  partitions: 4 "))

    refusal = changed.refusal()

    assert (True, True) == (REFUSED in refusal, PAYMENT in refusal)


def test_everything_at_once_is_not_destroyed(changed: Place) -> None:
    assert REFUSED in changed.refusal("-destroy")


def test_the_variables_of_another_environment_are_refused(changed: Place) -> None:
    changed.variables["environment"] = "prod"

    assert "terraform_data.environment has lifecycle.prevent_destroy" in changed.refusal()


def test_more_partitions_and_other_settings_are_changed_in_place(
    initialised: Place, private_kafka: Callable[..., stack.KafkaServer], tmp_path: Path
) -> None:
    kafka = private_kafka()
    place = initialised.copy(tmp_path / "place")
    place.only = [PAYMENT]
    place.variables = terraforming.local(kafka)
    place.apply()
    before = _admin(kafka).topic_ids(["order.payment.completed"])
    place.edit(
        lambda text: text.replace("  partitions: 8 ", "  partitions: 12 ").replace("retention.ms: 604800000 ", "retention.ms: 604800001 ")
    )

    assert {PAYMENT: ["update"]} == place.plan()
    place.apply()

    assert (12, 1) == _admin(kafka).partitions()["order.payment.completed"]
    assert "604800001" == _admin(kafka).describe("order.payment.completed").config["retention.ms"]
    assert before == _admin(kafka).topic_ids(["order.payment.completed"])
    assert {} == place.plan()


def test_topics_that_the_broker_forgot_are_made_again(
    initialised: Place, private_kafka: Callable[..., stack.KafkaServer], tmp_path: Path
) -> None:
    place = initialised.copy(tmp_path / "place")
    place.only = [PAYMENT]
    place.variables = terraforming.local(private_kafka())
    place.apply()
    fresh = private_kafka()
    place.variables = terraforming.local(fresh)

    place.apply()

    assert {"order.payment.completed": (8, 1)} == _admin(fresh).partitions()


def test_its_roles_may_log_in_and_make_nothing_and_the_migrations_grant_to_them(
    initialised: Place, private_postgres: Callable[..., stack.PostgresServer], tmp_path: Path
) -> None:
    server = private_postgres()
    place = initialised.copy(tmp_path / "place")
    place.only = ["module.postgres"]
    place.variables = terraforming.local(server=server)
    place.apply()
    dsns: dict[str, str] = place.output("dsns")

    assert {f"{role.name.replace('_', '-')}-dsn" for role in roles.read()} == dsns.keys()
    for dsn in dsns.values():
        assert ["permission denied", "permission denied"] == [
            _complaint(dsn, sql) for sql in ("CREATE TABLE t ()", "CREATE TEMP TABLE t ()")
        ]

    migrations.upgrade(f"postgresql://order_user:order_password@127.0.0.1:{server.port}/orders")

    assert [[0]] == _run(dsns["orderflow-orders-dsn"], "SELECT count(*) FROM orders")
    assert "permission denied" == _complaint(dsns["orderflow-orders-dsn"], "DELETE FROM orders")
    assert {} == place.plan()


def test_make_terraform_apply_takes_over_what_the_local_servers_have(
    initialised: Place,
    private_kafka: Callable[..., stack.KafkaServer],
    private_postgres: Callable[..., stack.PostgresServer],
    tmp_path: Path,
) -> None:
    kafka, server = private_kafka(), private_postgres()
    owner = f"postgresql://order_user:order_password@127.0.0.1:{server.port}/orders"
    migrations.upgrade(owner, create_roles=True)
    _admin(kafka).create(topics.read().all(), local=True)
    before = _admin(kafka).topic_ids(terraforming.topic_names())
    env = {"ORDERFLOW_HOME": str(tmp_path), "KAFKA_BROKERS": kafka.brokers, "ORDER_POSTGRES_DSN": owner}

    first = _make("terraform-apply", env)
    again = _make("terraform-apply", env)

    assert re.search(r"Resources: 12 imported, \d+ added, 6 changed, 0 destroyed", first), first
    assert "Resources: 0 added, 0 changed, 0 destroyed" in again
    assert before == _admin(kafka).topic_ids(terraforming.topic_names())
    assert {0o600} == {file.stat().st_mode & 0o777 for file in (tmp_path / "terraform").iterdir() if file.is_file()}
    migrations.upgrade(owner, create_roles=True)  # as `orderflow up` does
    assert "unchanged" == _admin(kafka).create(topics.read().all(), local=True)[0].action


def test_an_administrator_who_is_no_superuser_makes_the_whole_database(
    initialised: Place, private_postgres: Callable[..., stack.PostgresServer], tmp_path: Path
) -> None:
    server = private_postgres()
    server.administer("CREATE ROLE administrator LOGIN CREATEDB CREATEROLE PASSWORD 'secret'")
    place = initialised.copy(tmp_path / "place")
    place.only = ["module.postgres"]
    place.variables = terraforming.local(postgres_password="secret", laptop_passwords=False) | {
        "postgres": {
            "host": "127.0.0.1", "port": server.port, "username": "administrator", "superuser": False, "sslmode": "disable",
            "database": "shop", "owner": "shop_owner",
        }
    }  # fmt: skip

    shown = place.apply()
    dsns: dict[str, str] = place.output("dsns")
    migrations.upgrade(dsns["orderflow-owner-dsn"])

    assert [[0]] == _run(dsns["orderflow-orders-dsn"], "SELECT count(*) FROM orders")
    assert "permission denied" == _complaint(dsns["orderflow-orders-dsn"], "CREATE TABLE t ()")
    assert "permission denied" == _complaint(f"postgresql://order_user:order_password@127.0.0.1:{server.port}/shop", "SELECT 1")
    assert {} == place.plan()
    passwords = {httpx.URL(dsn).password for dsn in dsns.values()}
    assert (len(dsns), set()) == (len(passwords), {password for password in passwords if password in shown})
    assert "postgresql_database.this[0] has lifecycle.prevent_destroy" in place.refusal("-destroy")


def test_with_an_authorizer_each_user_and_its_rights_are_made(
    initialised: Place, private_kafka: Callable[..., stack.KafkaServer], tmp_path: Path
) -> None:
    kafka = private_kafka(
        {"authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users": "User:ANONYMOUS"}
    )
    wanted = terraforming.contract(tmp_path / "contract", 1)
    place = initialised.copy(tmp_path / "place")
    place.only = ["module.topics.kafka_acl.all", "module.topics.kafka_user_scram_credential.all"]
    passwords = {user: f"{user}-password" for user in wanted["users"]}
    place.variables = terraforming.local(kafka, kafka_acls=True, kafka_user_passwords=passwords)

    shown = place.apply()

    client = AdminClient(stack.CLIENT | {"bootstrap.servers": kafka.brokers})
    everything = AclBindingFilter(
        ResourceType.ANY,
        None,
        ResourcePatternType.ANY,
        None,
        None,
        AclOperation.ANY,
        AclPermissionType.ANY,  # type: ignore[arg-type]
    )
    found = client.describe_acls(everything).result(stack.PATIENCE_S)
    assert {
        (f"User:{acl['user']}", acl["operation"].upper(), acl["type"].upper(), acl["name"], acl["pattern"].upper())
        for acl in wanted["acls"]
    } == {(acl.principal, acl.operation.name, acl.restype.name, acl.name, acl.resource_pattern_type.name) for acl in found}
    assert set(passwords) == client.describe_user_scram_credentials().result(stack.PATIENCE_S).keys()
    assert [] == [password for password in passwords.values() if password in shown]
    assert {} == place.plan()
    assert "and no others" in _with(place, kafka_user_passwords={"somebody": "else"}).refusal()


def _admin(kafka: stack.KafkaServer) -> topics_admin.Admin:
    return topics_admin.Admin(config.Settings(kafka_brokers=kafka.brokers))


def _run(dsn: str, sql: str) -> list[list[object]]:
    server = database.Database(dsn.split("?", 1)[0], settings=config.Settings(), application="test")
    try:
        return server.transact(lambda tx: tx.run(sql))
    finally:
        server.close()


def _complaint(dsn: str, sql: str) -> str:
    try:
        _run(dsn, sql)
    except errors.OrderflowError as exc:
        found = re.search("permission denied", str(exc))
        return found[0] if found else str(exc)
    return "nothing"


def _make(target: str, env: Mapping[str, str]) -> str:
    done = subprocess.run(
        [MAKE, target, "YES=1", "ARGS=-no-color"], cwd=home.CHECKOUT, env=os.environ | dict(env), capture_output=True, text=True,
        check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def _with(place: Place, **variables: object) -> Place:
    place.variables |= variables
    return place
