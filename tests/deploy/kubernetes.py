"""Kubernetes manifests as kubectl makes them, what is wrong with them, and what they say of pods and of who may speak to whom."""

import functools
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

Document = dict[str, Any]

VERSIONS = ("1.33", "1.37")  # of Kubernetes: the oldest and the newest that we mean to run on
SCHEMAS = Path(__file__).parent / "schemas"  # of kinds that are not Kubernetes' own
KNATIVE_SERVICE = ("serving.knative.dev/v1", "Service")
_KNATIVE_POD = ("containerConcurrency", "timeoutSeconds")  # what a revision's spec has beside a pod's
_POD_OWNERS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}


@dataclass(frozen=True)
class Pods:
    """The pods that one document makes."""

    name: str
    labels: Mapping[str, str]
    spec: Document
    knative: bool

    @property
    def containers(self) -> list[Document]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def rendered(folder: Path) -> list[Document]:
    """What `kubectl apply -k folder` applies. Skips the test, loudly, where there is no kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("KUBECTL IS MISSING: no overlay was rendered, so no manifest was checked as a cluster would get it")
    made = subprocess.run(["kubectl", "kustomize", str(folder)], check=False, capture_output=True, text=True)  # noqa: S607
    assert made.returncode == 0, made.stderr
    return documents(made.stdout)


def documents(text: str) -> list[Document]:
    """The documents of a YAML stream."""
    return [document for document in yaml.safe_load_all(text) if document is not None]


def faults(found: Iterable[Document]) -> list[str]:
    """Everything by which the documents are not what Kubernetes and Knative take, one sentence each."""
    found = list(found)
    told = [f"{_title(document)}: {fault}" for document in found for fault in _of(document)]
    titles = [_title(document) for document in found]
    return told + [f"{title}: is there twice" for title in sorted({title for title in titles if titles.count(title) > 1})]


def pods(found: Iterable[Document]) -> Iterator[Pods]:
    """The pods of every document that makes some."""
    for document in found:
        knative = (document["apiVersion"], document["kind"]) == KNATIVE_SERVICE
        if knative or document["kind"] in _POD_OWNERS:
            template, name = document["spec"]["template"], document["metadata"]["name"]
            labels = template.get("metadata", {}).get("labels", {}) | ({"serving.knative.dev/service": name} if knative else {})
            yield Pods(name, labels, template["spec"], knative)


def careless(of: Pods) -> list[str]:
    """What a pod may do that none of ours needs to."""
    whole = of.spec.get("securityContext", {})
    told = [] if of.spec.get("automountServiceAccountToken") is False else ["gets a token of Kubernetes"]
    for container in of.containers:
        own = container.get("securityContext", {})
        both = whole | own
        wanted = {
            "runs as root": both.get("runAsNonRoot") is not True,
            "may gain privileges": own.get("allowPrivilegeEscalation") is not False,
            "keeps capabilities": own.get("capabilities", {}).get("drop") != ["ALL"],
            "may make any system call": both.get("seccompProfile", {}).get("type") != "RuntimeDefault",
            "may write to its root file system": own.get("readOnlyRootFilesystem") is not True,
            "has no memory limit": "memory" not in container.get("resources", {}).get("limits", {}),
            "asks for no memory": "memory" not in container.get("resources", {}).get("requests", {}),
        }
        told += [f"{container['name']} {what}" for what, is_so in wanted.items() if is_so]
    return told


def needed(of: Pods, *, optional: bool = False) -> Iterator[tuple[str, str]]:
    """Every Secret and ConfigMap that the pod does not start without, and with `optional` those that it can do without, as (kind, name)."""
    for container in of.containers:
        sources = [entry.get("valueFrom", {}) for entry in container.get("env", [])] + container.get("envFrom", [])
        for source in sources:
            yield from _named(source, optional=optional)
    for volume in of.spec.get("volumes", []):
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            yield from _named(source, optional=optional)


def environment(of: Pods, found: Iterable[Document]) -> dict[str, str]:
    """What the process of the pod's first container finds in its environment, as far as the documents say."""
    maps = {document["metadata"]["name"]: document.get("data", {}) for document in found if document["kind"] == "ConfigMap"}
    container = of.spec["containers"][0]
    given: dict[str, str] = {}
    for source in container.get("envFrom", []):
        given |= maps[source["configMapRef"]["name"]]
    return given | {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector means what has `labels`."""
    operators = {
        "In": lambda rule: labels.get(rule["key"]) in rule["values"],
        "NotIn": lambda rule: labels.get(rule["key"]) not in rule["values"],
        "Exists": lambda rule: rule["key"] in labels,
        "DoesNotExist": lambda rule: rule["key"] not in labels,
    }
    exactly = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return exactly and all(operators[rule["operator"]](rule) for rule in selector.get("matchExpressions", []))


def rules(found: Iterable[Document], labels: Mapping[str, str], direction: str) -> list[Document] | None:
    """What NetworkPolicies let pass to (`Ingress`) or from (`Egress`) pods with `labels`; None: everything, for no policy means them."""
    policies = [document["spec"] for document in found if document["kind"] == "NetworkPolicy"]
    own = [spec for spec in policies if direction in spec["policyTypes"] and selects(spec["podSelector"], labels)]
    return [rule for spec in own for rule in spec.get(direction.lower(), [])] if own else None


@functools.cache
def _schemas() -> dict[tuple[str, str], Document]:
    read = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(SCHEMAS.glob("*.yaml"))]
    return {(schema["properties"]["apiVersion"]["const"], schema["properties"]["kind"]["const"]): schema for schema in read}


def _of(document: Document) -> Iterator[str]:
    kind = (document.get("apiVersion", ""), document.get("kind", ""))
    yield from _nulls(document)
    if kind in _schemas():
        validator = jsonschema.Draft202012Validator(_schemas()[kind])
        yield from (f"{fault.json_path}: {fault.message}" for fault in validator.iter_errors(document))
        if kind == KNATIVE_SERVICE:
            yield from _of_kubernetes(_pod(document))
    else:
        yield from _of_kubernetes(document)


def _of_kubernetes(document: Document) -> Iterator[str]:
    told = {}
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as exc:
            told[f"{exc.json_path}: {exc.message}"] = version
        except kubernetes_validate.SchemaNotFoundError as exc:
            told[f"Kubernetes has no {exc.kind} of {exc.api_version}"] = version
        except KeyError as exc:
            told[f"has no {exc}"] = version
    yield from (f"{fault} (Kubernetes {version})" for fault, version in told.items())


def _pod(service: Document) -> Document:
    """The pod that a Knative Service makes, as far as it says so itself."""
    spec = service.get("spec", {}).get("template", {}).get("spec", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "revision"},
        "spec": {key: value for key, value in spec.items() if key not in _KNATIVE_POD},
    }


def _nulls(value: object, path: str = "$") -> Iterator[str]:
    """Kubernetes' schemas let null stand for anything, and a cluster drops the field without a word."""
    if value is None:
        yield f"{path} is null"
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _nulls(part, f"{path}.{key}")
    elif isinstance(value, list):
        for n, part in enumerate(value):
            yield from _nulls(part, f"{path}[{n}]")


def _named(source: Mapping[str, Any], *, optional: bool) -> Iterator[tuple[str, str]]:
    places = {
        "secret": "Secret",
        "secretRef": "Secret",
        "secretKeyRef": "Secret",
        "configMap": "ConfigMap",
        "configMapRef": "ConfigMap",
        "configMapKeyRef": "ConfigMap",
    }
    for place, kind in places.items():
        reference = source.get(place)
        if reference is not None and (optional or not reference.get("optional", False)):
            yield kind, reference.get("name") or reference["secretName"]


def _title(document: Document) -> str:
    metadata = document.get("metadata") or {}
    return f"{document.get('kind')} {metadata.get('namespace', '')}/{metadata.get('name')}"
