"""As much of PromQL as the dashboard and the alerts use, over what one scrape has shown.

A range is taken as if the scrape before had shown nothing: so `increase` is the value of now, and
`delta` as well. What this does not understand is an error and not an empty answer.
"""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]

_TOKEN = re.compile(
    r'\s*(?:(?P<string>"[^"]*")|(?P<range>\[\d+[smhd]\])|(?P<number>\d+(?:\.\d+)?)'
    r"|(?P<name>[a-zA-Z_:][\w:]*)|(?P<sign>=~|!~|!=|==|<=|>=|[-+*/<>={}(),]))"
)
_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
    "<=": operator.le, ">=": operator.ge,
}  # fmt: skip
_AGGREGATED: Mapping[str, Callable[[list[float]], float]] = {
    "sum": sum, "min": min, "max": max, "count": lambda values: float(len(values)),
}  # fmt: skip
_OVER_TIME = ("increase", "rate", "delta", "min_over_time", "max_over_time")


class NotUnderstoodError(Exception):
    """The expression is none of those that this can evaluate."""


@dataclass(slots=True)
class Scrape:
    """Samples by metric name; what was asked for by name is remembered."""

    samples: dict[str, list[tuple[dict[str, str], float]]]

    @classmethod
    def of(cls, text: str) -> Scrape:
        """From the text format, parsed by Prometheus' own library."""
        from prometheus_client.parser import text_string_to_metric_families

        samples: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            # A family without samples is exported too: there is nothing to show at the moment.
            for name in (family.name, f"{family.name}_total"):
                samples.setdefault(name, [])
            for sample in family.samples:
                samples[sample.name].append((dict(sample.labels), sample.value))
        return cls(dict(samples))

    def evaluate(self, expression: str) -> Vector:
        """The instant vector of the expression."""
        tokens = _tokens(expression)
        parser = _Parser(self, tokens)
        found = parser.combined()
        if parser.at != len(tokens):
            raise NotUnderstoodError(f"{expression}: from {tokens[parser.at :]}")
        return found


def names_in(expression: str) -> set[str]:
    """The metrics that an expression names."""
    return set(re.findall(r"\beventsource_\w+", expression))


def _tokens(expression: str) -> list[str]:
    found, at = [], 0
    expression = expression.strip()
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise NotUnderstoodError(expression[at:])
        found.append(match[0].strip())
        at = match.end()
    return found


@dataclass(slots=True)
class _Parser:
    scrape: Scrape
    tokens: list[str]
    at: int = 0

    def _next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _take(self, wanted: str | None = None) -> str:
        token = self._next()
        if wanted is not None and token != wanted:
            raise NotUnderstoodError(f"{token} in the place of {wanted}")
        self.at += 1
        return token

    def combined(self) -> Vector:
        left = self._compared()
        while self._next() in ("and", "or"):
            both = self._take() == "and"
            right = self._compared()
            if both:
                left = {labels: value for labels, value in left.items() if labels in right}
            else:
                left = left or right
        return left

    def _compared(self) -> Vector:
        left = self._difference()
        if self._next() in _COMPARED:
            holds = _COMPARED[self._take()]
            bound = float(self._take())
            left = {labels: value for labels, value in left.items() if holds(value, bound)}
        return left

    def _difference(self) -> Vector:
        left = self._one()
        if self._next() == "-":
            self._take()
            ignored: set[str] = set()
            if self._next() == "ignoring":
                self._take()
                ignored = set(self._names())
            right = {_without(labels, ignored): value for labels, value in self._one().items()}
            left = {
                labels: value - right[_without(labels, ignored)]
                for labels, value in left.items()
                if _without(labels, ignored) in right
            }
        return left

    def _one(self) -> Vector:
        name = self._take()
        if name == "(":
            found = self.combined()
            self._take(")")
            return found
        if name in _AGGREGATED:
            return self._aggregated(name)
        if name == "vector":
            self._take("(")
            value = float(self._take())
            self._take(")")
            return {frozenset(): value}
        if name in _OVER_TIME:
            self._take("(")
            found = self._selected(self._take())
            if not self._take().startswith("["):
                raise NotUnderstoodError(f"{name} without a range")
            self._take(")")
            return found
        if name == "histogram_quantile":
            return self._quantile()
        return self._selected(name)

    def _names(self) -> list[str]:
        self._take("(")
        names = []
        while (name := self._take()) != ")":
            if name != ",":
                names.append(name)
        return names

    def _aggregated(self, name: str) -> Vector:
        by: list[str] = []
        if self._next() == "by":
            self._take()
            by = self._names()
        self._take("(")
        inner = self.combined()
        self._take(")")
        groups: dict[Labels, list[float]] = defaultdict(list)
        for labels, value in inner.items():
            groups[frozenset(each for each in labels if each[0] in by)].append(value)
        return {labels: float(_AGGREGATED[name](values)) for labels, values in groups.items()}

    def _quantile(self) -> Vector:
        self._take("(")
        wanted = float(self._take())
        self._take(",")
        buckets = self.combined()
        self._take(")")
        bounds = sorted((float(dict(labels)["le"]), value) for labels, value in buckets.items())
        if not bounds or not bounds[-1][1]:
            return {}
        return {frozenset(): next(le for le, n in bounds if n >= wanted * bounds[-1][1])}

    def _selected(self, name: str) -> Vector:
        if name not in self.scrape.samples:
            raise NotUnderstoodError(f"nobody exports {name}")
        conditions: list[tuple[str, str, str]] = []
        if self._next() == "{":
            self._take()
            while self._next() != "}":
                conditions.append((self._take(), self._take(), self._take().strip('"')))
                if self._next() == ",":
                    self._take()
            self._take("}")
        found: Vector = {}
        for labels, value in self.scrape.samples[name]:
            for label, sign, wanted in conditions:
                if label not in labels:
                    raise NotUnderstoodError(f"{name} has no label {label}")
                if not _matches(labels[label], sign, wanted):
                    break
            else:
                found[frozenset(labels.items())] = value
        return found


def _matches(value: str, sign: str, wanted: str) -> bool:
    if sign in ("=~", "!~"):
        return bool(re.fullmatch(wanted, value)) is (sign == "=~")
    return (value == wanted) is (sign == "=")


def _without(labels: Labels, ignored: set[str]) -> Labels:
    return frozenset(each for each in labels if each[0] not in ignored)
