"""Known vulnerabilities of the locked packages: by pip-audit, which asks PyPI; or by a copy of the PyPA advisory database.

The copy is a checkout of github.com/pypa/advisory-database, for machines from which PyPI's JSON API cannot be reached.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

from ops import child
from ops.images.sets import Pin
from shared import errors

_TIMEOUT_S = 600
_MODIFIED = re.compile(r"^modified: [\"']?(\d{4}-\d\d-\d\d)", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Vulnerability:
    """A locked package that an advisory is about."""

    package: str
    version: str
    advisory: str
    fixed_in: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As it is told."""
        return f"{self.package} {self.version}: {self.advisory}" + (f", fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "")


def by_pip_audit(tools: Path, lock: Path) -> list[Vulnerability]:
    """What pip-audit finds. Raises Unavailable when it could not ask about every package."""
    command = [str(tools / "pip-audit"), "--requirement", str(lock), "--require-hashes", "--disable-pip", "--progress-spinner", "off",
               "--strict", "--format", "json", "--timeout", "15"]  # fmt: skip
    authorities = {name: os.environ[name] for name in ("REQUESTS_CA_BUNDLE",) if name in os.environ}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=child.environment(**authorities), timeout=_TIMEOUT_S
        )
        told = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired as exc:
        raise errors.Unavailable(f"pip-audit took longer than {_TIMEOUT_S} s", code="not_audited") from exc
    except (ValueError, KeyError, TypeError) as exc:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise errors.Unavailable(f"pip-audit could not ask PyPI: {said[:300]}", code="not_audited") from exc
    skipped = sorted(of["name"] for of in told if "skip_reason" in of)
    if skipped:
        raise errors.Unavailable(f"pip-audit skipped {', '.join(skipped)}", code="not_audited")
    return sorted(
        Vulnerability(of["name"], of["version"], fault["id"], tuple(fault.get("fix_versions", ()))) for of in told for fault in of["vulns"]
    )


def by_database(folder: Path, pins: Sequence[Pin]) -> list[Vulnerability]:
    """What the advisories below `folder` say of `pins`. Raises ConfigError when there is no database."""
    if not (folder / "vulns").is_dir():
        raise errors.ConfigError([f"ADVISORIES: {folder} is no checkout of the PyPA advisory database: it has no folder vulns"])
    return sorted({found for pin in pins for found in _about(folder / "vulns" / pin.name, pin)})


def newest(folder: Path) -> date:
    """The day of the latest word in the database below `folder`; the first day there is where it has none."""
    days = (_MODIFIED.search(file.read_text(encoding="utf-8")) for file in (folder / "vulns").glob("*/*.yaml"))
    return max((date.fromisoformat(found[1]) for found in days if found), default=date.min)


def _about(folder: Path, pin: Pin) -> Iterator[Vulnerability]:
    for file in sorted(folder.glob("*.yaml")) if folder.is_dir() else ():
        advisory = yaml.safe_load(file.read_text(encoding="utf-8"))
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", ()):
            if affected["package"]["name"].lower().replace("_", "-") == pin.name and _is_affected(affected, Version(pin.version)):
                yield Vulnerability(pin.name, pin.version, advisory["id"], tuple(_fixes(affected)))


def _is_affected(affected: Mapping[str, Any], version: Version) -> bool:
    if any(_same(told, version) for told in affected.get("versions", ())):
        return True
    return any(_within(of["events"], version) for of in affected.get("ranges", ()) if of["type"] == "ECOSYSTEM")


def _within(events: Sequence[Mapping[str, str]], version: Version) -> bool:
    """By the rule of OSV: events in the order of their versions, each of which switches."""
    inside = False
    for event in sorted(events, key=lambda of: (_version(next(iter(of.values()))), "introduced" not in of)):
        (kind, told), *_ = event.items()
        at = _version(told)
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside


def _fixes(affected: Mapping[str, Any]) -> list[str]:
    return [event["fixed"] for of in affected.get("ranges", ()) if of["type"] == "ECOSYSTEM" for event in of["events"] if "fixed" in event]


def _same(told: str, version: Version) -> bool:
    try:
        return Version(told) == version
    except InvalidVersion:
        return False


def _version(told: str) -> Version:
    return Version("0.dev0" if told == "0" else told)
