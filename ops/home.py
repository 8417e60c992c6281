"""The state folder: jars, data, logs and the file that says what runs, all below one ignored folder."""

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import errors

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
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as exc:
            raise errors.Unavailable(refusal, code="running") from exc
        yield


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


def run_file(of: Path) -> Path:
    """Where `orderflow up` writes what it runs."""
    return of / "run.json"


def read_run(of: Path) -> dict[str, Any] | None:
    """What `orderflow up` runs now, or None when no `up` of this folder is alive."""
    try:
        found: dict[str, Any] = json.loads(run_file(of).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    with contextlib.suppress(errors.Unavailable), locked(of / "lock", wait=False):
        return None  # nobody holds the lock, so whoever wrote the file is gone
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
