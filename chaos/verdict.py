"""What the count of a run came to: numbers, and every case by its name."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

# An explained case is no fault: a message that was repeated after its outcome could not be recorded.
Kind = Literal["lost", "doubled", "disordered", "explained"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing that was found: what it is about, where, what should have been there and what was."""

    kind: Kind
    what: str
    about: str = ""  # an order, an event, a poison record: as the run's record numbers it
    key: str = ""
    event_id: str = ""
    place: str = ""  # topic/partition/offset, or a table
    expected: str = ""
    found: str = ""
    cause: str = ""

    def __str__(self) -> str:
        """One line."""
        told = {"about": self.about, "key": self.key, "event": self.event_id, "at": self.place, "expected": self.expected,
                "found": self.found, "cause": self.cause}  # fmt: skip
        return f"{self.kind}: {self.what} ({'; '.join(f'{name} {text}' for name, text in told.items() if text)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The count. `events`, `letters` and `republished` are numbers; `lag` is in records, by consumer group.

    `republished` are records that the relay wrote once more because it did not learn that they were there: at least once, as promised.
    `explained` are messages that came again because the outcome of an earlier send was not recorded, each with its cause.
    """

    events: int
    letters: int
    republished: int
    lost: list[Case] = field(default_factory=list)
    doubled: list[Case] = field(default_factory=list)
    disordered: list[Case] = field(default_factory=list)
    explained: list[Case] = field(default_factory=list)
    lag: Mapping[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, doubled, out of order or left lying."""
        return not (self.lost or self.doubled or self.disordered or any(self.lag.values()))

    @classmethod
    def of(cls, cases: Iterable[Case], *, events: int, letters: int, republished: int, lag: Mapping[str, int]) -> "Verdict":
        """The verdict that these cases make."""
        kinds: dict[str, list[Case]] = {"lost": [], "doubled": [], "disordered": [], "explained": []}
        for case in cases:
            kinds[case.kind].append(case)
        return cls(events=events, letters=letters, republished=republished, lag=lag, **kinds)

    def summary(self) -> Counter[str]:
        """How often what was found."""
        return Counter(f"{case.kind}: {case.what}" for case in (*self.lost, *self.doubled, *self.disordered, *self.explained))
