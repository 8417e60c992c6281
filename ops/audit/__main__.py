"""`python -m ops.audit`: licences, SBOM, vulnerabilities. 0: nothing known; 1: a vulnerability, or a part failed; 3: NOT AUDITED."""

import os
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ops import home
from ops.audit import advisories, sbom
from ops.images import sets
from ops.images.sets import Pin
from shared import errors

TOOLS = home.CHECKOUT / ".venv-audit" / "bin"
LOCK = home.CHECKOUT / "requirements.lock"
SBOM = home.CHECKOUT / "build" / "sbom.json"
FOUND, NOT_AUDITED = 1, 3
DAYS_MAX = 30  # how old a copy of the advisories may be


def main() -> int:
    """All three. The exit code."""
    pins = sets.pins(LOCK.read_text(encoding="utf-8"))
    shipped = {pin.name for of in sets.every() for pin in of.whole()}
    licences = sbom.licences()
    sbom.print_licences({pin.name: licences.get(pin.name, "not installed here") for pin in pins}, shipped)
    try:
        count = sbom.make(TOOLS, LOCK, SBOM, licences)
    except errors.OrderflowError as exc:
        sys.stderr.write(f"{exc.detail}\n")
        return FOUND
    sys.stdout.write(f"\n{SBOM.relative_to(home.CHECKOUT)}: {count} packages (* in an image)\n")
    return look_up(pins, shipped, Path(os.environ["ADVISORIES"]) if os.environ.get("ADVISORIES") else None)


def look_up(pins: Sequence[Pin], shipped: Collection[str], folder: Path | None, tools: Path = TOOLS) -> int:
    """Look for known vulnerabilities of `pins` in the advisories in `folder`, else by pip-audit, and say what came of it. The exit code."""
    try:
        found = advisories.by_database(folder, pins) if folder else advisories.by_pip_audit(tools, LOCK)
    except errors.OrderflowError as exc:
        sys.stderr.write(
            f"\nNOT AUDITED: no vulnerability was looked for: {exc.detail}\n"
            "Set ADVISORIES to a checkout of the PyPA advisory database, or run it where PyPI's JSON API can be reached.\n"
        )
        return NOT_AUDITED
    for vulnerability in found:
        sys.stderr.write(f"{vulnerability}{' (in an image)' if vulnerability.package in shipped else ''}\n")
    by = f"the advisories in {folder}" if folder else "pip-audit"
    sys.stdout.write(f"{len(pins)} packages looked up by {by}: {len(found)} known vulnerabilities\n")
    if found:
        return FOUND
    return _age(folder) if folder else 0


def _age(folder: Path) -> int:
    """The exit code for a database of that age."""
    newest = advisories.newest(folder)
    if datetime.now(UTC).date() - newest <= timedelta(days=DAYS_MAX):
        return 0
    sys.stderr.write(f"\nNOT AUDITED: the newest word in {folder} is of {newest}, and nothing that became known since is in it\n")
    return NOT_AUDITED


if __name__ == "__main__":
    sys.exit(main())
