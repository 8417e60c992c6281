"""`orderflow kafka`: a real broker in the background."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ops import child, home, kafka_command, topics_command
from tests.ops import commands


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A state folder of this test's own; its broker is gone after it. The jars are those of the checkout's folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    shared = home.folder()
    for name in ("kafka-jars", "kafka-jars.lock"):
        (folder / name).symlink_to(shared / name)
    yield folder
    commands.run(kafka_command.app, "down", env={"ORDERFLOW_HOME": str(folder)})


@pytest.mark.usefixtures("kafka_brokers")  # it fetches the jars
def test_the_broker_outlives_the_command_keeps_its_data_and_forgets_them_when_told(state: Path) -> None:
    env = {"ORDERFLOW_HOME": str(state)}
    port, controller_port = child.free_ports(2)
    brokers = {"KAFKA_BROKERS": f"127.0.0.1:{port}"} | env
    up = ["up", "--port", str(port), "--controller-port", str(controller_port)]

    assert commands.run_alone("kafka_command", *up, env=env).code == 0
    assert commands.run(topics_command.app, "create", "test-topic", env=brokers).code == 0
    again = commands.run_alone("kafka_command", *up, env=env)
    assert (again.code, "runs already" in again.err) == (0, True)
    process = psutil.Process(json.loads((state / "kafka.json").read_text(encoding="utf-8"))["pid"])

    assert commands.run(kafka_command.app, "down", env=env).code == 0
    assert not psutil.pid_exists(process.pid) or process.status() == psutil.STATUS_ZOMBIE
    assert "was not running" in commands.run(kafka_command.app, "down", env=env).err

    assert commands.run_alone("kafka_command", *up, env=env).code == 0
    found = commands.run(topics_command.app, "list", "--json", env=brokers).json()
    assert next(of for of in found if of["topic"] == "test-topic")["partitions"] == 1

    unanswered = commands.run(kafka_command.app, "reset", env=env)
    assert (unanswered.code, (state / "kafka").exists()) == (2, True)
    assert commands.run(kafka_command.app, "reset", "--yes", env=env).code == 0
    assert not (state / "kafka").exists()


def test_a_taken_port_is_named_with_its_process_and_the_way_out(state: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]

        ran = commands.run(kafka_command.app, "up", "--port", str(port), env={"ORDERFLOW_HOME": str(state)})

    assert ran.code == 1
    assert f"port {port} (Kafka) is taken by process" in ran.err
    assert "--port" in ran.err


def test_a_broker_that_orderflow_up_runs_is_left_to_it(state: Path) -> None:
    env = {"ORDERFLOW_HOME": str(state)}
    home.write(home.run_file(state), json.dumps({"kafka": {"brokers": "127.0.0.1:19092"}}))

    with home.locked(home.lock_file(state), wait=False):
        up = commands.run(kafka_command.app, "up", env=env)
        down, reset = (commands.run(kafka_command.app, *arguments, env=env) for arguments in (["down"], ["reset", "--yes"]))

    assert (up.code, "127.0.0.1:19092 already, as a part of `orderflow up`" in up.err) == (0, True)
    assert [(ran.code, "Ctrl-C there ends it" in ran.err) for ran in (down, reset)] == [(1, True), (1, True)]


def test_a_file_of_a_process_that_is_gone_or_another_is_not_taken_for_a_broker(state: Path) -> None:
    me = psutil.Process()
    for told in ({"pid": me.pid, "started": me.create_time() - 100}, {"pid": 2**22 + 1, "started": 0}, {}):
        (state / "kafka.json").write_text(json.dumps(told), encoding="utf-8")

        assert "was not running" in commands.run(kafka_command.app, "down", env={"ORDERFLOW_HOME": str(state)}).err
