"""Clocks beside this machine's."""

from collections.abc import Iterator, Sequence

from ops.doctor.checks import finds
from ops.doctor.facts import Clock
from ops.doctor.findings import Finding

SKEW_S, FAR_S = 5.0, 1800.0


@finds("clock_skew", "clock_far")
def together(clocks: Sequence[Clock]) -> Iterator[Finding]:
    """Whether all who write times mean the same. The answer's way is given as the benefit of the doubt."""
    for clock in clocks:
        least_s = abs(clock.ahead_s) - clock.within_s
        if least_s > SKEW_S:
            side = "ahead of" if clock.ahead_s > 0 else "behind"
            yield Finding(
                "clock_far" if least_s > FAR_S else "clock_skew",
                f"{clock.whose} is {abs(clock.ahead_s):.1f} s (± {clock.within_s:.1f} s) {side} this machine",
                "NTP on both: `timedatectl`, `chronyc tracking` show how each is doing",
            )
