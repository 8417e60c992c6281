"""What holds for every command: help for each option, colours only on a terminal, and a Makefile that lists its targets."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
import typer

from ops import child, contracts, events_command, home, kafka_command, outbox_command, sources_command, topics_command
from tests.conftest import MakeTopic
from tests.ops import commands

APPS = {
    "topics": topics_command.app,
    "event": events_command.app,
    "outbox": outbox_command.app,
    "sources": sources_command.app,
    "contracts": contracts.app,
    "kafka": kafka_command.app,
}
MAKE = shutil.which("make") or "make"
TARGETS = {
    *("demo", "run", "test", "check", "format", "lint", "types", "contracts", "clean", "help", "migrate", "order-run", "assembly-run"),
    *("notification-run", "kafka-up", "kafka-down", "kafka-reset", "kafka-topics-create", "kafka-create-topics", "kafka-topics"),
    *("kafka-describe", "kafka-topic-delete", "kafka-producer", "kafka-consumer", "kafka-consume-payment", "kafka-consume-assembly"),
    *("kafka-consume-dlq", "kafka-tail-payment", "kafka-tail-assembly", "kafka-tail-notification-dlq", "kafka-playground"),
}


def test_every_argument_and_option_of_every_command_has_a_help_text() -> None:
    found = [
        f"{name}: {parameter.name}" for name, command in _commands() for parameter in command.params if not getattr(parameter, "help", "")
    ]

    assert found == []


def test_every_command_says_what_it_does() -> None:
    assert [name for name, command in _commands() if not command.help] == []


def _commands() -> Iterator[tuple[str, click.Command]]:
    for group, app in APPS.items():
        for name, command in typer.main.get_group(app).commands.items():
            yield f"{group} {name}", command


def test_colours_are_for_a_terminal_only() -> None:
    assert "\x1b[" in _on_a_terminal(commands.command("contracts", "check"))

    piped = subprocess.run(
        commands.command("contracts", "check"), capture_output=True, check=True, cwd=home.CHECKOUT, env=child.environment()
    )
    assert b"\x1b" not in piped.stdout + piped.stderr


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, True), (b"y\n", 0, False)])
def test_what_cannot_be_undone_is_asked_on_a_terminal(
    answer: bytes, code: int, left: bool, kafka_brokers: str, make_topic: MakeTopic
) -> None:
    topic, env = make_topic(), {"KAFKA_BROKERS": kafka_brokers}

    shown = _on_a_terminal(commands.command("topics_command", "delete", topic), answer, code, env)

    assert f"Delete {topic} and every record in it?" in shown
    assert (topic in {of["topic"] for of in commands.run(topics_command.app, "list", "--json", env=env).json()}) == left


def _on_a_terminal(command: list[str], answer: bytes = b"", code: int = 0, env: Mapping[str, str] | None = None) -> str:
    ours, theirs = pty.openpty()
    more = {"TERM": "xterm-256color"} | dict(env or {})
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=home.CHECKOUT, env=child.environment(**more))
    os.close(theirs)
    os.write(ours, answer)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(60) == code
    return shown.decode()


def test_the_root_command_mounts_each_of_them() -> None:
    for name in APPS:
        done = subprocess.run(
            [sys.executable, "-c", "from ops.command import main; main()", name, "--help"],
            capture_output=True, text=True, check=True, cwd=home.CHECKOUT, env=child.environment(),
        )  # fmt: skip
        assert f"orderflow {name}" in done.stdout


@pytest.fixture(scope="module")
def make_help() -> dict[str, str]:
    """Each target that `make help` lists, with its text."""
    done = _make("help")
    return dict(re.findall(r"^  make (\S+) +(.+)$", done.stdout, re.MULTILINE))


def test_make_help_lists_every_target_with_a_text(make_help: dict[str, str]) -> None:
    assert TARGETS - make_help.keys() == set()
    assert all(make_help.values())


def test_make_without_a_target_is_its_help() -> None:
    assert _make().stdout == _make("help").stdout


def test_every_target_that_help_lists_is_one_that_make_knows(make_help: dict[str, str]) -> None:
    for target in make_help:
        done = _make("--dry-run", target, "TOPIC=t")
        assert done.returncode == 0, f"{target}: {done.stderr}"


def test_make_uses_the_topics_names_of_the_environment() -> None:
    done = _make("--dry-run", "kafka-tail-notification-dlq", KAFKA_NOTIFICATION_DLQ_TOPIC="my-letters")

    assert "topics consume my-letters" in done.stdout


def test_a_target_that_needs_a_topic_says_so() -> None:
    done = _make("kafka-describe")

    assert (done.returncode, "say which: make kafka-describe TOPIC=" in done.stderr) == (2, True)


def _make(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    # A stamp that is there: these tests are about the targets, and must not build an environment.
    stamp = subprocess.run(
        [MAKE, "--no-print-directory", "--eval", "stamp: ; @echo $(STAMP)", "stamp"],
        capture_output=True, text=True, check=True, cwd=home.CHECKOUT, env=child.environment(),
    ).stdout.strip()  # fmt: skip
    command = [MAKE, "--no-print-directory", "--assume-old", stamp, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=home.CHECKOUT, env=child.environment(**env))


def test_commands_find_functions_and_sources_where_orderflow_up_put_them_while_it_runs(tmp_path: Path) -> None:
    told = {"functions": {"notify": {"url": "http://127.0.0.1:1"}}, "sources_url": "http://127.0.0.1:2"}
    (tmp_path / "run.json").write_text(json.dumps(told), encoding="utf-8")
    event, env = commands.run(events_command.app, "new", "OrderPaid").out, {"ORDERFLOW_HOME": str(tmp_path)}

    with home.locked(home.lock_file(tmp_path), wait=False):
        sent = commands.run(events_command.app, "send", "notify", given=event, env=env)
        listed = commands.run(sources_command.app, "list", env=env)

    assert ("http://127.0.0.1:1 gave no answer" in sent.err, "http://127.0.0.1:2/sources" in listed.err) == (True, True)
