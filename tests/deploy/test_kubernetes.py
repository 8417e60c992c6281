"""The checker itself: what it finds when something is wrong."""

import copy
from typing import Any

import pytest

from ops import home
from tests.deploy import kubernetes
from tests.deploy.kubernetes import Document

KNATIVE = home.CHECKOUT / "infra" / "knative"
FUNCTIONS = kubernetes.documents((KNATIVE / "base" / "functions.yaml").read_text(encoding="utf-8"))
SOURCES = kubernetes.documents((KNATIVE / "sources.yaml").read_text(encoding="utf-8"))
RELAY = kubernetes.documents((KNATIVE / "base" / "relay.yaml").read_text(encoding="utf-8"))
NETWORK = kubernetes.documents((KNATIVE / "base" / "network.yaml").read_text(encoding="utf-8"))


def changed(document: Document, path: str, value: Any) -> Document:
    """A copy with `value` at `path`, whose parts are words, and numbers for places in lists."""
    made = copy.deepcopy(document)
    *way, last = [int(part) if part.isdigit() else part for part in path.split()]
    part: Any = made
    for step in way:
        part = part[step]
    part[last] = value
    return made


def test_what_is_right_has_no_fault() -> None:
    """The files as they are written, before kubectl, are right too: this needs no kubectl."""
    assert kubernetes.faults([*FUNCTIONS, *SOURCES, *RELAY, *NETWORK]) == []
    assert [told for of in kubernetes.pods([*FUNCTIONS, *RELAY]) for told in kubernetes.careless(of)] == []


@pytest.mark.parametrize(
    ("document", "path", "value", "fault"),
    [
        (RELAY[0], "spec template spec containers 0 livenesProbe", {}, "'livenesProbe' was unexpected"),
        (RELAY[0], "spec replicas", "two", "'two' is not of type"),
        (RELAY[0], "spec template spec containers 0 resources", None, "resources is null"),
        (RELAY[0], "apiVersion", "apps/v1beta1", "Kubernetes has no Deployment of apps/v1beta1"),
        (RELAY[1], "spec minavailable", 1, "'minavailable' was unexpected"),
        (NETWORK[0], "spec policyType", ["Ingress"], "'policyType' was unexpected"),
        (FUNCTIONS[0], "spec template spec terminationGracePeriodSeconds", 40, "'terminationGracePeriodSeconds' was unexpected"),
        (FUNCTIONS[0], "spec template spec containers 0 lifecycle", {}, "'lifecycle' was unexpected"),
        (FUNCTIONS[0], "spec template spec containers 0 livenessProbe httpGet pth", "/health", "'pth' was unexpected"),
        (FUNCTIONS[0], "spec template metadata annotations autoscaling.knative.dev/minScale", "1", "was unexpected"),
        (FUNCTIONS[0], "spec template spec containers 0 env 0 value", 0, "0 is not of type 'string'"),
        (SOURCES[0], "spec delivery retries", 3, "'retries' was unexpected"),
        (SOURCES[0], "spec delivery backoffDelay", "PT0S", "does not match"),
        (SOURCES[0], "spec ordering", "sorted", "'sorted' is not one of"),
        (SOURCES[0], "metadata annotations autoscaling.knative.dev/min-scale", "1", "does not match any of the regexes"),
        (SOURCES[0], "spec bootstrapServers 0", "a:1,b:2", "does not match"),
        (SOURCES[0], "kind", "KafkaSauce", "Kubernetes has no KafkaSauce"),
    ],
)
def test_a_planted_fault_is_found(document: Document, path: str, value: Any, fault: str) -> None:
    """A misspelt field, a wrong type, a null, an unknown kind, and what Knative does not let through."""
    told = "\n".join(kubernetes.faults([changed(document, path, value)]))
    assert fault in told, told


def test_a_name_that_is_there_twice_is_found() -> None:
    """kubectl would apply the second over the first."""
    assert kubernetes.faults([RELAY[0], RELAY[0]]) == ["Deployment /outbox-relay: is there twice"]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("runAsNonRoot", False, "function runs as root"),
        ("readOnlyRootFilesystem", False, "function may write to its root file system"),
        ("allowPrivilegeEscalation", True, "function may gain privileges"),
        ("capabilities", {"drop": ["NET_RAW"]}, "function keeps capabilities"),
        ("seccompProfile", {"type": "Unconfined"}, "function may make any system call"),
    ],
)
def test_a_careless_pod_is_found(path: str, value: Any, told: str) -> None:
    """Each right that nobody needs is named."""
    service = changed(FUNCTIONS[0], f"spec template spec containers 0 securityContext {path}", value)
    (of,) = kubernetes.pods([service])
    assert kubernetes.careless(of) == [told]


def test_a_policy_means_whom_its_selector_means() -> None:
    """By label, by the presence of one, or everybody; and whom no policy means is reached by everybody."""
    function = {"serving.knative.dev/service": "notify", "orderflow.dev/uses-postgres": "true"}
    assert len(kubernetes.rules(NETWORK, function, "Ingress") or []) == 2
    assert [port["port"] for rule in kubernetes.rules(NETWORK, function, "Egress") or [] for port in rule["ports"]] == [53, 53, 5432, 443]
    assert kubernetes.rules(NETWORK, {"some": "pod"}, "Ingress") == []
    assert kubernetes.rules(NETWORK[1:], {"some": "pod"}, "Ingress") is None
