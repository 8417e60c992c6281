"""The source and the relay beside OpenFaaS: Deployments, Jobs, policies and the Compose file of infra/openfaas."""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops import home
from shared.config import Settings
from tests.deploy import kubernetes, stack_file
from tests.deploy.kubernetes import Document, Pods
from tests.deploy.test_knative import SETTING
from tests.unit import test_config

OPENFAAS = home.CHECKOUT / "infra" / "openfaas"
MANIFESTS = home.CHECKOUT / "infra" / "knative" / "sources.yaml"
OVERLAYS = ("dev", "prod")
JOBS = ("migrate", "topics")
PROMETHEUS, GATEWAY = {"app": "prometheus"}, {"app": "gateway"}
IMAGES = {
    "orderflow-source": "connectors",
    "orderflow-relay": "connectors",
    "orderflow-migrate": "command",
    "orderflow-topics": "command",
}

overlays = pytest.mark.parametrize("overlay", OVERLAYS)


@cache
def made(folder: str) -> list[Document]:
    return kubernetes.rendered(OPENFAAS / folder)


def processes(overlay: str) -> dict[str, Pods]:
    """The source and the relay of an overlay."""
    return {of.name: of for of in kubernetes.pods(made(f"overlays/{overlay}"))}


def policies(overlay: str, namespace: str) -> list[Document]:
    return [one for one in _of_kind(overlay, "NetworkPolicy") if one["metadata"]["namespace"] == namespace]


def jobs() -> dict[str, Pods]:
    return {of.name: of for job in JOBS for of in kubernetes.pods(made(f"jobs/{job}"))}


@pytest.mark.parametrize("folder", ["", *(f"overlays/{name}" for name in OVERLAYS), *(f"jobs/{name}" for name in JOBS)])
def test_every_document_is_what_kubernetes_takes(folder: str) -> None:
    """Each folder renders, its documents have known fields of the right types, and no pod may do what it need not."""
    assert made(folder)
    assert kubernetes.faults(made(folder)) == []
    assert {of.name: told for of in kubernetes.pods(made(folder)) if (told := kubernetes.careless(of))} == {}


def test_the_folder_itself_is_the_environment_dev() -> None:
    assert made("") == made("overlays/dev")


@overlays
def test_every_document_says_its_namespace(overlay: str) -> None:
    """Policies for functions lie where functions run, all else beside the gateway; so `kubectl apply -k` needs no --namespace."""
    found = {one["metadata"].get("namespace") for one in made(f"overlays/{overlay}")}
    assert found == {"openfaas", "openfaas-fn"}
    assert {one["metadata"]["namespace"] for job in JOBS for one in made(f"jobs/{job}")} == {"openfaas"}


@overlays
def test_the_source_reads_the_manifests_word_for_word_and_finds_every_function(overlay: str, tmp_path: Path) -> None:
    """What its ConfigMap holds is infra/knative/sources.yaml; the process takes it, and each name it calls is a function of stack.yml."""
    source = processes(overlay)["orderflow-source"]
    name = next(volume["configMap"]["name"] for volume in source.spec["volumes"] if "configMap" in volume)
    (held,) = [one["data"]["sources.yaml"] for one in made(f"overlays/{overlay}") if one["metadata"]["name"] == name]
    assert kubernetes.documents(held) == kubernetes.documents(MANIFESTS.read_text(encoding="utf-8"))
    (tmp_path / "sources.yaml").write_text(held, encoding="utf-8")
    given = kubernetes.environment(source, made(f"overlays/{overlay}"))
    container = source.spec["containers"][0]
    arguments = [part.replace("/etc/orderflow", str(tmp_path)) for part in [*container["command"], *container["args"], "--check"]]
    done = subprocess.run(
        [sys.executable, *arguments[1:]],
        check=False, capture_output=True, text=True, cwd=home.CHECKOUT, env=stack_file.placed(given, tmp_path / "secrets"),
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("ERROR")) == (0, 0), done.stderr
    called = {ref for one in kubernetes.documents(held) for ref in _refs(one["spec"])}
    assert called <= stack_file.read().functions.keys()
    assert given["SINK_URL_TEMPLATE"] == "http://gateway.openfaas:8080/function/{name}"


@overlays
def test_every_process_takes_its_settings(overlay: str, tmp_path: Path) -> None:
    """Each variable is a setting, none is at fault; the source knows no database and the relay no token; in prod both log in to Kafka."""
    for name, of in processes(overlay).items():
        given = kubernetes.environment(of, made(f"overlays/{overlay}"))
        plain = {key.removesuffix("_FILE") for key in given}
        assert {key for key in plain if key.lower() not in Settings.model_fields and not SETTING.fullmatch(key)} == set()
        settings = test_config.load(**stack_file.placed(given, tmp_path))
        assert list(settings.postgres_dsns) == (["relay"] if name == "orderflow-relay" else [])
        assert bool(settings.delivery_token) == (name != "orderflow-relay")
        assert ("sasl.password" in settings.kafka_client()) == (overlay == "prod")
        assert settings.shutdown_timeout + 10 < of.spec["terminationGracePeriodSeconds"]


@overlays
def test_every_secret_is_mounted_where_its_setting_looks(overlay: str) -> None:
    """Of each process, Job or Deployment, the files that it reads are the secrets that it mounts; the page tells to make them all."""
    told = re.search(r"for name in ([a-z\\\s-]+?); do\s+kubectl --namespace openfaas create secret", _page())
    assert told is not None
    for of in (*processes(overlay).values(), *jobs().values()):
        read = set(stack_file.named_secrets(kubernetes.environment(of, made(f"overlays/{overlay}"))))
        mounted = {name for kind, name in kubernetes.needed(of) if kind == "Secret"}
        assert read == mounted, of.name
        assert mounted <= set(told[1].split()), of.name
    config_maps = {one["metadata"]["name"] for one in made(f"overlays/{overlay}") if one["kind"] == "ConfigMap"}
    assert {name for of in processes(overlay).values() for kind, name in kubernetes.needed(of) if kind == "ConfigMap"} == config_maps


@overlays
def test_functions_and_processes_speak_to_the_same_brokers(overlay: str) -> None:
    """The overlay and the environment file of dlq_router, which are two files, name the same addresses in the same way."""
    function = stack_file.read(ORDERFLOW_ENV=overlay).functions["dlq-router"].given()
    for of in processes(overlay).values():
        given = kubernetes.environment(of, made(f"overlays/{overlay}"))
        for name in ("KAFKA_BROKERS", "KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_MECHANISM"):
            assert given.get(name) == function.get(name)


@overlays
def test_policies_let_pass_what_is_needed_and_no_more(overlay: str) -> None:
    """The source: Kafka and the gateway. The relay: Kafka and PostgreSQL. Both are looked into by Prometheus alone, at their own port."""
    found = policies(overlay, "openfaas")
    for name, out, port in (("orderflow-source", {53, 8080, 9092, 9093}, 8085), ("orderflow-relay", {53, 5432, 9092, 9093}, 8086)):
        of = processes(overlay)[name]
        assert _ports(kubernetes.rules(found, of.labels, "Egress")) == out
        inward = kubernetes.rules(found, of.labels, "Ingress") or []
        assert [(rule["from"], _ports([rule])) for rule in inward] == [([{"podSelector": {"matchLabels": PROMETHEUS}}], {port})]
        brokers = kubernetes.environment(of, made(f"overlays/{overlay}"))["KAFKA_BROKERS"]
        assert {int(address.rpartition(":")[2]) for address in brokers.split(",")} <= out
    (gateway,) = [
        rule for rule in kubernetes.rules(found, processes(overlay)["orderflow-source"].labels, "Egress") or [] if _ports([rule]) == {8080}
    ]
    assert gateway["to"] == [{"podSelector": {"matchLabels": GATEWAY}}]


@overlays
def test_a_function_is_reached_by_the_gateway_and_reaches_what_it_uses(overlay: str) -> None:
    """In: from the gateway's pod and Prometheus. Out: names and PostgreSQL; Kafka for dlq_router, HTTPS for notify."""
    found = policies(overlay, "openfaas-fn")
    for name, function in stack_file.read().functions.items():
        labels = function.labels | {"faas_function": name}
        inward = kubernetes.rules(found, labels, "Ingress") or []
        assert [_ports([rule]) for rule in inward] == [{8080}]
        (peer,) = [peer for rule in inward for peer in rule["from"]]
        assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "openfaas"}
        assert all(kubernetes.selects(peer["podSelector"], labels) for labels in (GATEWAY, PROMETHEUS))
        assert not kubernetes.selects(peer["podSelector"], {"app": "nats"})
        more = {"dlq-router": {9092, 9093}, "notify": {443}}.get(name, set())
        assert _ports(kubernetes.rules(found, labels, "Egress")) == {53, 5432} | more


@overlays
def test_probes_and_prometheus_ask_the_control_port(overlay: str) -> None:
    """The port that the process is told is the one that is probed, scraped and declared; /health, for a restart brings back no Kafka."""
    for of in processes(overlay).values():
        container = of.spec["containers"][0]
        port = int(container["args"][container["args"].index("--control-port") + 1])
        assert container["ports"] == [{"name": "control", "containerPort": port}]
        probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
        assert probes == [{"path": "/health", "port": "control"}] * 3
        (document,) = [one for one in made(f"overlays/{overlay}") if one["kind"] == "Deployment" and one["metadata"]["name"] == of.name]
        assert document["spec"]["template"]["metadata"]["annotations"] == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(port),
        }


def test_replicas_and_how_they_are_replaced() -> None:
    """One source goes before the next comes; of two, one at a time and never a third. A drain takes one, and is never held up."""
    found = {overlay: {one["metadata"]["name"]: one["spec"] for one in _of_kind(overlay, "Deployment")} for overlay in OVERLAYS}
    assert (found["dev"]["orderflow-source"]["replicas"], found["dev"]["orderflow-source"]["strategy"]) == (1, {"type": "Recreate"})
    assert found["prod"]["orderflow-source"]["replicas"] == 2
    assert found["prod"]["orderflow-source"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert found["prod"]["orderflow-relay"]["replicas"] == 2
    for overlay in OVERLAYS:
        budgets = {one["metadata"]["name"]: one["spec"] for one in _of_kind(overlay, "PodDisruptionBudget")}
        assert {name: spec["maxUnavailable"] for name, spec in budgets.items()} == dict.fromkeys(found[overlay], 1)


def test_images_are_ours_by_their_names() -> None:
    of_all = [of for overlay in OVERLAYS for of in processes(overlay).values()] + list(jobs().values())
    found = {(of.name, of.spec["containers"][0]["image"].rpartition(":")[0]) for of in of_all}
    assert found == {(name, f"docker.io/orderflow/{image}") for name, image in IMAGES.items()}


@pytest.fixture
def services() -> dict[str, Any]:
    """The services of the Compose file, its variables at their defaults."""
    text = (OPENFAAS / "docker-compose.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))["services"]
    return found


def test_compose_runs_the_same_two_processes(services: dict[str, Any], tmp_path: Path) -> None:
    """The same commands as in Kubernetes, settings without a fault, the manifests and the secrets as files, and ports on loopback only."""
    pods = {name.removeprefix("orderflow-"): of.spec["containers"][0] for name, of in processes("dev").items()}
    assert services.keys() == pods.keys()
    for name, service in services.items():
        assert service["command"] == [*pods[name]["command"], *pods[name]["args"]]
        given = {key: value.replace("/run/secrets", str(tmp_path)) for key, value in service["environment"].items() if value}
        for secret in service["secrets"]:
            text = "t" * 32 if secret.endswith("-token") else "postgresql://user:password@database:5432/orders"
            (tmp_path / secret).write_text(text)
        settings = test_config.load(**given)
        assert settings.kafka_brokers == "host.docker.internal:19092"
        assert list(settings.postgres_dsns) == (["relay"] if name == "relay" else [])
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    (volume,) = services["source"]["volumes"]
    assert (OPENFAAS / volume.split(":")[0]).resolve() == MANIFESTS


def test_composes_own_parser_takes_the_file() -> None:
    """docker-compose 1.29, the strictest: it refuses what it does not know."""
    if shutil.which("docker-compose") is None:
        pytest.skip("DOCKER-COMPOSE IS MISSING: infra/openfaas/docker-compose.yml was read, but not by Compose itself")
    done = subprocess.run(
        ["docker-compose", "-f", str(OPENFAAS / "docker-compose.yml"), "config", "--quiet"],  # noqa: S607
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def _of_kind(overlay: str, kind: str) -> list[Document]:
    return [one for one in made(f"overlays/{overlay}") if one["kind"] == kind]


def _ports(rules: list[Document] | None) -> set[int]:
    return {port["port"] for rule in rules or [] for port in rule["ports"]}


def _refs(spec: Document) -> set[str]:
    return {spec["sink"]["ref"]["name"], spec["delivery"]["deadLetterSink"]["ref"]["name"]}


def _page() -> str:
    return (home.CHECKOUT / "docs" / "openfaas.md").read_text(encoding="utf-8")
