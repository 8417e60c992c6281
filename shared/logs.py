"""One line per fact: text on a terminal, JSON elsewhere, both to standard error. No line shows a secret or a person (shared/masking.py).

`extra={"hidden": […]}` names texts that this one line must not show either, such as the user of the event that it is about.
"""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from shared import masking

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "hidden"}
_ends = logging.getLogger("main")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _masked(record, record.getMessage()),
        } | _extras(record)
        if record.exc_info:
            line["traceback"] = _masked(record, self.formatException(record.exc_info))
        return json.dumps(line, default=str)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        facts = "".join(f" {name}={value}" for name, value in _extras(record).items())
        line = _printable(f"{moment} {record.levelname.lower():7} {_masked(record, record.getMessage())}{facts}")
        return f"{line}\n{_masked(record, self.formatException(record.exc_info))}" if record.exc_info else line


def set_up(level: str, style: Literal["auto", "text", "json"]) -> None:
    """Send every logger's lines of `level` and above to standard error, and what nobody caught. Libraries speak from warning on.

    They do at `debug` too: at info httpx would show the URLs that it asks, and Telegram's has the token in it.
    """
    handler = logging.StreamHandler(sys.stderr)
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler.setFormatter(_Text() if text else _Json())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    for name in ("shared", "connectors", "functions", "ops", "main"):  # main: what functions-framework calls a function's module
        logging.getLogger(name).setLevel(level.upper())
    sys.excepthook = _uncaught
    threading.excepthook = lambda of: _uncaught(of.exc_type, of.exc_value or of.exc_type(), of.exc_traceback)


def _uncaught(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """What Python would print past the log, and so past the mask."""
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, trace)
    else:
        _ends.critical("it ends by a failure that nobody foresaw", exc_info=(kind, exc, trace))


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {
        name: masking.MASK if masking.is_personal(name) else _masked(record, value) if isinstance(value, str) else value
        for name, value in vars(record).items()
        if name not in _PLAIN
    }


def _printable(line: str) -> str:
    """`line` with escapes for what would end it, or move the cursor: a path or an id may hold that."""
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)


def _masked(record: logging.LogRecord, shown: str) -> str:
    return masking.text(shown, getattr(record, "hidden", ()))
