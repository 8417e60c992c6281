"""`python -m chaos` as a test runs it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from ops import child, home

PATIENCE_S = 400.0


def run(*arguments: str) -> tuple[int, str]:
    """Its exit code and what it said. What it needs is fetched once for all; what it leaves behind is removed."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        state = Path(folder)
        for shared in ("kafka-jars", *(each.name for each in home.folder().glob("toxiproxy-*"))):
            if (home.folder() / shared).exists():
                (state / shared).symlink_to(home.folder() / shared)
        command = child.guarded([sys.executable, "-m", "chaos", *arguments], signal.SIGTERM)
        done = subprocess.run(
            command, env=child.environment(ORDERFLOW_HOME=folder, PATH=os.environ["PATH"], NO_COLOR="1"), cwd=home.CHECKOUT,
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        logs = "\n".join(_tail(log) for log in sorted(state.glob("chaos/*/logs/*.log"))) if done.returncode else ""
        shutil.rmtree(state / "chaos", ignore_errors=True)
    return done.returncode, f"{done.stdout}\n{done.stderr}\n{logs}"


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
    return f"--- {log.name}\n" + "\n".join(lines)
