"""`python -m ops.images build | report | check`: see `make images`, `make image-report` and `make images-check`."""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ops import home, terminal
from ops.images import build, engine, report
from shared import errors

PUBLIC_BASE = "docker.io/library/python:3.11-slim-bookworm"
STAND_IN = home.CHECKOUT / "tests" / "images" / "watchdog_stand_in.py"


def main() -> int:
    """The exit code: 0 when all went well, or when there is no engine to check with, which is said."""
    parser = argparse.ArgumentParser(prog="python -m ops.images", description="The container images.")
    parser.add_argument("do", choices=["build", "report", "check"])
    do = parser.parse_args().do
    try:
        if do == "build":
            _build(os.environ)
        elif do == "report":
            _report(os.environ, os.environ.get("BASE_IMAGE") or PUBLIC_BASE)
        else:
            return _check()
    except errors.OrderflowError as exc:
        terminal.complain(str(exc))
        return 1
    return 0


def _build(environ: Mapping[str, str]) -> None:
    for image in build.build(environ):
        terminal.say(f"built {image.tag}")


def _report(environ: Mapping[str, str], base: str) -> None:
    rows = [
        (
            of.image.name,
            f"{of.own_bytes / 1e6:.1f} MB",
            "" if of.cold_start_s is None else f"{of.cold_start_s:.2f} s",
            "" if of.idle_bytes is None else f"{of.idle_bytes / 1e6:.0f} MB",
        )
        for of in report.measure(environ, base)
    ]
    terminal.table(["image", "above its base", f"cold start, median of {report.RUNS}", "idle memory"], rows)
    terminal.say(f"on {os.cpu_count()} cores, whose load was {os.getloadavg()[0]:.1f}; ops/images/report.py says how it is measured")


def _check() -> int:
    """Build every image from a base made here, start each, send it events, print the report."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orderflow"
    try:
        with engine.running() as found:
            base, watchdog = engine.base(found, cache), engine.watchdog(found, STAND_IN)
            environ = found | {"BASE_IMAGE": base, "WATCHDOG_IMAGE": watchdog, "REGISTRY": "orderflow.local/check", "TAG": "check"}
            _build(environ)
            told = environ | {"ORDERFLOW_IMAGES": base}
            tests = subprocess.run([sys.executable, "-m", "pytest", "tests/images"], cwd=home.CHECKOUT, env=told, check=False)
            _report(environ, base)
    except engine.NoEngine as exc:
        terminal.note(f"IMAGES NOT CHECKED: {exc}", "bold yellow")
        return 0
    terminal.say(
        f"IMAGES {'FAILED' if tests.returncode else 'CHECKED'}: built from {base}, with {watchdog} for of-watchdog (which has 11.5 MB)"
    )
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main())
