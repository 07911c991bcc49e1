"""Charts as SVG text, drawn by hand: lines and grouped bars, linear or logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 76, 52

#: Distinct in colour and in lightness, also for readers who see few colours.
COLOURS = ("#0b5fa5", "#d1603d", "#4f8a3c", "#7a5195", "#8a8a8a")

_MIDDLE = 'text-anchor="middle"'


@dataclass(frozen=True, slots=True)
class Series:
    """One line or one set of bars; ``points`` are (x, y), for bars (number of the bin, y)."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of values from ``low`` to ``high``."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between low (0) and high (1)."""
        if self.log:
            value, low, high = (math.log10(max(v, 1e-12)) for v in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low or 1)))

    def ticks(self) -> list[float]:
        """Round numbers within the axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        span = self.high - self.low
        step = 10 ** math.floor(math.log10(span / 5))
        step = next(step * times for times in (1, 2, 5, 10) if span / (step * times) <= 6)
        first = math.ceil(self.low / step)
        return [number * step for number in range(first, math.floor(self.high / step) + 1)]


def tick_label(value: float) -> str:
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def axis_over(label: str, values: Sequence[float], *, log: bool = False) -> Axis:
    """An axis that holds all values, from zero where it is linear."""
    if not log:
        return Axis(label, 0.0, max(values, default=1.0) * 1.05 or 1.0)
    positive = [value for value in values if value > 0] or [1.0]
    low = 10 ** math.floor(math.log10(min(positive)))
    return Axis(label, low, 10 ** math.ceil(math.log10(max(positive) * 1.0001)), log=True)


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series], *, dots: bool = False) -> str:
    """A line for each series; with ``dots`` its points are marked."""
    body = []
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        at = [(_x(x.share(px)), _y(y.share(py))) for px, py in one.points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in at)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for px, py in at if dots else at[-1:]:
            body.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"/>')
    marks = [(x.share(value), tick_label(value)) for value in x.ticks()]
    return _chart(title, x.label, marks, y, series, body)


def bars(
    title: str, x_label: str, bins: Sequence[str], y: Axis, series: Sequence[Series]
) -> str:  # fmt: skip
    """Grouped bars, one group for each bin; ``bins`` label them, an empty label stays blank."""
    width = 1 / len(bins)
    body = []
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        thin = width * 0.8 / len(series)
        for at, value in one.points:
            if value <= 0:
                continue
            left, top = _x(at * width + width * 0.1 + number * thin), _y(y.share(value))
            size = f'width="{thin * _span_x():.1f}" height="{HEIGHT - BOTTOM - top:.1f}"'
            body.append(f'<rect x="{left:.1f}" y="{top:.1f}" {size} fill="{colour}"/>')
    marks = [((number + 0.5) * width, text) for number, text in enumerate(bins) if text]
    return _chart(title, x_label, marks, y, series, body)


def _span_x() -> float:
    return WIDTH - LEFT - RIGHT


def _x(share: float) -> float:
    return LEFT + share * _span_x()


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def _chart(
    title: str,
    x_label: str,
    x_marks: Sequence[tuple[float, str]],
    y: Axis,
    series: Sequence[Series],
    body: Sequence[str],
) -> str:
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(title)}" font-family="sans-serif" font-size="13" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 24, title, 'font-size="16" font-weight="bold"'),
    ]
    for value in y.ticks():
        at = _y(y.share(value))
        out.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(_text(LEFT - 8, at + 4, tick_label(value), 'text-anchor="end"'))
    for share, text in x_marks:
        out.append(_text(_x(share), HEIGHT - BOTTOM + 20, text, _MIDDLE))
    out.append(f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="#333"/>')
    out.append(_text(_x(0.5), HEIGHT - 10, x_label, _MIDDLE))
    turned = f'transform="rotate(-90 16 {_y(0.5):.1f})"'
    out.append(_text(16, _y(0.5), y.label, f"{_MIDDLE} {turned}"))
    return "\n".join([*out, *body, *_legend(series), "</svg>"]) + "\n"


def _legend(series: Sequence[Series]) -> list[str]:
    """Names in their colours, in rows above the chart."""
    out, x, y = [], float(LEFT), 44.0
    for number, one in enumerate(series):
        width = 22 + 6.6 * len(one.name)
        if x + width > WIDTH - RIGHT and x > LEFT:
            x, y = float(LEFT), y + 18
        colour = COLOURS[number % len(COLOURS)]
        out.append(f'<rect x="{x:.1f}" y="{y - 10:.1f}" width="12" height="12" fill="{colour}"/>')
        out.append(_text(x + 17, y, one.name))
        x += width + 14
    return out
