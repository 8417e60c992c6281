"""Toxiproxy's server, built once by Go into the state folder: module and version are pinned, and the module's hash is checked."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ops import home
from shared import errors

MODULE = "github.com/Shopify/toxiproxy/v2"
VERSION = "v2.7.0"  # the last that asks for no more than Go 1.19, which is Debian 12's; the next ones want 1.22 and above
MODULE_SUM = "h1:Zz2jdyqtYw1SpihfMWzLFGpOO92p9effjAkURG57ifc="
_BUILD_S = 600.0


def fetch(state: Path, say: Callable[[str], None] = lambda _line: None) -> Path:
    """The server's program in `state`, built where it is missing. Blocks. Raises Unavailable."""
    program = state / f"toxiproxy-{VERSION}"
    with home.locked(state / "toxiproxy.lock", wait=True):
        if program.exists():
            return program
        go = shutil.which("go")
        if go is None:
            raise errors.Unavailable(
                "connections are slowed and cut by Toxiproxy, which Go 1.19 or later builds, and there is no `go`: "
                "install it (on Debian and Ubuntu: apt-get install golang-go)",
                code="go_missing",
            )
        say(f"building Toxiproxy {VERSION} with Go (once)")
        with tempfile.TemporaryDirectory(dir=state, prefix=".toxiproxy-") as aside:
            told = json.loads(_run([go, "mod", "download", "-json", f"{MODULE}@{VERSION}"], aside))
            if told.get("Sum") != MODULE_SUM:
                raise errors.Unavailable(f"{MODULE} {VERSION} is not what it was: its hash is {told.get('Sum')}", code="toxiproxy_differs")
            _run([go, "install", f"{MODULE}/cmd/server@{VERSION}"], aside)
            (Path(aside) / "server").rename(program)
    return program


def _run(command: list[str], bin_folder: str) -> str:
    env = os.environ | {"GOBIN": bin_folder, "GOFLAGS": "-buildvcs=false -modcacherw", "CGO_ENABLED": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=bin_folder, timeout=_BUILD_S)
    except subprocess.TimeoutExpired as exc:
        raise errors.Unavailable(f"Go took more than {_BUILD_S:.0f} s over Toxiproxy: is the network there?", code="go_failed") from exc
    if done.returncode:
        said = "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise errors.Unavailable(f"Go could not build Toxiproxy; is the network there, and Go 1.19 or later? It said:\n  {said}",
                                 code="go_failed")  # fmt: skip
    return done.stdout
