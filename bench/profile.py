"""One row alone, with what shows where its time goes: py-spy where it is installed, and PostgreSQL's statements.

The server of the wheel has no pg_stat_statements: so it writes each statement with its duration to its log, and they are added up here.
That costs it some µs a statement, so speeds beside it are for comparison only.
"""

import re
import shutil
import signal
import sys
from collections import defaultdict
from pathlib import Path

from bench import stand
from bench.processes import Process
from bench.row import Row
from bench.stand import Say

PYTHON_PROCESSES = ("function", "source", "relay", "loop", "faststream", "orders", "assembly_on_payment", "order_on_assembled")
_DURATION = re.compile(r"duration: ([0-9.]+) ms +(?:(parse|bind|execute|statement)[^:]*): (.*)")
_SETTING_UP = ("CREATE", "DROP", "DO ", "GRANT", "ALTER", "COPY", "VACUUM")
LOGGED = {"log_min_duration_statement": "0", "log_line_prefix": "%a|", "log_parameter_max_length": "0"}


def run(row: Row, events: int, folder: Path, say: Say) -> list[str]:
    """Measure it once with everything watched; files in `folder`, a summary on the terminal. What was wrong with its results."""
    folder.mkdir(parents=True, exist_ok=True)
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        say("py-spy is not installed: `.venv-bench/bin/pip install py-spy` adds flame graphs")
    with stand.running(say, LOGGED) as servers:
        spies: list[Process] = []

        def watch(process: Process) -> None:
            if spy is not None and process.name.split(" ")[0] in PYTHON_PROCESSES:
                flames = folder / f"{row.name}-{process.name.replace(' ', '-')}.svg"
                command = [spy, "record", "--pid", str(process.pid), "--output", str(flames), "--rate", "200", "--nonblocking"]
                spies.append(Process(f"spy-{process.name}", command, {}, servers.folder))  # not by `servers`: nobody watches the watchers

        servers.watch = watch
        measured = row.measure(servers, events)
        for one in spies:
            one.stop(signal.SIGINT)  # at which it writes what it has
        say(f"{row.name}: {measured.events_per_second:,.0f}/s while watched; CPU µs: {measured.cpu_us_per_event()}")
        for line in statements(servers.postgres.log.read_text(encoding="utf-8", errors="replace"), measured.events):
            say(line)
    return measured.faults


def statements(log: str, events: int) -> list[str]:
    """The statements of a server's log, dearest first: µs an event, calls, µs a call."""
    spent: dict[str, list[float]] = defaultdict(list)
    for line in log.splitlines():
        found = None if line.startswith("psql|") else _DURATION.search(line)
        if found and not found[3].startswith(_SETTING_UP):
            spent[f"{found[2]} {' '.join(found[3].split())[:110]}"].append(1e3 * float(found[1]))
    dearest = sorted(spent.items(), key=lambda one: -sum(one[1]))[:20]
    return [f"{sum(us) / events:8.2f} µs an event, {len(us):6d} × {sum(us) / len(us):9.1f} µs: {name}" for name, us in dearest]
