"""How a process is started so that it never outlives its parent, and how free ports and taken ones are told apart."""

import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from shared import errors

LOOPBACK = "127.0.0.1"
# Below those that the kernel gives to outgoing connections: none of them can take a port before the process that it is for listens.
_PORTS = range(10_000, 20_000)
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "JAVA_HOME", "SSL_CERT_FILE", "VIRTUAL_ENV", "USER")


def guarded(
    command: Sequence[str], dies_by: signal.Signals = signal.SIGKILL, *, user: str | None = None, reads: Sequence[Path] = ()
) -> list[str]:
    """`command`, so started that the kernel sends it `dies_by` when the thread that started it is gone.

    With `user` it runs as that account (root only). Where it could not get at one of `reads` because a folder above it is closed to
    others, such as a checkout below a 0700 folder, it also gets the one capability to search and read, and no other.
    Start it from a thread that lives as long as the parent. Raises Unavailable when setpriv, of util-linux, is needed and missing.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if user is not None:
            raise errors.Unavailable("PostgreSQL refuses to run as root, and setpriv, which would change the user, is missing: "
                                     "install util-linux, or run this as another user", code="setpriv_missing")  # fmt: skip
        return list(command)
    prefix = [setpriv, f"--pdeathsig={dies_by.name.removeprefix('SIG')}"]
    if user is not None:
        account = pwd.getpwnam(user)
        prefix += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--no-new-privs"]
        if not all(_open_to_others(path) for path in reads):
            only = "-all,+dac_read_search"
            # no_setuid_fixup: without it access(2) ignores capabilities after a change of user, and PostgreSQL asks it for its own path.
            prefix += ["--securebits=+no_setuid_fixup", f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"]
    return [*prefix, "--", *command]


def end(process: subprocess.Popen[Any], within_s: float) -> None:
    """Ask `process` to end, and after `within_s` make it."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment(**added: str) -> dict[str, str]:
    """What every child gets of this process's environment, and `added`."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | added


def free_ports(count: int) -> list[int]:
    """So many ports on which nothing listens now. This process is given none of them again soon."""
    return list(itertools.islice((port for port in _candidates if is_free(port)), count))


def demand_ports(wanted: Mapping[str, int], way_out: str) -> None:
    """Raise Unavailable when a port of `wanted` (what it is for → port) is taken: all of them, with the process that holds each."""
    faults = [f"port {port} ({what}) is taken by {_holder(port)}" for what, port in wanted.items() if not is_free(port)]
    if faults:
        raise errors.Unavailable("\n  ".join([*faults, way_out]), code="port_taken")


def is_free(port: int) -> bool:
    """Whether nothing listens on `port` of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {process.pid} ({' '.join(process.cmdline())[:80] or process.name()})"
    except psutil.Error:
        pass
    return "a process of another user"


def _ports() -> Iterator[int]:
    """Round and round, from a place that two processes hardly share."""
    first = secrets.randbelow(len(_PORTS))
    return itertools.cycle([*_PORTS[first:], *_PORTS[:first]])


_candidates = _ports()


def _open_to_others(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents if folder.exists())
