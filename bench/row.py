"""A row of the table: something that handles events, and how fast, at what price and after what wait."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bench.stand import Stand

Kind = Literal["ours", "peer", "limit"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of a row. CPU and memory are by process name; a process counts with its children."""

    events: int
    seconds: float
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    rss_mib: Mapping[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def events_per_second(self) -> float:
        """The speed."""
        return self.events / self.seconds

    def __str__(self) -> str:
        cpu = ", ".join(f"{name} {value:.1f}" for name, value in self.cpu_us_per_event().items())
        return f"{self.events_per_second:,.0f}/s ({self.events:,} in {self.seconds:.2f} s; CPU µs an event: {cpu})"

    def cpu_us_per_event(self) -> dict[str, float]:
        """Microseconds of CPU for each event."""
        return {name: 1e6 * seconds / self.events for name, seconds in self.cpu_s.items()}


@dataclass(frozen=True, slots=True)
class Waits:
    """Milliseconds from an event to its effect, sorted."""

    ms: list[float]

    def part(self, share: float) -> float:
        """The wait that `share` of all events do not exceed."""
        return self.ms[min(len(self.ms) - 1, int(share * len(self.ms)))]


class Row(Protocol):
    """What `python -m bench` runs."""

    @property
    def name(self) -> str:
        """Its name in latest.json."""

    @property
    def title(self) -> str:
        """Its name in the table."""

    @property
    def kind(self) -> Kind:
        """Whose it is."""

    @property
    def share(self) -> float:
        """How many events it gets of those that are asked for: slow rows take as long with few."""

    def measure(self, stand: Stand, events: int) -> Measured:
        """Run it once over `events`, and check what it did."""

    def waits(self, stand: Stand, per_second: float | None, seconds: float) -> Waits | None:
        """Its waits over `seconds` while it is idle, or under a load of so many events a second; None where it has none."""


def sizes(events: int, share: float) -> tuple[int, int]:
    """How many events a row measures, and how many go before to warm it up."""
    measured = max(20, round(events * share))
    return measured, max(10, measured // 10)
