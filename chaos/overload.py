"""`python -m chaos.overload`: offer three times what the system can take, for minutes, and see that it holds. Exit code 0: it did.

First it measures, on a system of its own: how many orders a second the API takes back to back and how long the chain needs to assemble
them, and how many events a second a function takes. Then both are offered a multiple of that at a steady rate, whatever becomes of it.
Memory has to stay flat, what is not taken has to be told to come again (429, 503, Retry-After), and nothing else may be answered. Then the
load stops; all lag and every outbox row has to go, and everything that was answered well has to be there.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from pydantic import SecretStr

from chaos import overload_load, overload_report
from chaos.drain import Drain
from chaos.overload_report import Overload
from chaos.report import Progress
from ops import child, home, stand
from shared import config, database, errors
from shared.config import Settings

MEASURE_S = 10.0
MEASURE_CONNECTIONS = {"orders": 64, "events": 4}
CONNECTIONS = 480  # below CONNECTIONS_MAX: what lies beyond it is closed, and tests of their own see to that
DRAIN_S = 3600.0
PROGRESS_S = 10.0
LOADED = "order_on_assembled"  # the function that is loaded directly, beside what the chain brings to it
SETTINGS = {"ASSEMBLY_DURATION": "1s", "LOG_LEVEL": "warning", "LOG_FORMAT": "json"}
IDS_AT_ONCE = 20_000


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 when it did not hold, 2 when the run could not be made."""
    given = _parser().parse_args(arguments)
    progress = Progress(sys.stdout)
    jars = home.folder() / "kafka-jars"
    folder = home.folder() / "overload" / time.strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    folder.chmod(0o755)  # PostgreSQL runs as another account where we are root
    if jars.exists():
        (folder / "kafka-jars").symlink_to(jars)  # so that nothing is fetched again
    os.environ.update(SETTINGS, ORDERFLOW_HOME=str(folder))
    try:
        with stand.running(folder, progress.say) as told:
            found = _Run(told, folder, given, progress).run()
    except errors.OrderflowError as exc:
        progress.say(f"the run could not be made: {exc}; what there is of it lies in {folder}")
        return 2
    home.write(given.report, json.dumps(overload_report.as_json(found), indent=2) + "\n")
    overload_report.show(progress, found)
    if found.passed and not given.keep:
        shutil.rmtree(folder)
    else:
        progress.say(f"logs and data of the run: {folder}")
    return 0 if found.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos.overload", description="Offer more than can be taken, and see that it holds.")
    parser.add_argument("--minutes", type=float, default=5.0, metavar="M", help="how long (default 5)")
    parser.add_argument("--factor", type=float, default=3.0, metavar="F", help="how many times what can be taken is offered (default 3)")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder although all was well")
    parser.add_argument(
        "--report", type=Path, default=home.CHECKOUT / "chaos" / "overload.json", metavar="FILE", help="chaos/overload.json"
    )
    return parser


class _Run:
    def __init__(self, told: dict[str, Any], folder: Path, given: argparse.Namespace, progress: Progress) -> None:
        self._told, self._folder, self._given, self._progress = told, folder, given, progress
        self._settings = config.load().model_copy(
            update={"kafka_brokers": told["kafka"]["brokers"], "postgres_dsns": {"order": SecretStr(told["postgres"]["dsn"])}}
        )
        self._urls = {"orders": f"{told['functions']['orders']['url']}/orders", "events": told["functions"][LOADED]["url"]}

    def run(self) -> Overload:
        memory = Memory(processes(self._told))
        memory.start()
        try:
            alone = self._measured()
            offered = {kind: self._given.factor * per_second for kind, per_second in alone.items() if kind in self._urls}
            self._progress.say("offering " + ", ".join(f"{rate:.0f} {kind} a second" for kind, rate in _as_events(offered).items()))
            loads = {
                kind: self._load(kind, f"overload-{kind}", self._given.minutes * 60, CONNECTIONS, rate) for kind, rate in offered.items()
            }
            began = memory.seconds
            results = {kind: self._result(process, began, memory) for kind, process in loads.items()}
            ended = memory.seconds
            self._progress.say("the load has ended; draining")
            left = self._drained()
            drained_s = memory.seconds - ended
        finally:
            memory.stop()
        missing = Kept(self._settings).missing(self._folder)
        return Overload(self._given.minutes, self._given.factor, alone, results, (began, ended), memory.looks, drained_s, left, missing)

    def _measured(self) -> dict[str, float]:
        """What each can take alone, a second: orders, requests with events, and orders through the whole chain."""
        self._progress.say(f"measuring for {MEASURE_S:.0f} s each what it can take")
        found: dict[str, float] = {}
        for kind in self._urls:
            began = time.monotonic()
            done = self._result(self._load(kind, f"measure-{kind}", MEASURE_S, MEASURE_CONNECTIONS[kind], None))
            found[kind] = done["done"] / MEASURE_S
            if left := self._drained():
                raise errors.Unavailable(f"it did not even drain after {MEASURE_S:.0f} s of measuring: {left}")
            if kind == "orders":
                found["chain"] = done["done"] / (time.monotonic() - began)
        self._progress.say(", ".join(f"{kind}: {rate:.0f} a second" for kind, rate in _as_events(found).items()))
        return found

    def _load(self, kind: str, name: str, seconds: float, connections: int, per_second: float | None) -> "subprocess.Popen[str]":
        job = {"url": self._urls[kind], "kind": kind, "name": name, "seconds": seconds, "connections": connections,
               "per_second": per_second, "accepted": str(self._folder / f"{name}.accepted")}  # fmt: skip
        command = child.guarded([sys.executable, "-m", "chaos.overload_load", json.dumps(job)])
        return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, cwd=home.CHECKOUT)

    def _result(self, process: "subprocess.Popen[str]", began: float = 0.0, memory: "Memory | None" = None) -> dict[str, Any]:
        shown = time.monotonic()
        while process.poll() is None:
            time.sleep(0.2)
            if memory is not None and time.monotonic() - shown > PROGRESS_S:
                shown = time.monotonic()
                rss = ", ".join(f"{name} {mib:.0f}" for name, mib in memory.looks[-1][1].items())
                self._progress.show(f"{memory.seconds - began:.0f} s of load; MiB: {rss}")
        text = process.communicate()[0]
        if process.returncode:
            raise errors.Unavailable(f"what offers the load ended with {process.returncode}; what it said stands above")
        found: dict[str, Any] = json.loads(text)
        return found

    def _drained(self) -> str:
        drain = Drain(self._settings)

        async def wait() -> str:
            waiting = asyncio.create_task(drain.wait(DRAIN_S))
            while not (await asyncio.wait({waiting}, timeout=PROGRESS_S))[0]:
                self._progress.show(f"left: {drain.left or 'nothing'}")
            return waiting.result()

        try:
            return asyncio.run(wait())
        finally:
            drain.close()


class Memory(threading.Thread):
    """Looks once a second at the resident memory of each process, in MiB."""

    def __init__(self, of: dict[str, psutil.Process]) -> None:
        super().__init__(daemon=True)
        self.looks: list[tuple[float, dict[str, float]]] = []
        self._of, self._began, self._ending = of, time.monotonic(), threading.Event()

    @property
    def seconds(self) -> float:
        """Since its beginning."""
        return time.monotonic() - self._began

    def run(self) -> None:
        while not self._ending.wait(1.0):
            self.looks.append((self.seconds, {name: process.memory_info().rss / 2**20 for name, process in self._of.items()}))

    def stop(self) -> None:
        """Look no more."""
        self._ending.set()
        self.join()


class Kept:
    """Whether what was answered well is there."""

    def __init__(self, settings: Settings) -> None:
        self._database = database.Database(settings.postgres_dsn("order"), settings=settings, application="overload")

    def missing(self, folder: Path) -> dict[str, int]:
        """How many orders that were answered 201 are not assembled, and how many events that were answered 200 no inbox holds."""
        try:
            return {"orders": self._orders(folder), "events": self._events(folder)}
        finally:
            self._database.close()

    def _orders(self, folder: Path) -> int:
        ids = [line for file in folder.glob("*-orders.accepted") for line in file.read_text(encoding="utf-8").splitlines()]
        assembled = "SELECT count(*) FROM orders WHERE id = ANY(:ids) AND status = 'assembled'"
        there: int = 0
        for first in range(0, len(ids), IDS_AT_ONCE):
            some = ids[first : first + IDS_AT_ONCE]
            there += self._count(assembled, some)
        return len(ids) - there

    def _count(self, sql: str, ids: list[str]) -> int:
        return int(self._database.transact(lambda tx: tx.run(sql, ids=ids))[0][0])

    def _events(self, folder: Path) -> int:
        counted = "SELECT substring(event_id FROM '^(.*)-'), count(*) FROM order_inbox_events WHERE event_id LIKE '%-events-%' GROUP BY 1"
        there = {name: int(count) for name, count in self._database.transact(lambda tx: tx.run(counted))}
        missing = 0
        for file in folder.glob("*-events.accepted"):
            for line in file.read_text(encoding="utf-8").splitlines():
                missing += overload_load.BATCH_EVENTS - there.get(f"{file.stem}-{line}", 0)
        return missing


def processes(told: dict[str, Any]) -> dict[str, psutil.Process]:
    """Every process of a run file, by name."""
    parts = {name: told[name] for name in ("kafka", "postgres", "source", "relay")} | told["functions"]
    return {name: psutil.Process(of["pid"]) for name, of in parts.items()}


def _as_events(rates: dict[str, float]) -> dict[str, float]:
    """Requests a second as what they bring."""
    return {kind: rate * (overload_load.BATCH_EVENTS if kind == "events" else 1) for kind, rate in rates.items()}


if __name__ == "__main__":
    sys.exit(main())
