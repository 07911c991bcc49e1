"""What became of each tenant of a wave: proof, pause, positions; as rows, CSV or a page."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventsource.named_sql import statements
from eventsource.tenant_ids import TenantId, restored

if TYPE_CHECKING:
    from eventsource.fleet.repository import WaveRepository
    from eventsource.fleet.waves import Wave

_SQL = statements("eventsource.fleet.sql", "view.sql")

#: Rows that are read at once.
PAGE = 2_000


@dataclass(frozen=True, slots=True)
class Reported:
    """One tenant of a wave, when it is over.

    Attributes:
        proof: what was compared for it: of its bulk copy, of its last pass, before its cutover.
        pause_ms: the longest that an append of it can have waited.
        last_source_position, last_target_position: where its source ended, at both sides.
        generation: of its route now.
    """

    ordinal: int
    tenant_id: TenantId
    source_store_id: str
    target_store_id: str
    outcome: str
    events: int | None
    proof: str
    pause_ms: float | None
    last_source_position: int | None
    last_target_position: int | None
    generation: int | None
    migration_id: UUID | None
    attempts: int
    began_at: datetime | None
    ended_at: datetime | None
    error_code: str | None
    error_message: str | None

    @classmethod
    def from_row(cls, row: Any) -> Reported:
        """From a row of the ``proofs`` statement."""
        fence, offset = row["fence_position"], row["position_offset"]
        moved = row["state"] == "migrated"
        known = {each.name: row[each.name] for each in fields(cls) if each.name in row.keys()}  # noqa: SIM118
        return cls(
            **known
            | {
                "tenant_id": restored(row["tenant_id"]),
                "outcome": row["outcome"] or ("begun" if row["began_at"] else "waiting"),
                "events": row["events_copied"],
                "proof": _proof(row),
                "pause_ms": row["cutover_pause_ms"],
                "last_source_position": fence,
                "last_target_position": (
                    fence + offset if fence is not None and offset is not None else None
                ),
                "generation": row["generation"] + 1 if moved else None,
            }
        )


def _proof(row: Any) -> str:
    proven = []
    if row["bulk_proven"]:
        proven.append("bulk copy")
    if row["last_pass_proven"]:
        # Who forces a cutover leaves it out, and of a journal that was made again nobody knows.
        if row["comparison"] in ("before the fence", "done before"):
            sample = row["sample"] or 100
            share = "" if sample == 100 else f", a sample of {sample:g} %"
            proven.append(f"comparison ({row['verification_level']}{share})")
        proven.append("last pass")
    return ", ".join(proven)


async def rows_of(waves: WaveRepository, wave: Wave) -> list[Reported]:
    """All tenants of the wave, in their order."""
    found: list[Reported] = []
    while True:
        after = found[-1].ordinal if found else 0
        page = await waves.fetch(_SQL["proofs"], wave.id, after, PAGE)
        found += [Reported.from_row(row) for row in page]
        if len(page) < PAGE:
            return found


NAMES = tuple(each.name for each in fields(Reported))


def as_csv(rows: Sequence[Reported]) -> str:
    """With a heading. What a spreadsheet would take for a formula is written as text."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(NAMES)
    writer.writerows([_cell(getattr(row, name)) for name in NAMES] for row in rows)
    return written.getvalue()


def _cell(value: object) -> str:
    text = _text(value)
    # Of an error message, which may hold text of the tenant's own.
    return f"'{text}" if text[:1] in ("=", "+", "@") or text[:2] == "-=" else text


def _text(value: object) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)


_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 1rem; color: #111; background: #fff }
table { border-collapse: collapse; font-size: 13px }
th, td { border: 1px solid #999; padding: .2rem .5rem; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
"""


def as_html(wave: Wave, rows: Sequence[Reported]) -> str:
    """One file without scripts, to be kept with the records of the change."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.outcome] = counts.get(row.outcome, 0) + 1
    summed = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
    heads = "".join(f"<th scope=col>{name.replace('_', ' ')}</th>" for name in NAMES)
    body = "\n".join(
        "<tr>" + "".join(_td(getattr(row, name)) for name in NAMES) + "</tr>" for row in rows
    )
    history = "\n".join(f"<li>{html.escape(_entry(each))}</li>" for each in wave.history)
    title = f"Wave {html.escape(wave.name)}"
    return (
        f"<!doctype html>\n<html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
        f"<p>{html.escape(wave.state.value)}: {html.escape(summed)}.</p>\n<h2>History</h2>\n<ul>\n"
        f"{history}\n</ul>\n<h2>Tenants</h2>\n<table><thead><tr>{heads}</tr></thead><tbody>\n"
        f"{body}\n</tbody></table></html>\n"
    )


def _entry(entry: Mapping[str, Any]) -> str:
    said = (entry.get(name) for name in ("at", "what", "by", "reason"))
    return " ".join(str(each) for each in said if each)


def _td(value: object) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    shown = f"{value:.1f}" if isinstance(value, float) else _text(value)
    return f"<td{' class=number' if number else ''}>{html.escape(shown)}</td>"
