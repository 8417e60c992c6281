"""The state folder: jars, data, logs and the file that says what runs, all below one ignored folder."""

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import errors

_LOOK_S = 0.5  # longer than anybody holds a lock only to see whether it is free

CHECKOUT = Path(__file__).resolve().parent.parent


def folder() -> Path:
    """ORDERFLOW_HOME, else .orderflow in the checkout. It is made when it is missing."""
    found = Path(os.environ.get("ORDERFLOW_HOME") or CHECKOUT / ".orderflow").absolute()
    found.mkdir(parents=True, exist_ok=True)
    return found


@contextlib.contextmanager
def locked(file: Path, *, wait: bool, refusal: str = "") -> Iterator[None]:
    """Hold `file` locked; the kernel lets go of it when this process ends. Without `wait` it raises Unavailable(`refusal`)."""
    with file.open("a", encoding="utf-8") as held:
        deadline = time.monotonic() + _LOOK_S
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                break
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    raise errors.Unavailable(refusal, code="running") from exc
                time.sleep(0.05)
        yield


def is_locked(file: Path) -> bool:
    """Whether a process holds `file` locked now."""
    with file.open("a", encoding="utf-8") as looked_at:
        try:
            fcntl.flock(looked_at, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def write(file: Path, text: str, mode: int = 0o644) -> None:
    """Write `file` so that a reader sees the old text or the new, never a part."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
        Path(name).chmod(mode)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def lock_file(of: Path) -> Path:
    """What `orderflow up` holds locked while it runs."""
    return of / "lock"


def run_file(of: Path) -> Path:
    """Where `orderflow up` writes what it runs."""
    return of / "run.json"


def read_run(of: Path) -> dict[str, Any] | None:
    """What `orderflow up` runs now, or None when no `up` of this folder is alive."""
    found = last_run(of)
    return found if found and is_locked(lock_file(of)) else None


def last_run(of: Path) -> dict[str, Any]:
    """What the last `orderflow up` wrote, alive or not."""
    try:
        found: dict[str, Any] = json.loads(run_file(of).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def demand_owner(path: Path, uid: int, what: str) -> None:
    """Raise Unavailable when `path` belongs to somebody else than `uid`."""
    owner = path.stat().st_uid
    if owner != uid:
        raise errors.Unavailable(
            f"{what} in {path} belongs to user {owner} and would be used by user {uid}: remove that folder (it holds local data only), "
            "or choose another with ORDERFLOW_HOME",
            code="stale_folder",
        )
