"""Alerting rules evaluated against what processes really expose: the part of PromQL that infra/alerts.yaml uses, and no more.

Numbers, selectors with matchers, [range] for rate and increase, sum/max/min/count by, arithmetic, comparisons, and/or/unless, absent.
What it does not know it refuses, so that a rule cannot pass by being misread.
"""

import itertools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Value = float | Vector

_TOKEN = re.compile(r'\s*(\d+[smhd]|\d+(?:\.\d+)?|[A-Za-z_:][\w:]*|"[^"]*"|=~|!~|!=|==|>=|<=|[-+*/(){}\[\],=<>])')
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_LEVELS = (("or",), ("and", "unless"), tuple(_COMPARE), ("+", "-"), ("*", "/"))
_FOLDS: dict[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min, "count": len}


@dataclass
class History:
    """What Prometheus has scraped: of each target its series, at each time. A scrape of None is one that failed."""

    scrapes: dict[str, list[tuple[float, dict[Labels, float]]]] = field(default_factory=dict)

    def scrape(self, target: str, at: float, text: str | None) -> None:
        """Keep one scrape; later ones come later."""
        series: dict[Labels, float] = {}
        for family in text_string_to_metric_families(text or ""):
            for sample in family.samples:
                series[frozenset({"__name__": sample.name, "instance": target, **sample.labels}.items())] = sample.value
        self.scrapes.setdefault(target, []).append((at, series))

    def names(self) -> set[str]:
        """Every metric there is."""
        return {dict(labels)["__name__"] for scrapes in self.scrapes.values() for _, series in scrapes for labels in series}

    def samples(self, matches: Callable[[Mapping[str, str]], bool], since: float, until: float) -> dict[Labels, list[tuple[float, float]]]:
        """Every sample in (since, until] of the series that match."""
        found: dict[Labels, list[tuple[float, float]]] = {}
        for scrapes in self.scrapes.values():
            for at, series in scrapes:
                if since < at <= until:
                    for labels, value in series.items():
                        if matches(dict(labels)):
                            found.setdefault(labels, []).append((at, value))
        return found

    def now(self, matches: Callable[[Mapping[str, str]], bool], at: float) -> Vector:
        """The newest sample of each series; a series that the target's last scrape did not have is gone."""
        found: Vector = {}
        for scrapes in self.scrapes.values():
            last = max((scrape for scrape in scrapes if scrape[0] <= at), key=lambda scrape: scrape[0], default=None)
            if last is not None and at - last[0] < 300:
                found |= {labels: value for labels, value in last[1].items() if matches(dict(labels))}
        return found


def firing(rule: Mapping[str, Any], history: History, *, until: float, every: float = 30) -> list[dict[str, str]]:
    """The label sets for which the alert fires at `until`, evaluated since 0."""
    held_s = _duration(rule["for"]) if "for" in rule else 0.0
    since: dict[Labels, float] = {}
    at = 0.0
    while at <= until:
        value = evaluate(rule["expr"], history, at)
        assert isinstance(value, dict), f"{rule['alert']}: an alert's expression is a vector"
        since = {labels: since.get(labels, at) for labels in value}
        at += every
    return [dict(labels) for labels, begun in since.items() if at - every - begun >= held_s]


def evaluate(expression: str, history: History, at: float) -> Value:
    """The value of `expression` at that time."""
    parser = _Parser(_tokens(expression), history, at)
    value = parser.binary(0)
    assert parser.peek() is None, f"not understood from {parser.peek()!r} on: {expression}"
    return value


def _tokens(expression: str) -> list[str]:
    tokens, at = [], 0
    text = expression.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match, f"not understood: {text[at:]}"
        tokens.append(match[1])
        at = match.end()
    return tokens


def _duration(text: str) -> float:
    return float(text[:-1]) * _UNITS[text[-1]]


class _Parser:
    """Reads and evaluates at once."""

    def __init__(self, tokens: Sequence[str], history: History, at: float) -> None:
        self._tokens, self._place, self._history, self._at = tokens, 0, history, at

    def peek(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def take(self, wanted: str | None = None) -> str:
        token = self.peek()
        assert token is not None, f"the end, where {wanted!r} should be"
        assert wanted in (None, token), f"{token!r}, where {wanted!r} should be"
        self._place += 1
        return token

    def binary(self, level: int) -> Value:
        if level == len(_LEVELS):
            return self.one()
        left = self.binary(level + 1)
        while (sign := self.peek()) in _LEVELS[level]:
            self.take()
            left = _combined(str(sign), left, self.binary(level + 1))
        return left

    def one(self) -> Value:
        token = self.take()
        if token == "(":
            value = self.binary(0)
            self.take(")")
            return value
        if token[0].isdigit():
            return float(token)
        if token in _FOLDS:
            return self.fold(token)
        if token == "absent":
            self.take("(")
            value = self.binary(0)
            self.take(")")
            return {} if value else {frozenset(): 1.0}
        if token in {"rate", "increase"}:
            self.take("(")
            value = self.over_time(token)
            self.take(")")
            return value
        assert token.startswith("orderflow_"), f"{token} is not understood"
        return self._history.now(self.selector(token), self._at)

    def fold(self, name: str) -> Vector:
        by: list[str] = []
        if self.peek() == "by":
            self.take()
            self.take("(")
            while (label := self.take()) != ")":
                by += [label] if label != "," else []
        self.take("(")
        inner = self.binary(0)
        self.take(")")
        assert isinstance(inner, dict)
        groups: dict[Labels, list[float]] = {}
        for labels, value in inner.items():
            groups.setdefault(frozenset((key, text) for key, text in labels if key in by), []).append(value)
        return {labels: float(_FOLDS[name](values)) for labels, values in groups.items()}

    def selector(self, name: str) -> Callable[[Mapping[str, str]], bool]:
        wanted: list[tuple[str, str, str]] = [("__name__", "=", name)]
        if self.peek() == "{":
            self.take()
            while self.peek() != "}":
                wanted.append((self.take(), self.take(), self.take().strip('"')))
                if self.peek() == ",":
                    self.take()
            self.take("}")
        tests: dict[str, Callable[[str, str], bool]] = {
            "=": operator.eq, "!=": operator.ne,
            "=~": lambda found, text: bool(re.fullmatch(text, found)), "!~": lambda found, text: not re.fullmatch(text, found),
        }  # fmt: skip
        return lambda labels: all(tests[sign](labels.get(label, ""), text) for label, sign, text in wanted)

    def over_time(self, name: str) -> Vector:
        """rate and increase."""
        matches = self.selector(self.take())
        self.take("[")
        range_s = _duration(self.take())
        self.take("]")
        found: Vector = {}
        for labels, samples in self._history.samples(matches, self._at - range_s, self._at).items():
            if len(samples) < 2:
                continue
            found[_unnamed(labels)] = _increase(samples, self._at - range_s, self._at) / (1 if name == "increase" else range_s)
        return found


def _increase(samples: Sequence[tuple[float, float]], since: float, until: float) -> float:
    """What was counted between the first and the last sample, resets seen, stretched to the ends of the range as Prometheus does."""
    (first_at, first), (last_at, _) = samples[0], samples[-1]
    grown = sum(after - before if after >= before else after for (_, before), (_, after) in itertools.pairwise(samples))
    sampled_s = last_at - first_at
    step_s = sampled_s / (len(samples) - 1)
    before_s, after_s = (gap if gap < 1.1 * step_s else step_s / 2 for gap in (first_at - since, until - last_at))
    if grown > 0:
        before_s = min(before_s, sampled_s * first / grown)  # it was not below zero before
    return grown * (sampled_s + before_s + after_s) / sampled_s


def _combined(sign: str, left: Value, right: Value) -> Value:
    if sign in {"and", "or", "unless"}:
        assert isinstance(left, dict)
        assert isinstance(right, dict)
        if sign == "or":
            return left | {labels: value for labels, value in right.items() if labels not in left}
        return {labels: value for labels, value in left.items() if (labels in right) == (sign == "and")}
    if isinstance(left, dict) and isinstance(right, dict):
        bare = {_unnamed(labels): value for labels, value in right.items()}
        pairs = [(labels, value, bare[_unnamed(labels)]) for labels, value in left.items() if _unnamed(labels) in bare]
    else:
        assert isinstance(left, dict), "only a vector may stand on the left"
        assert isinstance(right, float)
        pairs = [(labels, value, right) for labels, value in left.items()]
    if sign in _COMPARE:
        return {labels: value for labels, value, other in pairs if _COMPARE[sign](value, other)}
    arithmetic: dict[str, Callable[[float, float], float]] = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divided}
    return {_unnamed(labels): arithmetic[sign](value, other) for labels, value, other in pairs}


def _unnamed(labels: Labels) -> Labels:
    return frozenset(pair for pair in labels if pair[0] != "__name__")


def _divided(left: float, right: float) -> float:
    return left / right if right else math.nan
