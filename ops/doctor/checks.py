"""The list of checks, and the run of all of them over what is known.

A check names its facts by its parameters. It runs when all of them are known; what it then has not found is in order. Where a fact is
missing, or known in part, what was not found is *not examined*: never green.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ops.doctor.codes import CODES
from ops.doctor.facts import Facts
from ops.doctor.findings import Finding, Left, Report

C = TypeVar("C", bound=Callable[..., Iterable[Finding]])


@dataclass(frozen=True, slots=True)
class _Check:
    codes: tuple[str, ...]
    needs: tuple[str, ...]
    run: Callable[..., Iterable[Finding]]


_CHECKS: list[_Check] = []


def finds(*codes: str) -> Callable[[C], C]:
    """Make a function a check that finds `codes`. Its parameters are fields of Facts."""

    def keep(run: C) -> C:
        _CHECKS.append(_Check(codes, tuple(inspect.signature(run).parameters), run))
        return run

    return keep


def run(facts: Facts) -> Report:
    """Every check, over `facts`."""
    found: list[Finding] = []
    seen: set[str] = set()
    unknown: dict[str, set[str]] = defaultdict(set)  # code → reasons
    for check in _CHECKS:
        reasons = {facts.left[need] for need in check.needs if need in facts.left}
        given: dict[str, Any] = {need: getattr(facts, need) for need in check.needs}
        missing = [need for need, value in given.items() if value is None]
        if missing and not reasons:
            continue  # does not apply here
        seen.update(check.codes)
        if not missing:
            found += check.run(**given)
        for code in check.codes if reasons else ():
            unknown[code] |= reasons
    order = list(CODES)
    found.sort(key=lambda one: (CODES[one.code].level != "red", order.index(one.code)))
    told = {finding.code for finding in found}
    return Report(
        findings=tuple(dict.fromkeys(found)),
        in_order=tuple(code for code in order if code in seen - told - unknown.keys()),
        left=tuple(_left({code: reasons for code, reasons in unknown.items() if code not in told})),
    )


def known() -> set[str]:
    """Every code that some check finds."""
    return {code for check in _CHECKS for code in check.codes}


def _left(unknown: dict[str, set[str]]) -> Iterator[Left]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for code, reasons in unknown.items():
        by_reason["; ".join(sorted(reasons))].append(code)
    return (Left(reason, tuple(codes)) for reason, codes in sorted(by_reason.items()))
