"""A record's value in the editor of whoever works here."""

import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from ops import terminal
from ops.dlq import edit
from shared import errors

EDITOR = "vi"


def edited(value: bytes | None) -> bytes:
    """What comes back from $VISUAL or $EDITOR. JSON is shown indented, and goes back to one line. Raises Refused."""
    try:
        text = (value or b"").decode()
    except UnicodeDecodeError as exc:
        raise errors.Refused("the value is not UTF-8, so no editor can show it; --file gives a whole one", code="not_text") from exc
    try:
        document = json.loads(text)
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    except (ValueError, RecursionError):
        document = None
    back = _opened(text)
    try:
        found = json.loads(back)
    except (ValueError, RecursionError) as exc:
        raise errors.Refused(f"what came back is not JSON: {exc}", code="not_json") from exc
    return edit.dumped(found) if document is None else edit.as_value(found, value)


def _opened(text: str) -> str:
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or EDITOR)
    with tempfile.TemporaryDirectory(prefix="orderflow-") as folder:
        file = Path(folder) / "value.json"
        file.write_text(text, encoding="utf-8")
        file.chmod(0o600)
        try:
            done = subprocess.run([*command, str(file)], check=False)
            back = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise terminal.usage(f"{command[0]}: {exc}") from exc
    if done.returncode:
        raise errors.Refused(f"{command[0]} ended with {done.returncode}: nothing was changed", code="no_edit")
    return back
