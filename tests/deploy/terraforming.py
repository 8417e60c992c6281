"""Terraform on a copy of the checkout's files, so that a test may change them and leaves no state behind."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops import home
from shared import topics
from tests import stack

PROGRAM = shutil.which("terraform") or "terraform"
FILES = home.CHECKOUT / "infra" / "terraform"


@dataclass
class Place:
    """A copy, and the variables that each command gets."""

    folder: Path
    module: str = ""
    variables: dict[str, Any] = field(default_factory=dict)
    only: list[str] = field(default_factory=list)  # addresses; a test of one server leaves out what is the other's

    @property
    def root(self) -> Path:
        """Where its commands run."""
        return self.folder / "infra" / "terraform" / self.module

    @property
    def contracts(self) -> Path:
        """Its copy of contracts/."""
        return self.folder / "contracts"

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        """One terraform command, with no terminal and no colour."""
        environ = os.environ | {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"} | dict(env or {})
        return subprocess.run(
            [PROGRAM, *arguments, "-no-color"], cwd=self.root, env=environ, capture_output=True, text=True, check=False, timeout=100
        )

    def apply(self) -> str:
        """Apply the variables; what was printed. Fails the test when it does not work."""
        done = self._with_variables("apply", "-auto-approve")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def plan(self) -> dict[str, list[str]]:
        """What would be done with each resource that would change: its address and actions. Fails the test when there is no plan."""
        file = self.folder / "plan"
        done = self._with_variables("plan", f"-out={file}")
        assert done.returncode == 0, done.stderr
        shown = json.loads(self.run("show", "-json", str(file)).stdout)
        return {change["address"]: change["change"]["actions"] for change in shown["resource_changes"] if _changes(change)}

    def refusal(self, *options: str) -> str:
        """Why there is no plan, in one line. Fails the test when there is one."""
        done = self._with_variables("plan", *options)
        assert done.returncode == 1, done.stdout
        return " ".join(done.stderr.split())

    def output(self, name: str) -> Any:
        """One output's value, also a sensitive one's."""
        return json.loads(self.run("output", "-json", name).stdout)

    def edit(self, change: Callable[[str], str], file: str = "topics.yaml") -> None:
        """Change its copy of a file in contracts/. Fails the test when nothing changes."""
        path = self.contracts / file
        before = path.read_text(encoding="utf-8")
        after = change(before)
        assert before != after
        path.write_text(after, encoding="utf-8")

    def copy(self, to: Path) -> "Place":
        """Another place with the same files, providers and state."""
        shutil.copytree(self.folder, to, symlinks=True)
        return Place(to, self.module, dict(self.variables))

    def _with_variables(self, command: str, *options: str) -> "subprocess.CompletedProcess[str]":
        file = self.folder / "given.tfvars.json"
        file.write_text(json.dumps(self.variables), encoding="utf-8")
        targets = [f"-target={address}" for address in self.only]
        # One at a time: where several start at once, the Kafka provider's client can take a connection for open before it is.
        return self.run(command, "-input=false", "-parallelism=1", f"-var-file={file}", *targets, *options)


def place(folder: Path, module: str = "") -> Place:
    """A copy in `folder`, not initialised."""
    leave = shutil.ignore_patterns(".terraform*", "*.tfstate*", "*_override.tf")
    shutil.copytree(FILES, folder / "infra" / "terraform", ignore=leave)
    shutil.copytree(home.CHECKOUT / "contracts", folder / "contracts")
    return Place(folder, module)


def contract(folder: Path, brokers: int, change: Callable[[str], str] | None = None, **more: Any) -> dict[str, Any]:
    """The outputs of the module that reads contracts/, which needs terraform alone."""
    made = place(folder, "modules/contract")
    if change is not None:
        made.edit(change)
    made.variables = {"folder": str(made.contracts), "brokers": brokers, **more}
    started = made.run("init")
    assert started.returncode == 0, started.stderr
    made.apply()
    return {name: output["value"] for name, output in json.loads(made.run("output", "-json").stdout).items()}


def local(kafka: stack.KafkaServer | None = None, server: stack.PostgresServer | None = None, **more: Any) -> dict[str, Any]:
    """The variables of environments/local.tfvars, at these servers."""
    return {
        "environment": "local",
        "kafka": {"brokers": [kafka.brokers if kafka else "127.0.0.1:1"], "tls": False},
        "kafka_brokers_count": 1,
        "postgres": {
            "host": "127.0.0.1", "port": server.port if server else 1, "username": "order_user", "superuser": False,
            "sslmode": "disable", "create_database": False,
        },
        "postgres_password": "order_password",
        "laptop_passwords": True,
        **more,
    }  # fmt: skip


def topic_names() -> set[str]:
    """Every topic of contracts/topics.yaml."""
    return {topic.name for topic in topics.read().all()}


def _changes(change: dict[str, Any]) -> bool:
    return change["change"]["actions"] != ["no-op"] or "importing" in change["change"]
