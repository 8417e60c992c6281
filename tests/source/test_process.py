"""`python -m connectors.kafka_source` as a process: killed, ended in good order, asked over HTTP, started with wrong settings."""

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from ops import child
from tests import stack
from tests.conftest import StartProcess
from tests.source import sinks
from tests.source.conftest import Group, write_manifest


class Start(Protocol):
    def __call__(self, group: Group, *, env: dict[str, str] | None = None, **changes: Any) -> stack.Process: ...


# The real program, whose reader meets something that nobody foresaw.
FAILING = """
from connectors.kafka_source import __main__, consumer
consumer.Reader._turn = lambda _self: 1 / 0
raise SystemExit(__main__.main())
"""


@pytest.fixture
def start(tmp_path: Path, start_process: StartProcess) -> Start:
    """start(group, env={…}, **changes of the manifest) -> the process, whose control HTTP answers."""

    def started(group: Group, *, env: dict[str, str] | None = None, **changes: Any) -> stack.Process:
        path = write_manifest(tmp_path / "sources.yaml", [group.document(**changes)])
        (port,) = child.free_ports(1)
        process = start_process(
            [sys.executable, "-m", "connectors.kafka_source", "--manifest", str(path), "--control-port", str(port)],
            {"KAFKA_BROKERS": group.brokers, "SINK_URLS": group.sink_urls, "SHUTDOWN_TIMEOUT": "3s", **(env or {})},
            f"http://127.0.0.1:{port}",
        )
        process.wait_ready()
        return process

    return started


def test_L03_kill_9_and_restart_lose_nothing(group: Group, start: Start) -> None:
    """Killed in the middle, again and again, every event is handled in the end, and none got a letter."""
    group.sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, after_s=0.01))
    group.produce(*(b'{"n": %d}' % n for n in range(3000)))
    process = start(group, size=10, flight=2, env={"KAFKA_GROUP_PROTOCOL": "consumer"})
    for least in (300, 900):
        stack.eventually(lambda least=least: len(group.sink.events) >= least, f"{least} events")  # type: ignore[misc]
        process.kill()
        assert (group.committed() or 0) <= len({event.offset for event in group.sink.events})
        process.start()
    group.wait_committed(3000)
    assert {event.json["n"] for event in group.sink.events} == set(range(3000))
    assert group.failed == []


def test_L18_a_source_that_was_deleted_and_deployed_again_goes_on_where_it_was(group: Group, start: Start) -> None:
    """What came while there was no source is delivered, what was handled before is not: the group keeps the place, not the source."""
    group.produce(*(b'{"n": %d}' % n for n in range(5)))
    first = start(group)
    group.wait_committed(5)
    assert first.stop() == 0
    group.produce(*(b'{"n": %d}' % n for n in range(5, 8)))

    start(group, size=4, timeout="PT20S")  # another version of its manifest, in another process

    group.wait_committed(8)
    assert [*range(8)] == [event.json["n"] for event in group.sink.events]


def test_SIGTERM_ends_what_is_in_flight_commits_and_exits_0(group: Group, start: Start) -> None:
    """No new delivery begins after SIGTERM; the one in flight ends and is committed; the group is left at once."""
    ending = threading.Event()
    group.sink.script = sinks.each(lambda _: sinks.Reply(200, {"outcome": "done"}, until=ending.is_set))
    group.produce(b"1", b"2", b"3")
    process = start(group, env={"SHUTDOWN_TIMEOUT": "30s"})
    stack.eventually(lambda: len(group.sink.events) == 1, "the first delivery")
    process.send(signal.SIGTERM)
    stack.eventually(lambda: state_of(process, group) == "stopped", "the source to end")
    ending.set()
    assert process.wait() == 0
    assert len(group.sink.events) == 1
    assert group.committed() == 1
    assert group.members() == []
    start(group)
    stack.eventually(lambda: len(group.sink.events) == 3, "the other two deliveries")


def state_of(process: stack.Process, group: Group) -> str:
    return str(httpx.get(f"{process.url}/sources", timeout=30).json()["sources"][group.name]["state"])


def test_the_control_http(group: Group, start: Start) -> None:
    """Health, status, pause with a reason, resume, metrics; 404 for a source that is not there."""
    process = start(group)
    stack.eventually(lambda: state_of(process, group) == "running", "running")
    found = httpx.get(f"{process.url}/sources", timeout=30).json()["sources"][group.name]
    assert (found["topic"], found["group"], found["function"], found["partitions"]) == (group.topic, group.name, f"{group.sink.url}/", [0])
    paused = httpx.post(f"{process.url}/sources/{group.name}/pause", json={"reason": "a deployment"}, timeout=30)
    assert (paused.status_code, paused.json()["state"], paused.json()["reason"]) == (200, "paused", "a deployment")
    assert f'orderflow_source_paused{{by="hand",source="{group.name}"}} 1.0' in httpx.get(f"{process.url}/metrics", timeout=30).text
    assert httpx.post(f"{process.url}/sources/{group.name}/resume", timeout=30).json()["state"] == "running"
    assert httpx.post(f"{process.url}/sources/nobody/pause", timeout=30).status_code == 404
    assert httpx.post(f"{process.url}/sources/{group.name}/pause", content=b"{", timeout=30).json()["reason"] == "paused by hand"
    assert process.stop(signal.SIGINT) == 0


def test_wrong_settings_are_all_listed_and_end_it_with_2(group: Group, tmp_path: Path, start_process: StartProcess) -> None:
    """Every fault of the manifest is named by document and field; nothing is read."""
    document = group.document(ordering="sorted", topics=[])
    del document["spec"]["delivery"]["deadLetterSink"]
    path = write_manifest(tmp_path / "sources.yaml", [document])
    process = start_process([sys.executable, "-m", "connectors.kafka_source", "--manifest", str(path), "--control-port", "0"])
    assert process.wait() == 2
    for field in ("spec.ordering", "spec.topics", "spec.delivery.deadLetterSink"):
        assert f"({group.name}): {field}: " in process.text


def test_a_source_that_fails_ends_the_process_loudly(group: Group, tmp_path: Path, start_process: StartProcess) -> None:
    """A fault that no repetition heals ends the process with 1, so that whoever watches it sees it."""
    path = write_manifest(tmp_path / "sources.yaml", [group.document()])
    command = [sys.executable, "-c", FAILING, "--manifest", str(path), "--control-port", "0"]
    process = start_process(command, {"KAFKA_BROKERS": group.brokers, "SINK_URLS": group.sink_urls})
    assert process.wait() == 1
    assert "ZeroDivisionError" in process.text


def test_a_setting_that_no_client_takes_ends_the_process_before_it_begins(
    group: Group, tmp_path: Path, start_process: StartProcess
) -> None:
    """Exit code 2, and the setting by the name that it has here."""
    path = write_manifest(tmp_path / "sources.yaml", [group.document()])
    command = [sys.executable, "-m", "connectors.kafka_source", "--manifest", str(path), "--control-port", "0"]
    wrong = {"KAFKA_SSL_CA_LOCATION": "/nowhere/ca.pem", "KAFKA_SECURITY_PROTOCOL": "SSL"}
    process = start_process(command, wrong | {"KAFKA_BROKERS": group.brokers, "SINK_URLS": group.sink_urls})
    assert process.wait() == 2
    assert "KAFKA_SSL_CA_LOCATION" in process.text


def test_a_taken_control_port_ends_the_process(group: Group, tmp_path: Path, start_process: StartProcess) -> None:
    """The port of another process: the source says so and ends with 1 instead of running unseen."""
    path = write_manifest(tmp_path / "sources.yaml", [group.document()])
    port = str(group.sink.port)
    process = start_process(
        [sys.executable, "-m", "connectors.kafka_source", "--manifest", str(path), "--control-port", port],
        {"KAFKA_BROKERS": group.brokers, "SINK_URLS": group.sink_urls},
    )
    assert process.wait() == 1
    assert any("control port" in json.loads(line)["message"] for line in process.text.splitlines() if line.startswith("{"))
