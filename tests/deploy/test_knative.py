"""infra/knative as kubectl renders it: what Kubernetes and Knative take, and what our functions need."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import trustme

from ops import home
from ops.deployments import functions
from shared import topics
from shared.config import Settings
from tests.deploy import kubernetes
from tests.deploy.kubernetes import Document, Pods

KNATIVE = home.CHECKOUT / "infra" / "knative"
OVERLAYS = ("dev", "prod", "lossless")
SECRETS = "/run/secrets"
MANIFESTS = "/etc/orderflow"
OTHERS = {"kafka", "postgres"}  # dev's own broker and database
# As shared/config.py reads them; a name is not a field of its own where it holds a consumer, a topic or a librdkafka property.
SETTING = re.compile(
    r"[A-Z0-9_]+_POSTGRES_DSN|KAFKA_(SECURITY|SASL|SSL)_[A-Z_]+|KAFKA_[A-Z_]+_(TOPIC|GROUP_ID)|[A-Z]+_KAFKA_RETRY_[A-Z_]+|[A-Z]+_PARKING"
)
# Loads the settings of one environment after the other, and says what it found of Kafka and PostgreSQL.
LOAD = """
import json, os, sys
from shared import config
told = {}
for name, environment in json.loads(sys.argv[1]).items():
    os.environ.clear()
    os.environ.update(environment)
    settings = config.load()
    told[name] = settings.kafka_client().get("security.protocol"), list(settings.postgres_dsns)
print(json.dumps(told))
"""

overlays = pytest.mark.parametrize("overlay", OVERLAYS)


@cache
def _made(folder: str) -> list[Document]:
    return kubernetes.rendered(KNATIVE / folder)


def made(overlay: str) -> list[Document]:
    return _made(f"overlays/{overlay}")


def of_kind(overlay: str, kind: str, *, group: str = "") -> dict[str, Document]:
    return {one["metadata"]["name"]: one for one in made(overlay) if one["kind"] == kind and one["apiVersion"].startswith(group)}


def ours(overlay: str) -> Iterator[Pods]:
    return (of for of in kubernetes.pods(made(overlay)) if of.name not in OTHERS)


@pytest.mark.parametrize("folder", [f"overlays/{name}" for name in OVERLAYS] + ["gateway"])
def test_every_document_is_what_kubernetes_and_knative_take(folder: str) -> None:
    """Each overlay renders, and each of its documents has known fields of the right types, and one name."""
    assert _made(folder)
    assert kubernetes.faults(_made(folder)) == []


@overlays
def test_no_pod_may_do_what_it_need_not(overlay: str) -> None:
    """Not root, a read-only root file system, no privileges to gain, no token of Kubernetes, memory within limits."""
    assert {of.name: told for of in kubernetes.pods(made(overlay)) if (told := kubernetes.careless(of))} == (
        {"kafka": ["kafka may write to its root file system"]} if overlay == "dev" else {}
    )


@overlays
def test_every_function_is_a_service_and_only_orders_is_reached_from_outside(overlay: str) -> None:
    """One Service a function, cluster-local but for those that people call."""
    services = of_kind(overlay, "Service", group="serving.knative.dev")
    local = {name: "networking.knative.dev/visibility" in one["metadata"]["labels"] for name, one in services.items()}
    assert local == {of.service: not of.public for of in functions.functions()}


@overlays
def test_every_consumer_has_a_source_a_service_its_dsn_and_a_policy(overlay: str) -> None:
    """A row of topics.yaml is a KafkaSource (or a manifest of our own source) that leads to a Service which can log in and be reached."""
    manifests = kubernetes.documents(_manifests(overlay)) if overlay == "lossless" else made(overlay)
    sources = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "KafkaSource"}
    pods = {of.name: of for of in ours(overlay)}
    known = {of.name: of for of in functions.functions()}
    wanted = {consumer.source: (topic, consumer) for topic, consumer in topics.read().consumers()}
    assert sources.keys() == wanted.keys()
    for name, (topic, consumer) in wanted.items():
        function = known[consumer.function]
        assert (sources[name]["topics"], sources[name]["consumerGroup"]) == ([topic.name], consumer.group)
        assert sources[name]["sink"]["ref"]["name"] == function.service
        assert sources[name]["delivery"]["deadLetterSink"]["ref"]["name"] == "dlq-router"
        given = kubernetes.environment(pods[function.service], made(overlay))
        assert given[f"{function.dsn_setting}_FILE"] == f"{SECRETS}/orderflow/{function.dsn_secret}"
        assert ("Secret", function.dsn_secret) in set(kubernetes.needed(pods[function.service]))
        assert kubernetes.rules(made(overlay), pods[function.service].labels, "Ingress") is not None


@overlays
def test_what_a_pod_needs_is_there_or_is_told_to_be_made(overlay: str) -> None:
    """Every ConfigMap and, in dev, every Secret is among the documents; the others' Secrets are a function's or are named in the docs."""
    there = {(one["kind"], one["metadata"]["name"]) for one in made(overlay)}
    needed = {reference for of in kubernetes.pods(made(overlay)) for reference in kubernetes.needed(of, optional=overlay != "dev")}
    needed |= {("Secret", name) for name in re.findall(r"'secretKeyRef': \{.*?'name': '([^']+)'", str(made(overlay)))}
    page = (home.CHECKOUT / "docs" / "knative.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(orderflow-[a-z-]+)`", page))
    told |= {secret for of in functions.functions() for secret in (of.dsn_secret, *(name for _, name in of.secrets))}
    missing = needed - there
    assert missing - {("Secret", name) for name in told} == set()
    assert missing == set() if overlay == "dev" else missing


@overlays
def test_every_variable_is_a_setting(overlay: str) -> None:
    """No pod of ours is given a variable that nothing reads."""
    unknown = set()
    for of in ours(overlay):
        for name in kubernetes.environment(of, made(overlay)):
            wanted = name.removesuffix("_FILE")
            if wanted.lower() not in Settings.model_fields and not SETTING.fullmatch(wanted):
                unknown.add((of.name, name))
    assert unknown == set()


@overlays
def test_every_process_takes_its_settings(overlay: str, tmp_path: Path) -> None:
    """With the environment and the files of its pod, each process finds no fault in its settings, and who uses Kafka logs in there."""
    _lay_out(overlay, tmp_path)
    pods = {of.name: of for of in ours(overlay)}
    given = {name: _placed(kubernetes.environment(of, made(overlay)), tmp_path) for name, of in pods.items()}
    told = json.loads(_run([sys.executable, "-c", LOAD, json.dumps(given)], {}))
    for name, (protocol, databases) in told.items():
        assert protocol == ("SASL_SSL" if "orderflow.dev/uses-kafka" in pods[name].labels and overlay != "dev" else None), name
        assert bool(databases) == ("orderflow.dev/uses-postgres" in pods[name].labels), name


def test_lossless_reads_the_same_manifests_with_our_own_source(tmp_path: Path) -> None:
    """No KafkaSource is left; our source accepts what it is given, word for word sources.yaml, and finds every function."""
    assert of_kind("lossless", "KafkaSource") == {}
    _lay_out("lossless", tmp_path)
    (source,) = [of for of in ours("lossless") if of.name == "kafka-source"]
    container = source.spec["containers"][0]
    command = [part.replace(MANIFESTS, f"{tmp_path}{MANIFESTS}") for part in [*container["command"], *container["args"]]]
    given = _placed(kubernetes.environment(source, made("lossless")), tmp_path)
    assert _run([sys.executable, *command[1:], "--check"], given) == ""
    written = kubernetes.documents((tmp_path / MANIFESTS[1:] / "sources.yaml").read_text(encoding="utf-8"))
    assert written == kubernetes.documents((KNATIVE / "sources.yaml").read_text(encoding="utf-8"))


@overlays
def test_images_are_ours_by_their_names(overlay: str) -> None:
    """A function's image is named after its Service, the source and the relay share one, and the Jobs have the command's."""
    registry, tag = ("dev.local", "latest") if overlay == "dev" else ("docker.io", "0.1.0")
    shared = {"outbox-relay": "connectors", "kafka-source": "connectors", "migrate": "command", "topics": "command"}
    found = {of.name: of.spec["containers"][0]["image"] for of in ours(overlay)}
    assert found == {name: f"{registry}/orderflow/{shared.get(name, name)}:{tag}" for name in found}


@overlays
def test_times_end_from_the_inside_out(overlay: str) -> None:
    """A statement ends before its delivery's deadline, that before Knative's and the source's; a drain ends before the pod's grace."""
    default = Settings.model_construct()
    for name, source in of_kind(overlay, "KafkaSource").items():
        assert source["spec"]["delivery"]["timeout"] == "PT30S", name
    for of in ours(overlay):
        given = kubernetes.environment(of, made(overlay))
        assert not given.keys() & {"STATEMENT_TIMEOUT", "DELIVERY_DEADLINE", "SHUTDOWN_TIMEOUT"}
        if of.knative:
            assert default.statement_timeout < default.delivery_deadline < of.spec["timeoutSeconds"] < 30
            assert given["DRAIN_DELAY"] == "0s"
            assert default.shutdown_timeout < of.spec["timeoutSeconds"]
        elif of.spec.get("restartPolicy") is None:
            assert default.shutdown_timeout + 5 + 5 < of.spec["terminationGracePeriodSeconds"]


@overlays
def test_probes_ask_whether_the_process_works_and_nothing_else(overlay: str) -> None:
    """A probe of /ready would hide a function that has to answer 503."""
    paths = set()
    for of in ours(overlay):
        for container in of.containers:
            probes = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}
            assert ("livenessProbe" in probes) == (of.spec.get("restartPolicy") is None), of.name
            paths |= {probe["path"] for probe in probes.values()}
    assert paths == {"/health"}


@overlays
def test_a_cold_start_and_its_probes_take_less_than_a_delivery_may(overlay: str) -> None:
    """No probe waits before a function may answer; dlq-router, for which nobody waits twice, never has to start first."""
    for of in (of for of in ours(overlay) if of.knative):
        container = of.spec["containers"][0]
        assert "startupProbe" not in container
        assert container["readinessProbe"].keys() == {"httpGet"}  # Knative's own pace
    services = of_kind(overlay, "Service", group="serving.knative.dev")
    scale = services["dlq-router"]["spec"]["template"]["metadata"]["annotations"]
    assert int(scale["autoscaling.knative.dev/min-scale"]) >= 1


@overlays
def test_only_knative_reaches_a_function_and_a_function_only_what_it_uses(overlay: str) -> None:
    """In: to the queue-proxy, from Knative's two namespaces. Out: names, PostgreSQL, and Kafka or Telegram where the function uses it."""
    broker = {of.service for of in functions.functions() if of.broker}
    for of in (of for of in ours(overlay) if of.knative):
        inward = kubernetes.rules(made(overlay), of.labels, "Ingress") or []
        assert {_namespace(peer) for rule in inward for peer in rule["from"]} == {"knative-serving", "kourier-system"}
        assert {port["port"] for rule in inward for port in rule["ports"]} == {8012, 8013, 8112, 9090}
        outward = kubernetes.rules(made(overlay), of.labels, "Egress") or []
        ports = {port["port"] for rule in outward for port in rule["ports"]}
        assert ports == {53, 5432} | ({9092} if of.name in broker else set()) | ({443} if of.name == "notify" else set()), of.name


def test_the_gateways_cluster_local_ports_are_for_those_who_deliver() -> None:
    """Kourier's gateway takes deliveries from the dispatcher, the activator and our own source; the way from outside stays open."""
    policy = _made("gateway")[0]
    own, rest = policy["spec"]["ingress"]
    assert policy["metadata"]["namespace"] == "kourier-system"
    assert [port["port"] for port in own["ports"]] == [8081, 8444]
    assert own["from"][0]["namespaceSelector"]["matchExpressions"][0]["values"] == ["knative-eventing", "knative-serving", "orderflow"]
    assert "from" not in rest
    assert not {port["port"] for port in rest["ports"]} & {8081, 8444}


@overlays
def test_every_process_that_is_always_on_has_a_disruption_budget(overlay: str) -> None:
    """A drained node takes one instance at a time; and as none has minAvailable, no node with the only instance is stuck."""
    budgets = [one["spec"] for one in made(overlay) if one["kind"] == "PodDisruptionBudget"]
    for of in (of for of in ours(overlay) if of.spec.get("restartPolicy") is None):
        assert [spec["maxUnavailable"] for spec in budgets if kubernetes.selects(spec["selector"], of.labels)] == [1], of.name


def test_prods_sources_log_in_encrypted_and_scale_by_the_prefix_that_is_read() -> None:
    """Each has the brokers' address from the one place, logs in by a Secret, and has no more consumers than there are partitions."""
    declared = {consumer.source: topic for topic, consumer in topics.read().consumers()}
    (brokers,) = [one["data"]["KAFKA_BROKERS"] for one in made("prod") if "KAFKA_BROKERS" in one.get("data", {})]
    for name, source in of_kind("prod", "KafkaSource").items():
        net, annotations = source["spec"]["net"], source["metadata"]["annotations"]
        assert source["spec"]["bootstrapServers"] == brokers.split(",")
        assert (net["sasl"]["enable"], net["tls"]["enable"]) == (True, True)
        assert annotations["autoscaling.eventing.knative.dev/class"] == "keda.autoscaling.knative.dev"
        assert int(annotations["autoscaling.eventing.knative.dev/max-scale"]) == declared[name].partitions


def test_what_the_docs_name_is_there() -> None:
    """Every folder and file of infra that docs/knative.md speaks of."""
    page = (home.CHECKOUT / "docs" / "knative.md").read_text(encoding="utf-8")
    named = set(re.findall(r"infra/knative[\w./-]*\w", page))
    assert named
    assert {path for path in named if not (home.CHECKOUT / path).exists()} == set()


def _namespace(peer: Document) -> str:
    assert peer.keys() == {"namespaceSelector"}
    return str(peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])


def _manifests(overlay: str) -> str:
    (found,) = [one["data"]["sources.yaml"] for one in made(overlay) if "sources.yaml" in one.get("data", {})]
    return str(found)


def _lay_out(overlay: str, folder: Path) -> None:
    """The files that the pods of `overlay` find, below `folder`."""
    for place in (f"{SECRETS}/orderflow", f"{SECRETS}/kafka", MANIFESTS):
        (folder / place[1:]).mkdir(parents=True)
    for name in {name for of in ours(overlay) for kind, name in kubernetes.needed(of) if kind == "Secret"}:
        (folder / SECRETS[1:] / "orderflow" / name).write_text("postgresql://user:password@database:5432/orders\n")
    authority = trustme.CA().cert_pem.bytes().decode()
    for name, text in {"username": "user", "password": "secret", "type": "SCRAM-SHA-512", "ca.crt": authority}.items():
        (folder / SECRETS[1:] / "kafka" / name).write_text(text)
    if overlay == "lossless":
        (folder / MANIFESTS[1:] / "sources.yaml").write_text(_manifests(overlay))


def _placed(environment: dict[str, str], folder: Path) -> dict[str, str]:
    return {name: value.replace(SECRETS, f"{folder}{SECRETS}") for name, value in environment.items()}


def _run(command: list[str], environment: dict[str, str]) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=kept | environment, cwd=home.CHECKOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout
