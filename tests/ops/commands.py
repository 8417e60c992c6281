"""A command run as a person runs it, in this process: its exit code, what it printed, and where."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import typer
from typer.testing import CliRunner

from ops import child, home


class Ran:
    """One finished command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        """What it printed, as JSON. Fails the test when the command failed."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """What it printed, a JSON value a line."""
        assert self.code == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]


def run(app: typer.Typer, *arguments: str, env: Mapping[str, str] | None = None, given: bytes | str = b"") -> Ran:
    """Run `app` with standard input `given`; no terminal is there. Fails the test on a stack trace."""
    result = CliRunner().invoke(app, list(arguments), env=dict(env or {}), input=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def run_alone(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run the command in a process of its own, for one that starts others: they are to outlive it."""
    done = subprocess.run(
        command(module, *arguments), capture_output=True, text=True, check=False, cwd=home.CHECKOUT, env=child.environment(**(env or {}))
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def command(module: str, *arguments: str) -> list[str]:
    """How to start a command in a process of its own."""
    return [sys.executable, "-c", f"from ops import {module}; {module}.app(prog_name='orderflow')", *arguments]


def python(module: str) -> list[str]:
    """How to start a module of ours as a process."""
    return [sys.executable, "-m", module]
