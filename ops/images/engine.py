"""A Docker engine and a base image where there is neither: dockerd started by hand, and a Debian with Python made on this machine.

For CI, and for whoever may not pull images. Nothing is set up on the machine: the engine's data, socket and process end with the block,
it has no bridge and no firewall rules, so builds and containers use the host's network.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from ops import child
from ops.images import build
from ops.images.build import DockerFailed, docker

PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
SUITE = "bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_START_S, _STOP_S = 30.0, 30.0
# As the public Python image: no .pyc of the standard library.
_NO_PYC = 'find "$1/usr/lib/python3.11" -name __pycache__ -prune -exec rm -rf {} +'


class NoEngine(build.DockerFailed):
    """Neither does an engine answer, nor can one be started."""

    code = "no_engine"


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """An environment in which the docker client finds an engine: the one that answers already, else one of our own until the block ends.

    Raises NoEngine.
    """
    given = dict(os.environ)
    with contextlib.suppress(DockerFailed):
        docker("version", environ=given)
        yield given
        return
    program = shutil.which("dockerd")
    # Without a bridge, dockerd removes the one that it finds, and with it the network of an engine that runs.
    others = [process.pid for process in psutil.process_iter(["name"]) if process.info["name"] == "dockerd"]
    if others:
        raise NoEngine(f"a Docker engine runs (process {others[0]}) that does not answer here: name its socket in DOCKER_HOST")
    if program is None or shutil.which("docker") is None or os.geteuid():
        raise NoEngine("no Docker engine answers, and to start one takes root, docker and dockerd")
    folder = Path(tempfile.mkdtemp(prefix="orderflow-docker-"))
    socket = f"unix://{folder}/docker.sock"
    parts = ["--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "docker.pid"]
    command = [program, "--host", socket, *map(str, parts), "--bridge=none", "--iptables=false", "--ip6tables=false"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(child.guarded(command, signal.SIGTERM), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        found = given | {"DOCKER_HOST": socket, "BUILD_NETWORK": "host"}
        _wait(process, found, folder / "log.txt")
        yield found
    finally:
        child.end(process, _STOP_S)
        # The network namespace that dockerd keeps open is a mount, which outlives it.
        if umount := shutil.which("umount"):
            subprocess.run([umount, "--lazy", folder / "exec" / "netns" / "default"], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


def base(environ: Mapping[str, str], cache: Path) -> str:
    """BASE_IMAGE, else a base image made on this machine. What it is made from is kept in `cache`. Raises NoEngine."""
    if environ.get("BASE_IMAGE"):
        return environ["BASE_IMAGE"]
    maker = shutil.which("mmdebstrap")
    if maker is None:
        raise NoEngine("BASE_IMAGE names no base image, and to make one takes mmdebstrap")
    hooks = [_NO_PYC] + ([f"copy-in {CERTIFICATES} {CERTIFICATES.parent}"] if CERTIFICATES.exists() else [])
    command = [maker, "--quiet", "--variant=minbase", f"--include={PACKAGES}", *(f"--customize-hook={hook}" for hook in hooks), SUITE]
    made_from = repr(command).encode() + (CERTIFICATES.read_bytes() if CERTIFICATES.exists() else b"")
    tar = cache / f"base-{hashlib.sha256(made_from).hexdigest()[:16]}.tar"
    if not tar.exists():
        cache.mkdir(parents=True, exist_ok=True)
        aside = tar.with_suffix(f".{os.getpid()}.tar")
        done = subprocess.run([*command, str(aside)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            aside.unlink(missing_ok=True)
            raise NoEngine(f"the base image cannot be made: {done.stderr.strip()[-2000:]}")
        aside.rename(tar)
    # Debian's pip trusts the system's certificates; that of the public image is told to by this variable.
    settings = ["--change", f"ENV PIP_CERT={CERTIFICATES}"] if CERTIFICATES.exists() else []
    return _import(environ, tar, "python:3.11-bookworm", *settings)


def watchdog(environ: Mapping[str, str], stand_in: Path) -> str:
    """WATCHDOG_IMAGE, else an image with `stand_in` in the watchdog's place."""
    if environ.get("WATCHDOG_IMAGE"):
        return environ["WATCHDOG_IMAGE"]
    with tempfile.TemporaryDirectory(prefix="orderflow-watchdog-") as folder:
        shutil.copy(stand_in, Path(folder) / "fwatchdog")
        tar = Path(shutil.make_archive(f"{folder}/image", "tar", folder, "fwatchdog"))
        return _import(environ, tar, "watchdog-stand-in:latest")


def _import(environ: Mapping[str, str], tar: Path, name: str, *options: str) -> str:
    tag = f"orderflow.local/{name}"
    docker("import", *options, str(tar), tag, environ=environ)
    return tag


def _wait(process: subprocess.Popen[bytes], environ: Mapping[str, str], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            docker("version", environ=environ)
        except DockerFailed as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace")[-1500:]
                raise NoEngine(f"dockerd does not start here: {said}") from exc
            time.sleep(0.1)
        else:
            return
