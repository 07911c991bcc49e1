"""The course of a move as a picture: SVG that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT = 900, 110, 24
_COLOURS = {
    "pending": "#9aa5b1",
    "bulk_copy": "#3b7dd8",
    "dual_write": "#2f9e77",
    "cutover_paused": "#d9822b",
    "paused": "#c8ccd2",
    "migrated": "#1f6f54",
    "rolled_back": "#8a5a9e",
    "failed": "#c0392b",
}
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'


def picture(report: Mapping[str, Any]) -> str:
    """The states over the time, the rehearsals, and under a lens what writers waited for."""
    states = [(each["state"], datetime.fromisoformat(each["since"])) for each in report["states"]]
    began, ended = states[0][1], _end(report, states)
    span = max((ended - began).total_seconds(), 0.001)
    parts = [
        *_bars(states, began, ended, span),
        *_rehearsals(report, began, span),
        *_axis(began, span),
        *_lens(report["cutover"]),
    ]
    height = 284 if report["cutover"].get("fence_held_ms") is not None else 130
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="100%"'
        f' role="img" aria-label="the course of the move">{"".join(parts)}</svg>'
    )


def _end(report: Mapping[str, Any], states: list[tuple[str, datetime]]) -> datetime:
    last = report["migration"]["ended_at"] or report["made_at"]
    return max(datetime.fromisoformat(last), states[-1][1])


def _x(seconds: float, span: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * min(max(seconds / span, 0.0), 1.0)


def _bars(
    states: list[tuple[str, datetime]], began: datetime, ended: datetime, span: float
) -> Iterator[str]:
    yield f'<text x="8" y="47" {_FONT}>states</text>'
    following = [*(since for _, since in states[1:]), ended]
    for (state, since), until in zip(states, following, strict=True):
        left = _x((since - began).total_seconds(), span)
        # What is over in a moment is seen all the same.
        width = max(_x((until - began).total_seconds(), span) - left, 2.0)
        title = escape(
            f"{state}: {_length((until - since).total_seconds())}, since {_local(since)}"
        )
        yield (
            f'<rect x="{left:.1f}" y="30" width="{width:.1f}" height="26" rx="2"'
            f' fill="{_COLOURS.get(state, "#555")}"><title>{title}</title></rect>'
        )
        if width > 8 * len(state):
            yield (f'<text x="{left + 6:.1f}" y="47" fill="#fff" {_FONT}>{escape(state)}</text>')


def _rehearsals(report: Mapping[str, Any], began: datetime, span: float) -> Iterator[str]:
    if not report["rehearsals"]:
        return
    yield f'<text x="8" y="78" {_FONT}>rehearsals</text>'
    for each in report["rehearsals"]:
        x = _x((datetime.fromisoformat(each["at"]) - began).total_seconds(), span)
        fits = each.get("code") == "ok"
        shown = f"{each['pause_ms']:.1f} ms" if fits else str(each.get("message"))
        yield (
            f'<circle cx="{x:.1f}" cy="74" r="5" fill="{"#2f9e77" if fits else "#c0392b"}">'
            f"<title>{escape(shown)}</title></circle>"
        )


def _axis(began: datetime, span: float) -> Iterator[str]:
    yield f'<line x1="{LEFT}" y1="92" x2="{WIDTH - RIGHT}" y2="92" stroke="#9aa5b1"/>'
    for number in range(5):
        seconds = span * number / 4
        x, anchor = _x(seconds, span), ("start", "middle", "middle", "middle", "end")[number]
        at = _local(began + timedelta(seconds=seconds))
        yield f'<line x1="{x:.1f}" y1="88" x2="{x:.1f}" y2="96" stroke="#9aa5b1"/>'
        yield (
            f'<text x="{x:.1f}" y="111" text-anchor="{anchor}" {_FONT}>'
            f"{escape(_tick(at, began + timedelta(seconds=seconds), span))}</text>"
        )


def _tick(local: str, at: datetime, span: float) -> str:
    """As much of a time as keeps two ticks apart."""
    if span >= 86400:
        return local[:16]
    return local[11:19] if span >= 20 else f"{local[11:19]}.{at.microsecond // 100_000}"


def _lens(cutover: Mapping[str, Any]) -> Iterator[str]:
    """What took milliseconds would not be seen beside hours: on a scale of its own."""
    held = cutover.get("fence_held_ms")
    if held is None:
        return
    longest = cutover.get("longest_wait_of_a_writer_ms")
    append = cutover.get("longest_append_ms")
    span = max(held, longest or 0.0, append or 0.0, 0.1)
    waited = cutover.get("lock_wait_ms") or 0.0
    yield f'<text x="{LEFT}" y="148" {_FONT} font-weight="bold">the cutover</text>'
    rows = (
        ("fence held", ((0.0, waited, "#e8b07a", "appends in flight"),
                        (waited, held, "#d9822b", "last pass, decision, opening"))),
        ("longest wait", () if longest is None else (
                        (0.0, longest, "#7a5195", "of a writer at the fence"),)),
        ("longest append", () if append is None else (
                        (0.0, append, "#3b7dd8", "from call to answer"),)),
    )  # fmt: skip
    for number, (label, pieces) in enumerate(rows):
        y = 160 + 34 * number
        yield f'<text x="8" y="{y + 17}" {_FONT}>{label}</text>'
        if not pieces:
            yield f'<text x="{LEFT + 8}" y="{y + 17}" fill="#1c2430" {_FONT}>not measured</text>'
            continue
        for start, end, colour, what in pieces:
            left = _x(start, span)
            width = max(_x(end, span) - left, 1.0 if end > start else 0.0)
            yield (
                f'<rect x="{left:.1f}" y="{y}" width="{width:.1f}" height="24" rx="2"'
                f' fill="{colour}"><title>{what}: {end - start:.1f} ms</title></rect>'
            )
        total = pieces[-1][1]
        inside = _x(total, span) > WIDTH - 120
        x = _x(total, span) - 8 if inside else _x(total, span) + 8
        anchor, fill = ("end", "#fff") if inside else ("start", "#1c2430")
        yield (
            f'<text x="{x:.1f}" y="{y + 17}" text-anchor="{anchor}" fill="{fill}" {_FONT}>'
            f"{total:.1f} ms</text>"
        )


def _local(at: datetime) -> str:
    return at.astimezone().isoformat(sep=" ", timespec="seconds")


def _length(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min {seconds % 60:02.0f} s"
