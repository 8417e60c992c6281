"""A run in this process, from its frozen selection to its summary: asked about, sent, ended by Ctrl-C, resumed."""

import asyncio
import dataclasses
import functools
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer

from ops import terminal
from ops.dlq import behind, inboxes, replay, runs, selection, targets
from ops.dlq.force import Inbox
from ops.dlq.progress import WORDS, Progressing
from ops.dlq.sender import Sender, Stop, ToFunction, ToTopic
from shared import bearer, errors, parking
from shared.config import Settings
from shared.database import Database


@dataclass(frozen=True, slots=True)
class Options:
    """How a run is carried out; kept with it, so that it is resumed as it began."""

    rate_per_s: float | None = None
    url: str | None = None
    to_topic: str | None = None
    force: bool = False
    in_flight: int = replay.IN_FLIGHT

    def told(self) -> dict[str, Any]:
        """Those that are not as usual."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) not in {None, False}}

    @classmethod
    def of(cls, run: runs.Run, *, rate_per_s: float | None, url: str | None) -> "Options":
        """Those of a run that is resumed; rate and address can be others."""
        kept = {name: run.options[name] for name in cls.__slots__ if name in run.options}
        return cls(**kept | {name: value for name, value in (("rate_per_s", rate_per_s), ("url", url)) if value is not None})


def force_before(settings: Settings, groups: Mapping[str, int]) -> dict[str, str]:
    """Now, by the clocks of these consumers' inboxes: rows that come later are this run's own."""
    found, known = {}, inboxes.by_group(settings)
    for group in groups:
        if group not in known:
            raise errors.Refused(f"{group} is no consumer of contracts/topics.yaml: where its inbox is, --force cannot know")
        inbox = Inbox(known[group], settings)
        try:
            found[group] = inbox.now()
        finally:
            inbox.close()
    return found


def resume(settings: Settings, kept: Database, run_id: str, *, rate_per_s: float | None, url: str | None, json: bool) -> None:
    """Go on with an open run. Ends the command with its exit code."""
    run = runs.take(
        kept, run_id, waiting=lambda: terminal.note(f"waiting up to {runs.STALE_S:.0f} s to see whether another process is at run {run_id}")
    )
    carry_out(settings, kept, run, Options.of(run, rate_per_s=rate_per_s, url=url), json=json)


def carry_out(settings: Settings, kept: Database, run: runs.Run, options: Options, *, left_out: int = 0, json: bool) -> None:
    """Send what is left of `run`, and say what came of it. Ends the command with exit code 130 after Ctrl-C, 1 when some failed.

    `left_out` are those that were asked for and are not in the run.
    """
    groups, before = kept.transact(lambda tx: (selection.of_run(tx, run.run_id), runs.counts(tx, run.run_id)[run.run_id]))
    groups = groups or dict.fromkeys(run.selection.get("parked", ()), 0)
    if before.left != before.total:
        terminal.note(f"run {run.run_id}: {before.total - before.left} of {before.total} have their result, {before.left} are left")
    stop, failure = Stop(), None
    with Progressing(before.total, before.total - before.left, quiet=json) as view:
        try:
            asyncio.run(_sent(settings, kept, run, options, list(groups), stop, view))
        except errors.OrderflowError as exc:
            failure = exc
        except KeyboardInterrupt:  # asked for twice: nothing was waited for
            stop.number = stop.number or signal.SIGINT
    _summed_up(kept, run, view, failure, stop, json=json)
    if left_out:
        raise typer.Exit(terminal.FAILED)


async def _sent(  # noqa: PLR0917  the parts of a run
    settings: Settings, kept: Database, run: runs.Run, options: Options, groups: list[str], stop: Stop, view: Progressing
) -> None:
    senders, removals = _senders(settings, run, options, groups, stop, view), _inboxes(settings, options, groups)
    if run.kind == "letters" and options.to_topic is None:
        known = inboxes.by_group(settings)
        view.behind = behind.Behind(settings, kept, {group: sender for group, sender in senders.items() if group in known}, stop)
    plan = replay.Plan(
        senders=senders,
        unpack=replay.of_letter if run.kind == "letters" else replay.of_event,
        rate_per_s=options.rate_per_s,
        inboxes=removals,
        forced_before=run.options.get("forced_before"),
        in_flight=options.in_flight,
        behind=view.behind,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, functools.partial(_asked_to_stop, loop, number, stop))
    try:
        await replay.Replay(kept, run, plan, stop, view).carry_out()
    finally:
        if view.behind is not None:
            view.behind.close()
        for sender in set(senders.values()):
            await sender.close()
        for inbox in (removals or {}).values():
            inbox.close()


def _senders(  # noqa: PLR0917  likewise
    settings: Settings, run: runs.Run, options: Options, groups: list[str], stop: Stop, view: Progressing
) -> dict[str, Sender]:
    if options.to_topic is not None:
        to_topic = ToTopic(settings, options.to_topic, stop, functools.partial(view.waits, f"topic {options.to_topic}"))
        return dict.fromkeys(groups, to_topic)
    found = targets.sources(settings, url=options.url)
    authorization = bearer.headers(settings.delivery_token)
    made: dict[str, Sender] = {}
    for group in groups:
        source = targets.source_of(found, group)
        if run.kind == "letters":  # a function that parks lets what this run has sent pass
            source = dataclasses.replace(source, extensions={**source.extensions, parking.MARKER: run.run_id})
        made[group] = ToFunction(source, authorization, stop, functools.partial(view.waits, source.sink))
    return made


def _inboxes(settings: Settings, options: Options, groups: list[str]) -> dict[str, Inbox] | None:
    known = inboxes.by_group(settings)
    return {group: Inbox(known[group], settings) for group in groups} if options.force else None


def _asked_to_stop(loop: asyncio.AbstractEventLoop, number: signal.Signals, stop: Stop) -> None:
    """The first time what is in flight is finished; the second time nothing is waited for."""
    stop.number = number
    stop.set()
    loop.remove_signal_handler(number)
    terminal.note("ending: what is in flight is finished first (once more ends it at once)")


def _summed_up(kept: Database, run: runs.Run, view: Progressing, failure: errors.OrderflowError | None, stop: Stop, *, json: bool) -> None:
    numbers, now = kept.transact(lambda tx: (runs.counts(tx, run.run_id)[run.run_id], runs.read(tx, run.run_id)))
    if json:
        told = {"run": run.run_id, "state": now.state, "total": numbers.total, "left": numbers.left}
        told |= {name: getattr(numbers, name) for name in ("done", "duplicate", "failed_again", "written", "skipped")}
        told |= {"parked": view.sent_behind} if view.sent_behind else {}
        terminal.as_json(told | {"failures": view.failures, "error": None if failure is None else failure.detail})
    else:
        parts = [f"{numbers.done} done", f"{numbers.duplicate} duplicate (handled before)", f"{numbers.failed_again} failed again"]
        parts += [f"{numbers.written} written to {run.options.get('to_topic')}"] if numbers.written else []
        parts += [f"{numbers.skipped} skipped"] if numbers.skipped else []
        terminal.note(f"run {run.run_id}: {', '.join(parts)} of {numbers.total}", "bold")
        if view.sent_behind:
            terminal.note(
                f"and of the events parked behind them: {', '.join(f'{n} {WORDS[name]}' for name, n in view.sent_behind.items())}"
            )
        if numbers.written and run.kind == "letters":
            terminal.note("letters that were written to a topic stay open: whether they were handled there is not known here")
    if failure is not None:
        terminal.complain(failure.detail)
    if numbers.left and now.state == "open":
        command = "orderflow dlq replay" if run.kind == "letters" else "orderflow replay"
        terminal.note(f"{numbers.left} are left; go on with `{command} --resume {run.run_id}`", "bold yellow")
    if stop.number is not None and numbers.left:
        raise typer.Exit(128 + stop.number)
    if failure is not None or numbers.failed_again or numbers.left:
        raise typer.Exit(terminal.FAILED)
