"""The supervisor: gates, restarts, the order of the end, and no child that outlives it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ops import child, home
from ops.journal import Journal
from ops.supervisor import Program, Supervisor
from shared import errors
from tests import stack

PYTHON = (sys.executable, "-c")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal whose terminal is a file."""
    return Journal(tmp_path / "logs", ["up", "one", "two"], out=(tmp_path / "terminal").open("w", encoding="utf-8"))


@pytest.fixture
def shown(tmp_path: Path, journal: Journal) -> Callable[[], str]:
    """What the journal has shown, once it is closed."""

    def read() -> str:
        journal.close()
        journal._out.close()
        return (tmp_path / "terminal").read_text(encoding="utf-8")

    return read


def _program(name: str, code: str, ready: Callable[[], object] = lambda: None, **more: float) -> Program:
    return Program(name, child.guarded([*PYTHON, code]), child.environment(), ready, **more)  # type: ignore[arg-type]


def _file(path: Path) -> Callable[[], object]:
    def look() -> None:
        if not path.exists():
            raise errors.Unavailable("the file is not there yet")

    return look


async def test_a_program_is_started_when_its_probe_agrees(tmp_path: Path, journal: Journal, shown: Callable[[], str]) -> None:
    supervisor = Supervisor(journal)
    touch = f"pathlib.Path({str(tmp_path / 'there')!r}).touch()"
    code = f"import pathlib, time; time.sleep(0.3); {touch}; print('here', flush=True); time.sleep(60)"
    await supervisor.start(_program("one", code, _file(tmp_path / "there")))
    assert (tmp_path / "there").exists()
    assert supervisor.running["one"].state == "ready"
    await supervisor.stop()
    assert "one | here" in shown()


async def test_a_program_that_ends_before_it_is_ready_is_named_with_its_exit_code_and_its_last_lines(
    journal: Journal, shown: Callable[[], str]
) -> None:
    supervisor = Supervisor(journal)
    with pytest.raises(errors.Unavailable, match=r"one did not get ready: it ended \(exit code 3\)\n  \| no such thing"):
        await supervisor.start(_program("one", "print('no such thing', flush=True); raise SystemExit(3)", _file(Path("/nowhere"))))
    await supervisor.stop()
    shown()


async def test_a_program_that_is_not_ready_in_time_is_named_with_what_its_probe_said_last(
    journal: Journal, shown: Callable[[], str]
) -> None:
    supervisor = Supervisor(journal)
    with pytest.raises(errors.Unavailable, match="not within 1 s; the last answer was: the file is not there yet"):
        await supervisor.start(_program("one", "import time; time.sleep(60)", _file(Path("/nowhere")), ready_within_s=1.0))
    pid = supervisor.running["one"].pid
    await supervisor.stop()
    assert pid is not None
    assert not psutil.pid_exists(pid)
    shown()


async def test_a_program_that_was_killed_is_started_again(journal: Journal, shown: Callable[[], str]) -> None:
    supervisor = Supervisor(journal)
    await supervisor.start(_program("one", "import time; time.sleep(60)"))
    one = supervisor.running["one"]
    first = one.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await asyncio.to_thread(stack.eventually, lambda: one.restarts == 1 and one.state == "ready", "it to be started again")
    assert one.restarts == 1
    assert one.pid not in {None, first}
    await supervisor.stop()
    assert "one ended (killed by SIGKILL); it is started again in 0.5 s" in shown()


async def test_programs_end_tier_by_tier_and_one_that_will_not_is_killed(
    tmp_path: Path, journal: Journal, shown: Callable[[], str]
) -> None:
    supervisor = Supervisor(journal)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    await supervisor.start(_program("two", stubborn, lambda: _said(journal, "two"), stop_within_s=0.5))
    touch = f"pathlib.Path({str(tmp_path / 'end')!r}).touch()"
    told = f"import signal, sys, time, pathlib; signal.signal(signal.SIGTERM, lambda *_: ({touch}, sys.exit(0)))"
    await supervisor.start(_program("one", f"{told}; print('set', flush=True); time.sleep(60)", lambda: _said(journal, "one")))
    await supervisor.stop(["one"], ["two"])
    assert (tmp_path / "end").exists()
    said = shown()
    assert "two did not end within 0 s: kill -9" in said or "two did not end within 1 s: kill -9" in said
    assert all(one.state == "stopped" for one in supervisor.running.values())


def _said(journal: Journal, name: str) -> None:
    if not journal.tail(name):
        raise errors.Unavailable("it has said nothing")


_PARENT = """
import asyncio, sys
from pathlib import Path
from ops import child
from ops.journal import Journal
from ops.supervisor import Program, Supervisor

async def main() -> None:
    supervisor = Supervisor(Journal(Path(sys.argv[1]), ["up", "one"], out=sys.stderr))
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    await supervisor.start(Program("one", child.guarded([sys.executable, "-c", code]), child.environment(), lambda: None))
    print("pid", supervisor.running["one"].pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_no_child_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PARENT, str(tmp_path / "logs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=home.CHECKOUT) as parent:
        try:
            assert parent.stdout is not None
            line = next(line for line in parent.stdout if line.startswith("pid "))
            pid = int(line.split()[1])
            assert psutil.pid_exists(pid)
        finally:
            parent.kill()
    stack.eventually(lambda: not psutil.pid_exists(pid), "the child to be gone")


def test_a_line_that_would_move_the_cursor_is_shown_harmless_and_kept_whole(
    journal: Journal, shown: Callable[[], str], tmp_path: Path
) -> None:
    journal.say("one", "red \x1b[31m alert")
    assert "one | red ?[31m alert" in shown()
    assert (tmp_path / "logs" / "one.log").read_text(encoding="utf-8") == "red \x1b[31m alert\n"
