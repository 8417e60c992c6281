"""`orderflow replay`: events of a topic, a file or the archive sent once more, to fill a new consumer or for a handler that was mended."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from ops import terminal
from ops.dlq import desk, inboxes, preparation, selection, session, supply, targets
from ops.dlq.originals import Original
from ops.dlq.preparation import SHOWN
from ops.dlq.selection import Frozen
from ops.dlq.supply import Span
from shared import errors, topics
from shared.config import Settings

Supplied = Iterator[tuple[Original, Sequence[str]]]


@terminal.failures()
def replay(
    *,
    topic: Annotated[str | None, typer.Option("--topic", help="Events of this topic; with --file, the topic that they are of.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Events of a file: structured CloudEvents in JSON, one a line (.jsonl).")
    ] = None,
    from_archive: Annotated[bool, typer.Option("--archive", help="Events of the letters in the archive.")] = False,
    start: Annotated[str | None, typer.Option("--from", metavar="TIME|OFFSET", help="The first: an RFC 3339 time, or an offset.")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME|OFFSET", help="Up to here, not included.", show_default="now")] = None,
    partition: Annotated[int | None, typer.Option("--partition", min=0, help="Only of this partition of the topic.")] = None,
    function: Annotated[str | None, typer.Option("--function", help="Only to this function, such as notify.")] = None,
    consumer: Annotated[
        str | None, typer.Option("--consumer", "-c", help="Only to this consumer group.", show_default="all of the topic")
    ] = None,
    resume: preparation.Resume = None,
    dry_run: preparation.DryRun = False,
    rate: preparation.Rate = None,
    url: preparation.Url = None,
    to_topic: preparation.ToTopic = None,
    force: preparation.Force = False,
    in_flight: preparation.InFlight = 8,
    yes: preparation.Yes = False,
    json: preparation.Json = False,
) -> None:
    """Send events once more, each with its own id; a consumer that has handled one answers duplicate, unless --force is said.

    The events are written down before the first is sent. Ctrl-C finishes what is in flight, and the run can be resumed. Exit code 1 when
    some failed.
    """
    rate_per_s = preparation.per_second(rate)
    if resume is not None:
        if topic or file or from_archive or start or end or function or consumer or dry_run or force or to_topic:
            raise terminal.usage("--resume goes on with what its run has chosen: only --rate, --url and --json go with it")
        with desk.opened(sync=False) as at:
            session.resume(at.settings, at.database, resume, rate_per_s=rate_per_s, url=url, json=json)
        return
    chosen = _Choice(topic, file, from_archive, _bound("--from", start), _bound("--to", end), partition, function, consumer)
    chosen.check()
    options = session.Options(rate_per_s=rate_per_s, url=url, to_topic=to_topic, force=force, in_flight=in_flight)
    with desk.opened(sync=False) as at:
        supplied = _Supply(at.settings, chosen, force=force)
        if dry_run:
            _would(at.settings, supplied, options, json=json)
            return
        with preparation.begun(at.database, "events", chosen.told(), options) as begun:
            frozen = supplied.counted(selection.events(at.database, begun, supplied.each()))
            preparation.told(frozen)
            run = preparation.agreed(at.settings, at.database, begun, frozen, options, what="event", yes=yes)
        session.carry_out(at.settings, at.database, run, options, left_out=frozen.too_old, json=json)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which events, and to whom."""

    topic: str | None
    file: Path | None
    archive: bool
    start: supply.Bound
    end: supply.Bound
    partition: int | None
    function: str | None
    consumer: str | None

    def check(self) -> None:
        """End the command, exit code 2, where this names no events, or several kinds."""
        if self.file is not None and self.archive:
            raise terminal.usage("--file and --archive: one of them")
        if self.topic is None and self.file is None and not self.archive:
            raise terminal.usage("say which events: --topic (with --from and --to), --file or --archive")
        if self.file is not None and (self.start is not None or self.end is not None or self.partition is not None):
            raise terminal.usage("--from, --to and --partition are of a topic; a file is sent whole")
        if self.archive and (isinstance(self.start, int) or isinstance(self.end, int) or self.partition is not None):
            raise terminal.usage("--archive: --from and --to are times")

    def told(self) -> dict[str, Any]:
        """It in words, to be kept with the run."""
        return {name: str(value) for name in self.__slots__ if (value := getattr(self, name)) not in {None, False}}


class _Supply:
    """The chosen events, each with the consumers that are to get it. Those that are too old are counted."""

    def __init__(self, settings: Settings, chosen: _Choice, *, force: bool) -> None:
        self.too_old = 0
        self._settings, self._chosen, self._force = settings, chosen, force
        self._reach = selection.reach(settings)
        self._consumers: dict[str, list[topics.Consumer]] = {}
        if chosen.topic is not None:
            self._of(chosen.topic)  # a topic without such a consumer is refused before anything is read

    def each(self) -> Supplied:
        """The events. Raises Refused, Unavailable."""
        for original, groups in self._archived() if self._chosen.archive else self._others():
            wanted = groups if self._force else [group for group in groups if not supply.is_older(original, self._reach.get(group))]
            self.too_old += len(groups) - len(wanted)
            if wanted:
                yield original, wanted

    def counted(self, frozen: Frozen) -> Frozen:
        """`frozen`, with how many were left out."""
        return frozen._replace(too_old=self.too_old)

    def _others(self) -> Supplied:
        chosen = self._chosen
        if chosen.file is not None:
            found = supply.of_file(chosen.file, supply.topics_of_types(self._settings), chosen.topic)
        else:
            found = supply.of_topic(self._settings, Span(chosen.topic or "", chosen.start, chosen.end, chosen.partition))
        for original in found:
            yield original, self._of(original.topic)

    def _archived(self) -> Supplied:
        """Without another word an archived letter's event goes to the consumer that failed, and to no other."""
        from ops.dlq import archive  # boto3 takes its time to be imported

        chosen, known = self._chosen, inboxes.by_group(self._settings)
        start, end = (at if isinstance(at, datetime) else None for at in (chosen.start, chosen.end))
        lines = archive.read_archive(self._settings, consumer=chosen.consumer, since=start, until=end)
        for original, group in supply.of_archive(lines):
            if group not in known:
                raise errors.Refused(f"the archive holds a letter of {group}, which contracts/topics.yaml does not name: say --consumer")
            if chosen.topic in {None, original.topic} and chosen.function in {None, known[group].function}:
                yield original, [known[group].group]

    def _of(self, topic: str) -> list[str]:
        if topic not in self._consumers:
            self._consumers[topic] = targets.consumers(self._settings, topic, group=self._chosen.consumer, function=self._chosen.function)
        return [consumer.group for consumer in self._consumers[topic]]


def _would(settings: Settings, supplied: _Supply, options: session.Options, *, json: bool) -> None:
    """Count what there is, and show the first."""
    by_consumer: dict[str, int] = {}
    shown: preparation.First = []
    for original, groups in supplied.each():
        for group in groups:
            by_consumer[group] = by_consumer.get(group, 0) + 1
            if len(shown) < SHOWN:
                shown.append(["", original.known().event_id, group, original.lane()])
    frozen = supplied.counted(Frozen(by_consumer))
    preparation.told(frozen)
    preparation.would(settings, frozen, options, list(islice(shown, SHOWN)), what="event", json=json)


def _bound(option: str, text: str | None) -> supply.Bound:
    try:
        found = supply.bound(text)
    except ValueError as exc:
        raise terminal.usage(f"{option}: {exc}") from exc
    return found.replace(tzinfo=UTC) if isinstance(found, datetime) and found.tzinfo is None else found
