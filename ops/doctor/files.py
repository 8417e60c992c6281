"""Facts from files: KafkaSources and pods out of manifests, the limits of OpenFaaS's gateway."""

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ops import home
from ops.doctor.facts import Facts, OpenFaas, Pods, Source
from shared import config

SOURCES = Path("infra") / "knative" / "sources.yaml"
OPENFAAS = Path("infra") / "openfaas"
Document = Mapping[str, Any]


def with_manifests(facts: Facts, path: Path | None) -> Facts:
    """`facts`, and what the manifests say: of a file, of a folder, or of an overlay as kubectl renders it. Never raises."""
    chosen = path or home.CHECKOUT / SOURCES
    fields = ("sources", "unreadable", "pods")
    if not chosen.exists():
        why = f"there is no {chosen}" if path else f"there is no {SOURCES} here: name manifests with --manifests"
        return facts.with_(left=dict(facts.left) | dict.fromkeys(fields, why))
    try:
        text = _text(chosen)
        found = [one for one in yaml.safe_load_all(text) if isinstance(one, dict)]
        made = list(_sources(found, chosen.name))
    except FileNotFoundError:
        why = f"{chosen} has to be rendered, and there is no kubectl"
        return facts.with_(left=dict(facts.left) | dict.fromkeys(fields, why))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, subprocess.SubprocessError) as exc:
        said = exc.stderr if isinstance(exc, subprocess.CalledProcessError) else str(exc)
        why = f"{chosen} cannot be read: {str(said).strip()[:300]}"
        return facts.with_(unreadable=(why,), left=dict(facts.left) | dict.fromkeys(("sources", "pods"), why))
    unreadable = () if made else (f"{chosen} holds no KafkaSource",)
    pods = list(_pods(found))
    return facts.with_(sources=made, unreadable=unreadable, pods=pods or None)


def with_openfaas(facts: Facts, folder: Path | None) -> Facts:
    """`facts`, and the limits of the gateway's chain. Nothing where no folder is there. Never raises."""
    chosen = folder or home.CHECKOUT / OPENFAAS
    if folder is None and not (chosen / "gateway.yaml").exists():
        return facts
    try:
        chart, common = (yaml.safe_load((chosen / name).read_text(encoding="utf-8")) for name in ("gateway.yaml", "env/common.yml"))
        gateway, given = chart["gateway"], common["environment"]
        gateways = tuple((f"gateway.{name} (gateway.yaml)", config.seconds(gateway[name])) for name in ("writeTimeout", "upstreamTimeout"))
        chain = gateways + tuple(
            (f"{name} (env/common.yml)", config.seconds(given[name]))
            for name in ("write_timeout", "exec_timeout", "DELIVERY_DEADLINE", "STATEMENT_TIMEOUT")
        )
        found = OpenFaas(chain, queue=bool(chart.get("async", True)), from_zero=bool(gateway.get("scaleFromZero", True)))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as exc:
        return facts.with_(left=dict(facts.left) | {"openfaas": f"{chosen} cannot be read: {exc!r}"})
    return facts.with_(openfaas=found)


def _text(path: Path) -> str:
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if any((path / name).exists() for name in ("kustomization.yaml", "kustomization.yml")):
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            raise FileNotFoundError("kubectl")
        return subprocess.run([kubectl, "kustomize", str(path)], check=True, capture_output=True, text=True, timeout=60).stdout
    return "\n---\n".join(file.read_text(encoding="utf-8") for file in sorted(path.rglob("*.yaml")))


def _sources(found: Iterable[Document], origin: str) -> Iterator[Source]:
    """KafkaSources: beside Knative Services they are Knative's; in a ConfigMap, or alone, our own source reads them."""
    found = list(found)
    services = any(str(one.get("apiVersion", "")).startswith("serving.knative.dev") for one in found)
    for one in found:
        if one.get("kind") == "KafkaSource":
            yield Source(_name(one), one, knative=services, origin=origin)
        for name, text in (one.get("data") or {}).items() if one.get("kind") == "ConfigMap" else ():
            if name.endswith((".yaml", ".yml")):
                for inner in yaml.safe_load_all(text):
                    if isinstance(inner, dict) and inner.get("kind") == "KafkaSource":
                        yield Source(_name(inner), inner, knative=False, origin=f"{origin}, ConfigMap {_name(one)}")


def _pods(found: Iterable[Document]) -> Iterator[Pods]:
    found = list(found)
    held = {(one.get("kind"), _name(one)): one.get("data") or {} for one in found if one.get("kind") in {"ConfigMap", "Secret"}}
    for one in found:
        knative = str(one.get("apiVersion", "")).startswith("serving.knative.dev")
        if not knative and one.get("kind") not in {"Deployment", "StatefulSet"}:
            continue
        spec = ((one.get("spec") or {}).get("template") or {}).get("spec") or {}
        container: Document = next(iter(spec.get("containers") or ()), {})
        if not knative and "orderflow" not in str(container.get("image", "")):
            continue  # a broker or a database of the overlay dev
        answer_s = float(spec.get("timeoutSeconds", 300)) if knative else None
        grace_s = answer_s if knative else float(spec.get("terminationGracePeriodSeconds", 30))
        yield Pods(_name(one), _environment(container, held), grace_s, answer_s)


def _environment(container: Document, held: Mapping[tuple[Any, str], Mapping[str, Any]]) -> dict[str, str]:
    """What the container is given. A value that is taken from a secret is "(a secret)"; nothing of it is looked at."""
    found: dict[str, str] = {}
    for part in container.get("envFrom") or ():
        for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
            named = (part.get(field) or {}).get("name", "")
            given = held.get((kind, named), {})
            found |= {key: str(value) if kind == "ConfigMap" else "(a secret)" for key, value in given.items()}
    return found | {str(one["name"]): str(one.get("value", "(a secret)")) for one in container.get("env") or () if "name" in one}


def _name(document: Document) -> str:
    return str((document.get("metadata") or {}).get("name", "without a name"))
