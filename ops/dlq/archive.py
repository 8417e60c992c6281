"""`orderflow dlq archive`: letters into S3, where they outlive their topics; and reading them back."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import prometheus_client
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ops import terminal
from ops.dlq import archive_line, archiver
from ops.dlq.archive_line import Archived, Name
from shared import config, errors, logs
from shared.config import Settings

if TYPE_CHECKING:
    from ops.dlq.archive_store import Store

INTERRUPTED = 130
Tell = Callable[[int, int], None]


@terminal.failures()
def archive(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C or SIGTERM.")] = False,
    every: Annotated[str, typer.Option(help="With --follow: a letter is in S3 at most so long after it was written (10s, 5m).")] = "10s",
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", min=0, max=65535, help="With --follow: Prometheus metrics here; 0 takes a free port.")
    ] = None,
    metrics_host: Annotated[str, typer.Option("--metrics-host", help="The address for --metrics-port.")] = "127.0.0.1",
    create_bucket: Annotated[bool, typer.Option("--create-bucket", help="Make the bucket where it is missing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, for scripts.")] = False,
) -> None:
    """Copy the dead-letter topics to S3 (DLQ_ARCHIVE_BUCKET), from where the last time ended.

    S3 away: exit code 1, and nothing is lost; the next time begins at the same letter. With --follow it waits.
    """
    settings = config.load()
    store = _store(settings)
    if create_bucket:
        store.create()
    if follow:
        _follow(settings, store, _seconds(every), metrics_host, metrics_port)
        return
    made = archiver.Archiver(settings, store, lambda key, outcome, letters: None)
    with _ended_by_signals(made), _progress() as tell:
        made.once(tell)
    if json:
        terminal.as_json({"letters": made.letters, "objects": made.objects, "bucket": store.bucket, "complete": not made.stopping.is_set()})
    else:
        objects = f"{made.objects} object{'' if made.objects == 1 else 's'}"
        terminal.note(f"archived {made.letters} letter{'' if made.letters == 1 else 's'} in {objects} of s3://{store.bucket}")
    if made.stopping.is_set():
        terminal.note("interrupted; the next time goes on here")
        raise typer.Exit(INTERRUPTED)


def read_archive(
    settings: Settings,
    *,
    prefix: str = "",
    consumer: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    repeats: bool = False,
) -> Iterator[Archived]:
    """The letters of the archive, object by object: by consumer, day, topic and partition, each partition's oldest first.

    `prefix` is one of keys (`notification-payment/2026-11-`); `since` (included) and `until` (not) are of the time at which a letter was
    written to its topic. A letter is given once, however often it was written or archived, unless `repeats` are wanted.
    Raises Unavailable when S3 is away, Refused when an object cannot be read.
    """
    store = _store(settings)
    seen: set[str] = set()
    for name in _names(store, prefix, consumer):
        if (since and name.day < since.astimezone(UTC).date()) or (until and name.day > until.astimezone(UTC).date()):
            continue
        for line in store.lines(name.key):
            try:
                letter = archive_line.read(line)
            except ValueError as exc:
                raise errors.Refused(f"s3://{store.bucket}/{name.key}: {exc}", code="archive_broken") from exc
            if not _within(letter, since, until):
                continue
            same = letter.letter_id or f"{letter.topic}/{letter.partition}/{letter.offset}/{name.topic_id}"
            if repeats or same not in seen:
                seen.add(same)
                yield letter


def _store(settings: Settings) -> "Store":
    from ops.dlq.archive_store import Store  # boto3 takes longer to import than most commands to run

    return Store(settings)


def _names(store: "Store", prefix: str, consumer: str | None) -> Iterator[Name]:
    """By consumer and day as S3 lists them, then by the offset as a number, which S3 does not know."""
    wanted = prefix or (f"{consumer}/" if consumer else "")
    day: list[Name] = []
    for key in store.keys(wanted):
        name = Name.parse(key)
        if name is None or (consumer is not None and name.consumer != consumer):
            continue
        if day and name[:2] != day[0][:2]:
            yield from sorted(day)
            day = []
        day.append(name)
    yield from sorted(day)


def _within(letter: Archived, since: datetime | None, until: datetime | None) -> bool:
    written_ms = letter.timestamp_ms or 0
    return (since is None or written_ms >= since.timestamp() * 1000) and (until is None or written_ms < until.timestamp() * 1000)


def _follow(settings: Settings, store: "Store", every_s: float, host: str, port: int | None) -> None:
    logs.set_up(settings.log_level, settings.log_format)
    made = archiver.Archiver(settings, store, _logged)
    where = ""
    if port is not None:
        try:
            served, _ = prometheus_client.start_http_server(port, host)
        except OSError as exc:
            raise terminal.usage(f"--metrics-port {port}: {exc.strerror}") from exc
        where = f"http://{host}:{served.server_port}/metrics"
    archiver.log.info("archiving", extra={"bucket": store.bucket, "s3": store.endpoint, "metrics": where or "none"})
    with _ended_by_signals(made):
        made.follow(every_s)
    archiver.log.info("archiving has ended", extra={"letters": made.letters, "objects": made.objects})


def _logged(key: str, outcome: str, letters: int) -> None:
    archiver.log.info("archived", extra={"object": key, "outcome": outcome, "letters": letters})


def _seconds(text: str) -> float:
    try:
        return config.seconds(text)
    except ValueError as exc:
        raise terminal.usage(f"--every: {exc}") from exc


@contextlib.contextmanager
def _ended_by_signals(made: archiver.Archiver) -> Iterator[None]:
    """The first SIGTERM or Ctrl-C ends it in good order, the second at once."""

    def end(number: int, frame: FrameType | None) -> None:
        del frame
        if made.stopping.is_set():
            raise KeyboardInterrupt
        made.stopping.set()
        del number

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _progress() -> Iterator[Tell]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (TextColumn("archiving"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, drawn_at = bar.add_task("archiving", total=None), [0.0]

        def tell(done: int, total: int) -> None:
            if time.monotonic() - drawn_at[0] > 0.1:
                drawn_at[0] = time.monotonic()
                bar.update(task, completed=done, total=total)

        yield tell
