"""One log of many processes: a line each on the terminal with its process before it, and a file a process below logs/."""

import contextlib
import os
import queue
import sys
import threading
import zlib
from pathlib import Path
from typing import BinaryIO, TextIO

FILE_BYTES_MAX = 16 << 20  # then it becomes NAME.log.1 and the one before that is gone
TAIL_LINES = 20
_TERMINAL_LINES_MAX = 10_000
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)


class Journal:
    """Takes lines and never waits: a terminal that is held up (Ctrl-S) loses lines and is told how many, the files lose none."""

    def __init__(self, folder: Path, names: list[str], *, shown: set[str] | None = None, out: TextIO | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._files: dict[str, BinaryIO] = {name: (folder / f"{name}.log").open("ab", buffering=0) for name in names}
        self._tails: dict[str, list[str]] = {}
        self._width = max(map(len, names))
        self._shown = shown
        self._out = out or sys.stdout
        self._coloured = self._out.isatty() and "NO_COLOR" not in os.environ
        self._lines: queue.Queue[str | None] = queue.Queue(_TERMINAL_LINES_MAX)
        self._lost = 0
        self._printer = threading.Thread(target=self._print, name="terminal", daemon=True)
        self._printer.start()

    def say(self, name: str, line: str) -> None:
        """Write one line of the process `name`."""
        line = line.rstrip("\r\n")
        self._keep(name, line)
        if self._shown is not None and name not in self._shown:
            return
        prefix = f"{name:<{self._width}} |"
        if self._coloured:
            prefix = f"\033[{_COLOURS[zlib.crc32(name.encode()) % len(_COLOURS)]}m{prefix}\033[0m"
        try:
            self._lines.put_nowait(f"{prefix} {self._harmless(line)}\n")
        except queue.Full:
            self._lost += 1

    def tail(self, name: str) -> list[str]:
        """The last lines of the process `name`."""
        return list(self._tails.get(name, ()))

    def close(self) -> None:
        """Write what is still to be written, for two seconds at most."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=1)
        self._printer.join(2)
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _keep(self, name: str, line: str) -> None:
        tail = self._tails.setdefault(name, [])
        tail.append(line)
        del tail[:-TAIL_LINES]
        with contextlib.suppress(OSError):  # a full disk must not stop the processes themselves
            file = self._files.get(name)
            path = self.folder / f"{name}.log"
            if file is not None and file.tell() > FILE_BYTES_MAX:
                file.close()
                path.replace(path.with_suffix(".log.1"))
                file = None
            if file is None:
                file = self._files[name] = path.open("ab", buffering=0)
            file.write(line.encode("utf-8", "replace") + b"\n")

    def _print(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._lost:
                lost, self._lost = self._lost, 0
                line = f"({lost} lines were not shown; they are in {self.folder})\n{line}"
            try:
                self._out.write(line)
                self._out.flush()
            except (OSError, ValueError):
                pass  # nobody reads any more

    def _harmless(self, line: str) -> str:
        return "".join(character if character.isprintable() or character == "\t" else "?" for character in line)
