"""The SBOM: every package of requirements.lock with its hashes and its licence, as CycloneDX JSON.

`cyclonedx-py` makes it from the lock file; the licences, of which a lock file knows nothing, come from what is installed; and CycloneDX's
own schema judges the result.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ops import child
from ops.images import sets
from ops.images.sets import Pin
from shared import errors

SPEC = "1.6"
_CHECK = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
fault = JsonStrictValidator(SchemaVersion.from_version(sys.argv[1])).validate_str(open(sys.argv[2], encoding="utf-8").read())
sys.exit(str(fault) if fault else 0)
"""


def make(tools: Path, lock: Path, out: Path, licences: Mapping[str, str]) -> int:
    """Write the SBOM of `lock` to `out`. How many packages it names: all that are locked. Raises Refused where it is not valid."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _run(
        [str(tools / "cyclonedx-py"), "requirements", str(lock), "--spec-version", SPEC, "--output-reproducible", "--output-format", "JSON",
         "--output-file", str(out), "--pyproject", str(lock.parent / "pyproject.toml"), "--mc-type", "application"]
    )  # fmt: skip
    document = json.loads(out.read_text(encoding="utf-8"))
    pins = {pin.name: pin for pin in sets.pins(lock.read_text(encoding="utf-8"))}
    components = {_name(of["name"]): of for of in document.get("components", ())}
    if components.keys() != pins.keys():
        raise errors.Refused(f"the SBOM differs from {lock.name}: {', '.join(sorted(components.keys() ^ pins.keys()))}", code="sbom")
    for name, component in components.items():
        _complete(component, pins[name], licences.get(name))
    out.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _run([str(tools / "python"), "-c", _CHECK, SPEC, str(out)])
    return len(components)


def licences(distributions: Iterable[metadata.Distribution] | None = None) -> dict[str, str]:
    """The licence of each package that is installed here, as it names it."""
    return {_name(of.metadata["Name"]): _licence(of) for of in distributions or metadata.distributions()}


def _licence(of: metadata.Distribution) -> str:
    fields = of.metadata
    for expression in fields.get_all("License-Expression", []):
        return str(expression)
    classified = [line.rpartition(" :: ")[2] for line in fields.get_all("Classifier", []) if line.startswith("License :: ")]
    named = " OR ".join(dict.fromkeys(name for name in classified if name not in {"OSI Approved", "DFSG approved"}))
    told = "".join(fields.get_all("License", [])).strip().splitlines()
    return named or (told or ["unknown"])[0][:80]


def _complete(component: dict[str, Any], pin: Pin, licence: str | None) -> None:
    if component.get("version") != pin.version:
        raise errors.Refused(f"the SBOM has {pin.name} {component.get('version')}, and {pin.version} is locked", code="sbom")
    # Of one package several files may be installed, so its hashes belong to where it comes from, and not to itself.
    component["externalReferences"] = [
        {
            "type": "distribution",
            "url": component["purl"],
            "comment": "the files of this version that may be installed",
            "hashes": [{"alg": "SHA-256", "content": of.partition(":")[2]} for of in sorted(pin.hashes)],
        }
    ]
    if licence is not None:
        component["licenses"] = [{"license": {"name": licence}}]


def _name(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child.environment(), timeout=300)
    if done.returncode:
        raise errors.Refused(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-2000:]}", code="sbom")


def print_licences(found: Mapping[str, str], shipped: Iterable[str]) -> None:
    """A table by licence; what an image holds is marked with a star."""
    in_images = set(shipped)
    by_licence: dict[str, list[str]] = {}
    for name, licence in sorted(found.items()):
        by_licence.setdefault(licence, []).append(f"{name}*" if name in in_images else name)
    for licence, names in sorted(by_licence.items(), key=lambda of: (-len(of[1]), of[0])):
        sys.stdout.write(f"{len(names):4}  {licence}: {', '.join(names)}\n")
