"""`orderflow kafka`: the local broker alone, in the background. `orderflow up` runs the same broker with the same data."""

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from ops import child, home, kafka, terminal
from shared import errors

PORT, CONTROLLER_PORT = 19092, 19093
STOP_S = 30.0

app = typer.Typer(no_args_is_help=True, help="The local broker alone, in the background, with the data that `orderflow up` uses too.")


@app.command()
@terminal.failures()
def up(
    *,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where clients connect.")] = PORT,
    controller_port: Annotated[int, typer.Option(min=1, max=65535, help="Where the broker's controller listens.")] = CONTROLLER_PORT,
) -> None:
    """Start the broker and wait until it answers. It runs until `orderflow kafka down`."""
    state = home.folder()
    if (found := _of_up(state)) is not None:
        terminal.note(f"Kafka runs at {found} already, as a part of `orderflow up`: Ctrl-C there ends it")
        return
    if (running := _running(state)) is not None:
        terminal.note(f"Kafka runs already (process {running.pid}); `orderflow kafka down` ends it")
        return
    child.demand_ports({"Kafka": port, "its controller": controller_port}, "stop that, or choose others with --port and --controller-port")
    broker = kafka.Broker(state, state / "kafka", port, controller_port)
    broker.prepare(terminal.note)
    log = state / "logs" / "kafka.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = psutil.Popen(
            _lasting(broker.command()),
            env=child.environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    home.write(_pid_file(state), json.dumps({"pid": process.pid, "started": process.create_time(), "address": broker.address}))
    try:
        kafka.wait_ready(broker.address, lambda: process.poll() is None)
    except errors.OrderflowError as exc:
        _stop(state)
        raise errors.Unavailable(f"{exc.detail}; its log is {log}") from exc
    terminal.note(f"Kafka runs at {broker.address} (process {process.pid}, log {log}); `orderflow topics create --local` makes the topics")


@app.command()
@terminal.failures()
def down() -> None:
    """Stop the broker. Its data stay."""
    state = home.folder()
    _not_of_up(state)
    terminal.note("Kafka is stopped" if _stop(state) else "Kafka was not running")


@app.command()
@terminal.failures()
def reset(*, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Stop the broker and forget every topic, record and offset."""
    state = home.folder()
    _not_of_up(state)
    terminal.confirm(f"Remove every topic and record in {state / 'kafka'}?", yes=yes)
    _stop(state)
    shutil.rmtree(state / "kafka", ignore_errors=True)
    terminal.note("Kafka's data are gone")


def _of_up(state: Path) -> str | None:
    found = home.read_run(state)
    if found is None:
        return None
    told = found.get("kafka")
    return str(told.get("brokers", "?")) if isinstance(told, dict) else "?"


def _not_of_up(state: Path) -> None:
    if (address := _of_up(state)) is not None:
        raise errors.Unavailable(f"Kafka at {address} is a part of `orderflow up`: Ctrl-C there ends it", code="running")


def _lasting(command: list[str]) -> list[str]:
    # Without what would end the broker together with this command.
    return command[command.index("--") + 1 :] if "--" in command else command


def _running(state: Path) -> psutil.Process | None:
    # A process id comes back for another process: the time it started tells whether it is ours.
    try:
        told = json.loads(_pid_file(state).read_text(encoding="utf-8"))
        process = psutil.Process(told["pid"])
        return process if _lives(process) and abs(process.create_time() - told["started"]) < 1 else None
    except (FileNotFoundError, ValueError, KeyError, psutil.Error):
        return None


def _stop(state: Path) -> bool:
    process = _running(state)
    if process is not None:
        process.send_signal(kafka.STOP_SIGNAL)
        deadline = time.monotonic() + STOP_S
        while _lives(process):
            if time.monotonic() > deadline:
                process.kill()
            time.sleep(0.05)
    _pid_file(state).unlink(missing_ok=True)
    return process is not None


def _lives(process: psutil.Process) -> bool:
    # In a container whose first process collects nobody, one that has ended stays as a zombie.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pid_file(state: Path) -> Path:
    return state / "kafka.json"
