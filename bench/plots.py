"""Pictures of a run, as SVG: speeds beside each other, where the CPU goes, waits, growth, memory."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "orderflow"  # the same figures make the same file
mpl.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot as plt  # noqa: E402  after the choice of SVG

_COLOURS = {"ours": "#1f6f8b", "peer": "#c98b2b", "limit": "#8a8a8a"}
_PARTS = ("#1f6f8b", "#63a6bd", "#c98b2b", "#e3c16f", "#8a8a8a", "#bbbbbb", "#5b7f4a", "#a3bf8d")


def speeds(found: Mapping[str, Any], kinds: Mapping[str, str], file: Path) -> None:
    """Events a second of each row, with their spread, on a scale on which ten times is one step."""
    rows = found["rows"][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(rows) + 1.2))
    medians = [row["events_per_second"]["median"] for row in rows]
    below = [row["events_per_second"]["median"] - row["events_per_second"]["minimum"] for row in rows]
    above = [row["events_per_second"]["maximum"] - row["events_per_second"]["median"] for row in rows]
    colours = [_COLOURS[kinds[row["name"]]] for row in rows]
    axes.barh([row["name"] for row in rows], medians, xerr=[below, above], color=colours, ecolor="#333333", capsize=2)
    for n, median in enumerate(medians):
        axes.text(median * 1.08, n, f"{median:,.0f}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(right=max(medians) * 4)
    axes.set_xlabel("events a second: median, minimum and maximum of the rounds (blue: ours, yellow: peers, grey: limits)")
    _save(figure, file)


def cpu(found: Mapping[str, Any], file: Path) -> None:
    """Microseconds of CPU for each event, by process."""
    rows = [row for row in found["rows"] if row["cpu_us_per_event"]][::-1]
    names = list(dict.fromkeys(name for row in rows for name in row["cpu_us_per_event"]))
    figure, axes = plt.subplots(figsize=(9, 0.42 * len(rows) + 1.6))
    left = [0.0] * len(rows)
    for n, name in enumerate(names):
        widths = [row["cpu_us_per_event"].get(name, 0.0) for row in rows]
        axes.barh([row["name"] for row in rows], widths, left=left, label=name, color=_PARTS[n % len(_PARTS)])
        left = [at + width for at, width in zip(left, widths, strict=True)]
    axes.set_xscale("symlog", linthresh=50)
    axes.set_xlabel("µs of CPU an event (linear up to 50)")
    axes.legend(fontsize=7, ncols=4)
    _save(figure, file)


def waits(found: Mapping[str, Any], file: Path) -> None:
    """p50 and p99, idle and at half load."""
    rows = [row for row in found["rows"] if row["latency_ms"]["idle"]][::-1]
    figure, axes = plt.subplots(figsize=(9, 0.5 * max(1, len(rows)) + 1.4))
    for load, colour, up in (("idle", "#1f6f8b", 0.12), ("half_load", "#c98b2b", -0.12)):
        shown = [(n, row["latency_ms"][load]) for n, row in enumerate(rows) if row["latency_ms"][load]]
        places = [n + up for n, _ in shown]
        axes.hlines(places, [one["p50"] for _, one in shown], [one["p99"] for _, one in shown], color=colour)
        axes.plot([one["p50"] for _, one in shown], places, "o", color=colour, label=f"{load.replace('_', ' ')}: p50")
        axes.plot([one["p99"] for _, one in shown], places, "|", color=colour, markersize=10, label="p99")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_xscale("log")
    axes.set_xlabel("ms from an event to its effect")
    axes.legend(fontsize=7, ncols=2)
    _save(figure, file)


def growth(steps: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Speed and CPU along each of the ways in which the work grows."""
    ways = list(dict.fromkeys(step["way"] for step in steps))
    figure, places = plt.subplots(1, len(ways), figsize=(3.2 * len(ways), 3.2), squeeze=False)
    for axes, way in zip(places[0], ways, strict=True):
        chosen = [step for step in steps if step["way"] == way]
        labels = [step["size"] for step in chosen]
        axes.bar(labels, [step["events_per_second"]["median"] for step in chosen], color="#1f6f8b")
        axes.set_title(way, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_ylabel("events a second", fontsize=8)
        axes.set_ylim(bottom=0)
        other = axes.twinx()
        other.plot(labels, [sum(step["cpu_us_per_event"].values()) for step in chosen], "o-", color="#c98b2b")
        other.set_ylim(bottom=0)
        other.set_ylabel("CPU µs an event", fontsize=8)
    figure.tight_layout()
    _save(figure, file)


def memory(found: Mapping[str, Any], file: Path) -> None:
    """Memory of each process over the events that it has handled."""
    figure, axes = plt.subplots(figsize=(9, 3.2))
    for (name, values), colour in zip(found["rss_mib"].items(), _PARTS, strict=False):
        axes.plot(found["seconds"], values, label=name, color=colour)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"seconds, for {found['events']:,} events")
    axes.set_ylabel("MiB")
    axes.legend(fontsize=7)
    _save(figure, file)


def of_run(found: Mapping[str, Any], kinds: Mapping[str, str], folder: Path, prefix: str) -> list[Path]:
    """Every picture of a run."""
    files = [folder / f"{prefix}-{name}.svg" for name in ("speeds", "cpu", "waits")]
    speeds(found, kinds, files[0])
    cpu(found, files[1])
    waits(found, files[2])
    return files


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def read(file: Path) -> dict[str, Any]:
    """A file that a run has written."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
