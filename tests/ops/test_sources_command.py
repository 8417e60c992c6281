"""`orderflow sources` on a real source process."""

import re
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ops import home, sources_command
from tests.conftest import MakeTopic, StartProcess
from tests.ops import commands
from tests.stack import eventually

Run = Callable[..., commands.Ran]


@pytest.fixture
def run(kafka_brokers: str, make_topic: MakeTopic, start_process: StartProcess, tmp_path: Path) -> Run:
    """run(*arguments) -> a finished `orderflow sources` command, about one running source."""
    topic = make_topic()
    manifest = tmp_path / "sources.yaml"
    ours = (home.CHECKOUT / "infra" / "knative" / "sources.yaml").read_text(encoding="utf-8").split("\n---\n")[0]
    manifest.write_text(ours.replace("topics: [order.payment.completed]", f"topics: [{topic}]"), encoding="utf-8")
    process = start_process(
        [*commands.python("connectors.kafka_source"), "--manifest", str(manifest), "--control-port", "0"],
        {"KAFKA_BROKERS": kafka_brokers, "KAFKA_ASSEMBLY_CONSUMER_GROUP_ID": topic, "SINK_URL_TEMPLATE": "http://127.0.0.1:9/{name}"},
    )
    return lambda *arguments: commands.run(sources_command.app, *arguments, env={"SOURCE_CONTROL_URL": _listening(process.pid)})


def _listening(pid: int) -> str:
    def port() -> int:
        found = [of.laddr.port for of in psutil.Process(pid).net_connections("tcp") if of.status == psutil.CONN_LISTEN]
        return found[0] if found else 0

    return f"http://127.0.0.1:{eventually(port, 'the control port')}"


def test_list_shows_each_source_with_its_state_and_lag(run: Run) -> None:
    found = eventually(lambda: _state(run, "running"), "the source to run")

    assert str(found["topic"]).startswith("test.")
    assert "assembly" in str(found["function"])
    eventually(lambda: _state(run, "running").get("lag") == 0, "lag 0")
    assert re.search(r"^assembly-on-payment\trunning\t", run("list").out, re.MULTILINE)


def _state(run: Run, state: str) -> dict[str, object]:
    found: dict[str, dict[str, object]] = run("list", "--json").json()
    (of,) = found.values()
    return of if of["state"] == state else {}


def test_pause_holds_a_source_with_its_reason_until_resume(run: Run) -> None:
    eventually(lambda: _state(run, "running"), "the source to run")

    assert run("pause", "assembly-on-payment", "--reason", "a deploy").code == 0
    paused = eventually(lambda: _state(run, "paused"), "the source to pause")
    assert paused["reason"] == "a deploy"

    assert run("resume", "--all").code == 0
    eventually(lambda: _state(run, "running"), "the source to go on")


def test_an_unknown_source_is_named_with_those_that_there_are(run: Run) -> None:
    ran = run("pause", "nobody")

    assert (ran.code, "there is no source nobody; there are assembly-on-payment" in ran.err) == (2, True)


@pytest.mark.parametrize("arguments", [["pause"], ["resume"], ["pause", "one", "--all"]])
def test_a_switch_needs_names_or_all(arguments: list[str]) -> None:
    assert commands.run(sources_command.app, *arguments).code == 2


def test_sources_that_do_not_run_are_a_failure_that_says_where_they_were_looked_for(unused_address: str) -> None:
    ran = commands.run(sources_command.app, "list", env={"SOURCE_CONTROL_URL": f"http://{unused_address}"})

    assert (ran.code, unused_address in ran.err, "orderflow status" in ran.err) == (1, True, True)


def test_resume_takes_how_many_letters_to_accept(run: Run) -> None:
    eventually(lambda: _state(run, "running"), "the source to run")

    assert run("resume", "--all", "--accept-letters", "7").code == 0
    assert _state(run, "running")["breaker"] == {"open": False, "letters_in_a_row": 0, "letters_in_window": 0, "accept_letters": 7}
    assert run("resume", "--all", "--accept-letters", "0").code == 2
