"""What doctor finds, and what it makes of it all."""

import enum
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from shared import masking


class Level(enum.StrEnum):
    """How bad it is."""

    RED = "red"  # loses data, doubles an effect, or stops something
    AMBER = "amber"  # surprises
    GREEN = "green"


class Exit(enum.IntEnum):
    """How the command ends. 2 is a wrong command line, as everywhere."""

    GREEN = 0
    RED = 1
    NOT_EXAMINED = 3


@dataclass(frozen=True, slots=True)
class Code:
    """One thing that can be found: what it is, why it matters and what to do, as docs/doctor.md has it."""

    level: Level
    what: str
    why: str
    do: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: `what` has the value and where it is from, `do` the setting or command for this very case."""

    code: str
    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Left:
    """What was not examined, and why not."""

    reason: str
    codes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All of it. A code is in exactly one of the three."""

    findings: tuple[Finding, ...]
    in_order: tuple[str, ...]
    left: tuple[Left, ...]

    def level(self, codes: "dict[str, Code]") -> Level:
        """The worst level of what was found."""
        return _worst(codes[finding.code].level for finding in self.findings)

    def exit(self, codes: "dict[str, Code]", *, strict: bool) -> Exit:
        """RED (with `strict` AMBER too) fails, whatever else could not be examined; what was not examined is never green."""
        level = self.level(codes)
        if level is Level.RED or (strict and level is Level.AMBER):
            return Exit.RED
        return Exit.NOT_EXAMINED if self.left else Exit.GREEN

    def as_json(self, codes: "dict[str, Code]") -> dict[str, Any]:
        """For scripts."""
        return {
            "level": self.level(codes),
            "findings": [
                {"level": codes[finding.code].level, "code": finding.code, "what": masking.text(finding.what)}
                | {"why": codes[finding.code].why, "do": masking.text(finding.do)}
                for finding in self.findings
            ],
            "not_examined": [asdict(left) | {"reason": masking.text(left.reason)} for left in self.left],
            "in_order": list(self.in_order),
        }


def _worst(levels: Iterable[Level]) -> Level:
    found = set(levels)
    return next((level for level in (Level.RED, Level.AMBER) if level in found), Level.GREEN)
