"""stack.yml and its environment files: what faas-cli and the Community Edition take, and what our functions need."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from connectors.kafka_source import manifest
from ops import home
from ops.deployments import functions
from shared import topics
from shared.config import Settings, seconds
from tests.deploy import stack_file
from tests.deploy.test_knative import SETTING
from tests.unit import test_config

ENVIRONMENTS = ("dev", "prod")
DOCS = (home.CHECKOUT / "docs" / "openfaas.md").read_text(encoding="utf-8")
OPENFAAS = home.CHECKOUT / "infra" / "openfaas"
GRACE_S = 30  # what Kubernetes gives a pod, and the Community Edition sets no other
# What faas-netes refuses: a function with one of these labels at all, or with more replicas than this.
REFUSED_LABELS = {"com.openfaas.scale.zero", "com.openfaas.scale.zero-duration", "com.openfaas.scale.target", "com.openfaas.scale.type"}
REPLICAS_MAX, FUNCTIONS_MAX = 5, 15
_UNITS = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

environments = pytest.mark.parametrize("environment", ENVIRONMENTS)


def quantity(text: str) -> float:
    """A Kubernetes quantity such as 50m or 128Mi."""
    match = re.fullmatch(r"([1-9]\d*)(m|Ki|Mi|Gi)?", text)
    assert match is not None, text
    return int(match[1]) * _UNITS[match[2] or ""]


def test_every_function_is_deployed_from_its_folder() -> None:
    """One entry a function, whose handler is the folder with its main.py; the template and what is copied beside it are there."""
    stack = stack_file.read()
    known = {function.service: function for function in functions.functions()}
    assert (stack.version, stack.provider.name) == ("1.0", "openfaas")
    assert stack.functions.keys() == known.keys()
    assert len(stack.functions) <= FUNCTIONS_MAX
    for name, function in stack.functions.items():
        assert (home.CHECKOUT / function.handler).resolve() == home.CHECKOUT / "functions" / known[name].name
        assert (home.CHECKOUT / function.handler / "main.py").is_file()
        assert function.build_args == {"FUNCTION": known[name].name}
        assert (home.CHECKOUT / "template" / function.lang / "template.yml").is_file()
    assert {(home.CHECKOUT / path).resolve() for path in stack.configuration.copied} == {
        home.CHECKOUT / name for name in ("shared", "contracts")
    }


def test_the_function_process_is_that_of_the_image() -> None:
    """faas-cli sends the template's fprocess, which overrides the image's: they are the same."""
    template = yaml.safe_load((home.CHECKOUT / "template" / "orderflow" / "template.yml").read_text(encoding="utf-8"))
    assert template["fprocess"] == stack_file.image_environment()["fprocess"]


def test_variables_choose_registry_tag_gateway_and_environment() -> None:
    """Each has a default that works, and a value that is set, though not an empty one, takes its place."""
    default = stack_file.read(REGISTRY="", TAG="")
    chosen = stack_file.read(REGISTRY="127.0.0.1:5000/shop", TAG="1.2.3", OPENFAAS_URL="https://gateway.example.com", ORDERFLOW_ENV="prod")
    assert stack_file.variables() == {"REGISTRY", "TAG", "OPENFAAS_URL", "ORDERFLOW_ENV"}
    assert (default.provider.gateway, chosen.provider.gateway) == ("http://127.0.0.1:8080", "https://gateway.example.com")
    for name, function in default.functions.items():
        assert function.image == f"docker.io/orderflow/{name}:latest"
        assert chosen.functions[name].image == f"127.0.0.1:5000/shop/{name}:1.2.3"
        assert chosen.functions[name].environment_file == tuple(path.replace("/dev", "/prod") for path in function.environment_file)


def test_variables_on_the_page_are_those_of_the_file() -> None:
    """docs/openfaas.md says how to set each, and no other."""
    exported = re.search(r"^export (REGISTRY=.*?)(?: +#|$)", DOCS, re.MULTILINE)
    assert exported is not None
    assert {pair.partition("=")[0] for pair in exported[1].split()} == stack_file.variables()


@environments
def test_every_secret_is_a_file_that_a_setting_names(environment: str) -> None:
    """No secret without a reader, no file without a secret; and the page's command makes them all."""
    named = set()
    for name, function in stack_file.read(ORDERFLOW_ENV=environment).functions.items():
        wanted = sorted(stack_file.named_secrets(function.given()))
        assert sorted(function.secrets) == wanted, name
        named |= set(wanted)
    listed = re.search(r"for name in \$\((.*)\); do\n +faas-cli secret create", DOCS)
    assert listed is not None
    made = subprocess.run(["sh", "-c", listed[1]], check=True, capture_output=True, text=True, cwd=home.CHECKOUT).stdout  # noqa: S607
    assert set(made.split()) == named
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) for name in named)


@environments
def test_every_function_takes_its_settings(environment: str, tmp_path: Path) -> None:
    """Each variable is a setting of ours or of the watchdog, and all together have no fault; consumers want the token, people do not."""
    known = {function.service: function for function in functions.functions()}
    for name, function in stack_file.read(ORDERFLOW_ENV=environment).functions.items():
        ours = {key: value for key, value in function.given().items() if key not in stack_file.WATCHDOG}
        plain = {key.removesuffix("_FILE") for key in ours}
        assert {key for key in plain if key.lower() not in Settings.model_fields and not SETTING.fullmatch(key)} == set(), name
        settings = test_config.load(**stack_file.placed(ours, tmp_path))
        assert settings.postgres_dsns.keys() == {known[name].consumer}
        assert bool(settings.delivery_token) == known[name].token
        assert ("KAFKA_BROKERS" in ours) == known[name].broker
        assert settings.public_path_prefix == (f"/function/{name}" if known[name].public else "")


def test_prod_speaks_to_kafka_and_telegram_as_prod_does(tmp_path: Path) -> None:
    """The letters' producer logs in and encrypts; messages are sent, not logged."""
    given = {name: function.given() for name, function in stack_file.read(ORDERFLOW_ENV="prod").functions.items()}
    client = test_config.load(**stack_file.placed(given["dlq-router"], tmp_path)).kafka_client()
    assert client["security.protocol"] == "SASL_SSL"
    assert {"sasl.mechanism", "sasl.username", "sasl.password"} <= client.keys()
    assert given["notify"]["TELEGRAM_ENABLED"] == "true"


@environments
def test_who_waits_longest_is_the_outermost(environment: str) -> None:
    """From the source's request to one statement, each limit is shorter than the one around it; so an answer is never lost on its way."""
    chart = yaml.safe_load((OPENFAAS / "gateway.yaml").read_text(encoding="utf-8"))
    gateway, provider = chart["gateway"], chart["faasnetes"]
    sources = manifest.read(home.CHECKOUT / "infra" / "knative" / "sources.yaml")
    for function in stack_file.read(ORDERFLOW_ENV=environment).functions.values():
        given = function.runs_with()
        settings = test_config.load(**{name: given[name] for name in ("DELIVERY_DEADLINE", "STATEMENT_TIMEOUT")})
        chain = [
            min(source.spec.delivery.timeout for source in sources),
            seconds(gateway["writeTimeout"]),
            seconds(gateway["upstreamTimeout"]),
            seconds(given["write_timeout"]),
            seconds(given["exec_timeout"]),
            settings.delivery_deadline,
            settings.statement_timeout,
            settings.lock_timeout,
        ]
        assert chain == sorted(set(chain), reverse=True), chain
        assert chain[2] >= seconds(provider["readTimeout"]) > seconds(given["write_timeout"])
        assert chain[2] >= seconds(provider["writeTimeout"]) > seconds(given["write_timeout"])
        assert seconds(given["read_timeout"]) >= seconds(given["exec_timeout"])
        assert max(settings.notification_lease, settings.dlq_producer_timeout) < settings.delivery_deadline


@environments
def test_a_drain_ends_before_the_platform_kills(environment: str) -> None:
    """The function listens for longer than the watchdog takes requests, and what is in flight ends within the pod's grace."""
    for function in stack_file.read(ORDERFLOW_ENV=environment).functions.values():
        given = function.runs_with()
        watchdog, listens = seconds(given["healthcheck_interval"]), seconds(given["DRAIN_DELAY"])
        assert 0 < watchdog < listens
        assert listens + seconds(given["SHUTDOWN_TIMEOUT"]) < GRACE_S


def test_every_function_has_limits_and_a_root_file_system_that_stays_as_it_is() -> None:
    for name, function in stack_file.read().functions.items():
        assert function.readonly_root_filesystem, name
        assert quantity(function.requests.memory) <= quantity(function.limits.memory)
        assert quantity(function.requests.cpu) <= quantity(function.limits.cpu)


def test_labels_and_annotations_are_such_as_kubernetes_and_the_community_edition_take() -> None:
    """Legal names and values, one to five replicas, and nothing for which that edition refuses a function."""
    for name, function in stack_file.read().functions.items():
        assert all(stack_file.legal_label(key, key=True) for key in (*function.labels, *function.annotations)), name
        assert all(stack_file.legal_label(value) for value in function.labels.values()), name
        assert not REFUSED_LABELS & function.labels.keys()
        assert 1 <= int(function.labels["com.openfaas.scale.min"]) <= int(function.labels["com.openfaas.scale.max"]) <= REPLICAS_MAX
        assert "," not in function.annotations.get("topic", "")


def test_topic_annotations_name_what_the_function_consumes() -> None:
    """As topics.yaml has it; what consumes nothing has no such annotation."""
    consumed: dict[str, list[str]] = {name: [] for name in stack_file.read().functions}
    for topic, consumer in topics.read().consumers():
        consumed[consumer.function.replace("_", "-")].append(topic.name)
    found = {name: function.annotations.get("topic", "") for name, function in stack_file.read().functions.items()}
    assert found == {name: ";".join(names) for name, names in consumed.items()}


def test_prometheus_finds_the_functions_own_metrics() -> None:
    """The keys with dots: faas-netes adds `prometheus.io.scrape: "false"` where it is missing, whatever else there is."""
    for function in stack_file.read().functions.values():
        found = {key.removeprefix("prometheus.io."): value for key, value in function.annotations.items() if "prometheus" in key}
        assert found == {"scrape": "true", "port": "8080", "path": "/metrics"}
