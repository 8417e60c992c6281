"""Copies of this checkout, for tests that change one."""

import shutil
import subprocess
from pathlib import Path

from ops import child, home


def copied(to: Path) -> Path:
    """What is in this checkout, also what is not committed yet, in the new folder `to`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=home.CHECKOUT, env=child.environment(), capture_output=True, text=True, check=True, timeout=60)
    for name in listed.stdout.splitlines():
        if (home.CHECKOUT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(home.CHECKOUT / name, to / name)
    return to


def swap(path: Path, before: str, after: str) -> None:
    """Replace what is in `path` exactly once."""
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{path} has {text.count(before)} times: {before}"
    path.write_text(text.replace(before, after), encoding="utf-8")
