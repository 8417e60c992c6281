"""`python -m bench run|growth|memory|removal|profile`: see `make bench`."""

import argparse
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import catalogue, growth, memory, plots, profile, removal, report, run
from bench.processes import BenchError
from bench.stand import Say
from ops import home

Command = Callable[[argparse.Namespace, Console, Say], list[str]]


def main() -> int:
    """0: measured and verified; 1: something that was measured did not happen as it should; 2: a wrong option."""
    options = _parser().parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=220)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers end in good order and their data go

    def say(line: str) -> None:
        console.print(f"[{time.monotonic() - began:6.1f} s] {line}", markup=False, highlight=False, soft_wrap=True)

    command: Command = options.run
    try:
        faults = command(options, console, say)
    except BenchError as exc:
        faults = [str(exc)]
    except KeyboardInterrupt:
        return 130
    for fault in faults:
        console.print(f"WRONG: {fault}", style="red", markup=False, soft_wrap=True)
    return 1 if faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Our speed beside peers and limits.")
    commands = parser.add_subparsers(required=True)
    names = [row.name for row in catalogue.rows()]
    one = commands.add_parser("run", help="every row, in alternating rounds")
    one.set_defaults(run=_run)
    one.add_argument("--quick", action="store_true", help="few events, one round: in under three minutes")
    one.add_argument("--events", type=int, help=f"events of a row with share 1 (default {run.Plan.events})")
    one.add_argument("--rounds", type=int, help=f"(default {run.Plan.rounds})")
    one.add_argument("--latency", type=float, metavar="S", help=f"seconds of each look at waits (default {run.Plan.latency_s:g}; 0: none)")
    one.add_argument("--rows", type=_names(names), default=names, metavar="NAME,…", help=f"of {', '.join(names)}")
    one = commands.add_parser("growth", help="the full path with more processes, partitions, rows and bytes")
    one.set_defaults(run=_growth)
    one.add_argument("--events", type=int, default=100_000)
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--old-rows", type=_numbers, default=[1_000, 100_000, 5_000_000], metavar="N,…", help="rows that lie there before")
    one = commands.add_parser("memory", help="memory of source, function and relay over many events")
    one.set_defaults(run=_memory)
    one.add_argument("--events", type=int, default=1_000_000)
    one = commands.add_parser("removal", help="the full path while old rows leave inbox and outbox, and without that")
    one.set_defaults(run=_removal)
    one.add_argument("--events", type=int, default=500_000)
    one.add_argument("--rounds", type=int, default=2)
    one.add_argument("--old-rows", type=int, default=5_000_000, help="in each of the two tables")
    one = commands.add_parser("profile", help="one row alone, with py-spy and the database's statements")
    one.set_defaults(run=_profile)
    one.add_argument("row", choices=names)
    one.add_argument("--events", type=int, default=600_000)
    one.add_argument("--folder", type=Path, default=home.folder() / "profiles", help="where flame graphs go")
    return parser


def _run(options: argparse.Namespace, console: Console, say: Say) -> list[str]:
    given = {"events": options.events, "rounds": options.rounds, "latency_s": options.latency}
    plan = dataclasses.replace(run.QUICK if options.quick else run.Plan(), **{name: n for name, n in given.items() if n is not None})
    rows = [row for row in catalogue.rows() if row.name in options.rows]
    about = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {report.machine()}; {plan}"
    results, faults = run.run(rows, plan, say)
    found = report.document(results)
    name = "quick" if options.quick else "latest" if len(rows) == len(catalogue.rows()) else "partial"
    report.write(found, report.RESULTS / f"{name}.json")
    with (report.RESULTS / f"{name}.txt").open("w", encoding="utf-8") as file:
        report.show(results, found, about, Console(file=file, width=220))
    plots.of_run(found, {row.name: row.kind for row in rows}, report.RESULTS, name)
    report.show(results, found, about, console)
    say(f"written: bench/results/{name}.json, {name}.txt and {name}-*.svg")
    return faults


def _growth(options: argparse.Namespace, _console: Console, say: Say) -> list[str]:
    found, faults = growth.run(options.events, options.rounds, options.old_rows, say)
    plots.growth(found, report.RESULTS / "growth.svg")
    say("written: bench/results/growth.json and growth.svg")
    return faults


def _memory(options: argparse.Namespace, _console: Console, say: Say) -> list[str]:
    found, faults = memory.run(options.events, say)
    for one in found:
        plots.memory(one, report.RESULTS / f"memory-{one['name']}.svg")
    say("written: bench/results/memory.json and memory-*.svg")
    return faults


def _removal(options: argparse.Namespace, _console: Console, say: Say) -> list[str]:
    _, faults = removal.run(options.events, options.rounds, options.old_rows, say)
    say("written: bench/results/removal.json")
    return faults


def _profile(options: argparse.Namespace, _console: Console, say: Say) -> list[str]:
    (row,) = (row for row in catalogue.rows() if row.name == options.row)
    return profile.run(row, options.events, options.folder, say)


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"no row is named {', '.join(unknown)}; there are {', '.join(known)}")
        return found

    return names


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
