"""How a command speaks: tables on a terminal, plain lines elsewhere, JSON for scripts, one sentence for a failure."""

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared import errors, masking

FAILED, USAGE = 1, 2


def say(line: str, style: str = "") -> None:
    """Print one line of the answer; colour only on a terminal."""
    Console(highlight=False, soft_wrap=True).print(Text(line, style=style))


def note(line: str, style: str = "dim") -> None:
    """Print one line beside the answer, to standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(line, style=style))


def complain(line: str) -> None:
    """Say what failed, to standard error."""
    note(f"error: {masking.text(line)}", "bold red")


def as_json(value: Any) -> None:
    """Print `value` as JSON, for scripts."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print a table: drawn on a terminal, elsewhere a line a row, its cells parted by tabs."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            sys.stdout.write("\t".join(_cell(value) for value in row) + "\n")
        sys.stdout.flush()
        return
    drawn = Table(*columns, title=title or None, title_justify="left", show_edge=False)
    for row in rows:
        drawn.add_row(*(Text(_cell(value)) for value in row))
    Console(highlight=False).print(drawn)


def printable(data: bytes) -> str:
    """`data` as one line that does a terminal no harm: UTF-8 as it is, everything else as \\xNN."""
    shown = []
    for character in data.decode("utf-8", "surrogateescape"):
        if "\udc80" <= character <= "\udcff":
            shown.append(f"\\x{ord(character) - 0xDC00:02x}")
        elif character == "\\":
            shown.append("\\\\")
        elif character.isprintable():
            shown.append(character)
        else:
            shown.append("".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass")))
    return "".join(shown)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before what cannot be undone. Without a terminal only `--yes` agrees. Ends the command when the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        complain(f"{question} Nobody is here to answer: say --yes.")
        raise typer.Exit(USAGE)
    if not typer.confirm(question, default=False):
        note("nothing was changed")
        raise typer.Exit(FAILED)


def usage(message: str) -> typer.Exit:
    """What to raise when the command line is wrong: says so, exit code 2."""
    complain(message)
    return typer.Exit(USAGE)


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Around a command: a failure becomes one sentence and exit code 1, a wrong setting exit code 2, never a stack trace."""
    try:
        yield
    except errors.ConfigError as exc:
        complain(exc.detail)
        raise typer.Exit(USAGE) from exc
    except errors.OrderflowError as exc:
        complain(exc.detail)
        raise typer.Exit(FAILED) from exc


@contextlib.contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether Ctrl-C was pressed. A second Ctrl-C interrupts as usual.

    A flag rather than an exception, which could arise inside a callback of the Kafka client; and it works, too, where the process was
    started with SIGINT ignored, as a shell starts what it puts in the background.
    """
    pressed: list[int] = []

    def note_it(number: int, _frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note_it)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else " " for character in text)
