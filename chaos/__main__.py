"""`python -m chaos`: run the system, break it without mercy, and count. Exit code 0: nothing lost, nothing doubled; 1: something was."""

import argparse
import asyncio
import logging
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from chaos import broken, checker, found, plan, record, report, schedule
from chaos.drain import Drain
from chaos.faults import Faults
from chaos.load import Load
from chaos.record import Journal
from chaos.report import Progress, Run
from chaos.stand import TELEGRAM_TIMEOUT_S, Stand
from chaos.telegram import Telegram
from ops import home
from shared import config, errors

QUIET_S = 3.0  # load without faults, before the first
STILL_S = 150.0  # without any change while it drains: longer than the longest wait between two tries of an event
PROGRESS_S = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 when something was lost, doubled, disordered or stuck, 2 when the run could not be made."""
    given = _parser().parse_args(arguments)
    progress = Progress(sys.stdout)
    runs = home.folder() / "chaos"
    runs.mkdir(exist_ok=True)
    folder = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-seed-{given.seed}"
    try:
        folder.mkdir()
        logging.basicConfig(filename=folder / "chaos.log", format="%(asctime)s %(name)s %(message)s")  # of our own clients of Kafka
        run = asyncio.run(_until_told(_run(given, folder, progress)))
    except (errors.OrderflowError, FileExistsError) as exc:
        progress.say(f"the run could not be made: {exc}; what there is of it lies in {folder}")
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        progress.say(f"ended before its time; what there is of it lies in {folder}")
        return 2
    report.write(given.report, run)
    report.show(progress, run)
    if run.passed and not given.keep:
        shutil.rmtree(folder)
    else:
        progress.say(f"record, logs and data of the run: {folder}")
    return 0 if run.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Start everything from nothing, inject faults from a seeded schedule under a known load, heal, drain, and count.",
    )
    parser.add_argument("--minutes", type=float, default=4.0, metavar="M", help="how long faults are injected (default 4; hours are fine)")
    parser.add_argument("--faults", type=int, default=0, metavar="N", help="go on beyond --minutes until so many faults took place")
    parser.add_argument("--seed", type=int, default=None, help="the same seed gives the same faults and the same load (default: a new one)")
    parser.add_argument("--break", choices=broken.KINDS, dest="broken", help="break the system on purpose: the run has to fail")
    parser.add_argument("--keep", action="store_true", help="keep the run's folder although all was well")
    parser.add_argument(
        "--report", type=Path, default=home.CHECKOUT / "chaos" / "report.json", metavar="FILE", help="default: chaos/report.json"
    )
    parser.set_defaults(seed=secrets.randbelow(1_000_000))
    return parser


async def _until_told(work: Coroutine[Any, Any, Run]) -> Run:
    """`work`, ended in good order by Ctrl-C and SIGTERM."""
    task = asyncio.create_task(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    return await task


async def _run(given: argparse.Namespace, folder: Path, progress: Progress) -> Run:
    began = time.monotonic()
    progress.say(f"seed {given.seed}: {given.minutes:g} minutes of faults, at least {given.faults} of them")
    about = {"seed": given.seed, "minutes": given.minutes, "faults_wanted": given.faults, "broken": given.broken}
    with Journal(folder, about) as journal, Telegram(journal, given.seed, TELEGRAM_TIMEOUT_S + 0.5) as telegram:
        stand = Stand(folder, config.load(), telegram.settings, progress.say)
        try:
            await stand.start(broken.breaker(given.broken))
            stuck = await _under_fault(given, stand, journal, telegram, progress)
            progress.say("counting")
            seen = await asyncio.to_thread(found.read, stand.settings)
        finally:
            await stand.stop()
    told = record.read(folder)
    verdict = checker.check(told, seen)
    return Run(given.seed, given.faults, time.monotonic() - began, told, verdict, stuck, report.ends(folder / "logs" / "up.log"))


async def _under_fault(given: argparse.Namespace, stand: Stand, journal: Journal, telegram: Telegram, progress: Progress) -> list[str]:
    """Load and faults, then healing and draining. What could not be drained, or was refused without reason."""
    faults = Faults(journal, stand.supervisor, stand.proxies, lambda: telegram.taken)
    load = Load(journal, stand.settings, stand.orders_url, given.seed)
    enough = asyncio.Event()
    loading = asyncio.create_task(load.run(plan.steps(given.seed), enough))
    drain = Drain(stand.settings)
    showing = asyncio.create_task(_show(progress, lambda: report.line(faults, load, telegram, drain.left)))
    stuck: list[str] = []
    try:
        await asyncio.sleep(QUIET_S)
        await faults.run(schedule.faults(given.seed), seconds=given.minutes * 60, at_least=given.faults)
        await faults.heal()
        telegram.kind = True
        enough.set()
        progress.say(f"healed; draining (calms were prolonged by {faults.waited_s:.0f} s; {faults.airless} had no flow)")
        try:
            await loading
        except TimeoutError:
            stuck.append("orders were not answered although all was healed")
        left = await drain.wait(STILL_S)
        stuck += [left] if left else []
    finally:
        for task in (loading, showing):
            task.cancel()
        await asyncio.gather(loading, showing, return_exceptions=True)
        drain.close()
    return [*stuck, *load.refused]


async def _show(progress: Progress, line: Callable[[], str]) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        progress.show(line())


if __name__ == "__main__":
    sys.exit(main())
