"""A report as text, as JSON and as one HTML file without network access."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

from eventsource.cli.output import amount, brief, columns, grid, local
from eventsource.cli.report.seal import sealed
from eventsource.cli.report.timeline import picture
from eventsource.counts import counted

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 980px; margin: 2rem auto;
       padding: 0 1rem; background: #fff; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
       padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #e4e7eb; overflow-wrap: anywhere }
th, .log td:not(:last-child) { white-space: nowrap } th { font-weight: 600 }
code { font-size: .9em } .note { color: #5b6673 }
@media print { body { margin: 0 } }
"""


def as_json(report: Mapping[str, Any]) -> str:
    """One JSON document; its last entry is the digest of what comes before it."""
    body = json.dumps(report, ensure_ascii=False, indent=1, default=str)
    return sealed(body.removesuffix("\n}") + ",\n ", "json")


def as_text(report: Mapping[str, Any]) -> str:
    """For the terminal."""
    parts = [grid(*(_rows(report)))]
    parts.append(
        columns(("at", "what", "by", "details"), list(_log(report))),
    )
    return sealed("\n\n".join(parts) + "\n\n", "text")


def as_html(report: Mapping[str, Any]) -> str:
    """One file: text, picture and, for programs, the document itself."""
    migration = report["migration"]
    title = f"Tenant {migration['tenant_id']}: {migration['from']} to {migration['to']}"
    facts = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in _rows(report)
        if value is not None
    )
    log = "".join(
        "<tr>" + "".join(f"<td>{escape(cell or '')}</td>" for cell in row) + "</tr>"
        for row in _log(report)
    )
    embedded = json.dumps(report, ensure_ascii=False, default=str).replace("<", "\\u003c")
    return sealed(
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        # Nothing is fetched from anywhere, whatever a name in the document may hold.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src'
        " 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        f'<p class="note">Made {escape(_local(report["made_at"]) or "")} by eventsource-migrate'
        f" {escape(report['product']['version'])}. The digest at the end of this file is that of"
        " everything before it: <code>eventsource-migrate report --check FILE</code> compares it"
        " with the file and with the audit log.</p>\n"
        f"<h2>Course</h2>\n{picture(report)}\n<h2>Facts</h2>\n<table>{facts}</table>\n"
        '<h2>Log</h2>\n<table class="log"><tr><th>at</th><th>what</th><th>by</th>'
        f"<th>details</th></tr>{log}"
        f'</table>\n<script type="application/json" id="report">{embedded}</script>\n'
        "</body></html>\n",
        "html",
    )


def _rows(report: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    migration, cutover = report["migration"], report["cutover"]
    tables = _tables(report["stores"])
    unit = "row" if tables else "event"
    yield "migration", migration["id"]
    yield "tenant", migration["tenant_id"]
    yield "move", f"{migration['from']!r} to {migration['to']!r}"
    yield "state", migration["state"]
    yield f"{unit}s", f"{amount(migration['carried'])} of {amount(migration['events'])}"
    yield "tables", ", ".join(tables) or None
    yield "asked for", _local(migration["asked_at"])
    yield "ended", _local(migration["ended_at"])
    yield "by", ", ".join(report["who"]) or None
    for side in ("source", "target"):
        yield side, _store(report["stores"][side])
    yield "positions", _positions(migration)
    yield "verification", _verification(report["verification"], cutover["asked"], unit)
    yield "rehearsals", _rehearsals(report["rehearsals"])
    held, longest = cutover["fence_held_ms"], cutover["longest_wait_of_a_writer_ms"]
    yield "fence held", None if held is None else f"{held:.1f} ms"
    yield (
        "longest wait",
        None if longest is None else f"{longest:.1f} ms of a writer at the fence",
    )
    yield "longest append", _longest_append(cutover)
    yield "in the way", _blockers(cutover.get("in_the_way"))
    yield "decided on", _decided(report["stores"]["source"].get("decided_on"), unit)
    yield "subscriptions", _subscriptions(report["subscriptions"])
    yield "redelivered", _redelivered(report["redelivery"])
    yield "way back", _way_back(report["way_back"], migration["id"])
    for each in report["there_and_back"]:
        yield "there, back", _step(each, migration["id"])
    for each in report["cleanups"]:
        yield (
            "cleaned up",
            f"{counted(each['deleted'], 'old row')} in {each['store']!r}, each compared with"
            f" {each['home']!r} first, {_local(each['at'])}{_by(each['by'])}",
        )
    yield "message", migration["message"]
    yield (
        "versions",
        f"eventsource-migration {report['product']['version']}; control PostgreSQL"
        f" {report['control']['server']}",
    )


def _tables(stores: Mapping[str, Any]) -> list[str]:
    """Of a layout those whose rows have moved, as either store has said; none of our own."""
    return next((each["tables"] for each in stores.values() if "tables" in each), [])


def _store(store: Mapping[str, Any]) -> str:
    place = store["identity"]["name"] if store["identity"] else "place not recorded"
    cluster = f", cluster {store['identity']['system']}" if store["identity"] else ""
    server = f", PostgreSQL {store['server']}" if "server" in store else ""
    unknown = f"; {store['unknown']}" if "unknown" in store else ""
    return f"{store['store']!r}: {place}{cluster}{server}{unknown}"


def _positions(migration: Mapping[str, Any]) -> str | None:
    if migration["position_offset"] is None:
        return None
    end = migration["fence_position"]
    until = f", up to {end} at the source" if end is not None else ""
    return f"target = source + {migration['position_offset']}{until}"


def _verification(found: Mapping[str, Any], asked: Sequence[Mapping[str, Any]], unit: str) -> str:
    sample = found["sample_percentage"]
    share = "" if sample == 100 else f" of {sample:g} % of the streams"
    made = [
        f"{'equal' if each.get('consistent') else 'NOT equal'}, {amount(each.get('events', 0))}"
        f" {unit}s, {_local(each['at'])}"
        for each in found["made"]
    ]
    how = "; ".join(made)
    if not how:
        # Who forces a cutover leaves it out, and one that nobody asked for has made none.
        how = asked[-1].get("comparison", "not known") if asked else "not made"
        if how != "before the fence":
            return f"the comparison of both stores: {how}. In every pass {found['every_pass']}"
    blind = found["does_not_see"]
    sees = f"It does not see {blind}" if blind else "It sees every difference in a carried column"
    return f"level {found['level']}{share}: {how}. {sees}. In every pass {found['every_pass']}"


def _rehearsals(found: list[Mapping[str, Any]]) -> str | None:
    if not found:
        return None
    fitted = [f"{each['pause_ms']:.1f} ms" for each in found if each.get("code") == "ok"]
    return f"{len(fitted)} of {len(found)} fitted: {', '.join(fitted) or 'none'}"


def _longest_append(cutover: Mapping[str, Any]) -> str | None:
    """What the applications have seen of it; the fence cannot know that."""
    if cutover["fence_held_ms"] is None:
        return None
    longest, routers = cutover["longest_append_ms"], cutover["routers_that_measured"]
    if longest is None:
        return "not measured: no router has reported one"
    of = "1 router" if routers == 1 else f"{routers} routers"
    return f"{longest:.1f} ms from call to answer, of {of}: {cutover['longest_append_by']}"


def _blockers(found: list[Mapping[str, Any]] | None) -> str | None:
    if not found:
        return None
    return "; ".join(
        f"pid {each['pid']} ({each['application']}, {each['state']}, {each['age_seconds']:.1f} s)"
        for each in found
    )


def _decided(found: Mapping[str, Any] | None, unit: str) -> str | None:
    if found is None:
        return None
    return (
        f"{counted(found['events'], unit)}; last pass {found['last_pass']} with"
        f" {counted(found['rows_of_last_pass'], 'row')}, digest {found['digest_of_last_pass']}"
    )


def _way_back(found: Mapping[str, Any] | None, migration_id: str) -> str | None:
    if found is None:
        return None
    parts = [found["state"]]
    if found.get("back_to"):
        parts[0] += f" to {found['back_to']!r}"
    if found["state"] == "armed":
        parts.append(f"kept until {_local(found['kept_until'])}")
        parts.append(f"eventsource-migrate return {migration_id}")
    if found.get("carried"):
        parts.append(f"{counted(found['carried'], 'event')} carried")
    if found.get("reason"):
        parts.append(found["reason"])
    return "; ".join(parts)


def _step(found: Mapping[str, Any], this: str) -> str:
    held = found["fence_held_ms"]
    pause = "" if held is None else f", fence held {held:.1f} ms"
    if found["longest_append_ms"] is not None:
        pause += f", longest append {found['longest_append_ms']:.1f} ms"
    mark = " (this one)" if found["id"] == this else ""
    ended = _local(found["ended_at"]) or "not ended"
    return (
        f"{found['from']!r} to {found['to']!r}: {found['state']}, {ended}{pause}, migration"
        f" {found['id']}{mark}"
    )


def _by(who: str | None) -> str:
    return f", by {who}" if who else ""


def _subscriptions(found: list[Mapping[str, Any]]) -> str | None:
    lines = [
        f"{each['name']}: {each['source_position']} to {each['target_position']},"
        f" {counted(each['redelivered_events'], 'event')} again by prediction"
        for entry in found
        for each in entry["subscriptions"]
    ]
    return "; ".join(lines) or None


def _redelivered(found: list[Mapping[str, Any]]) -> str | None:
    """By how much a prediction was kept."""
    lines = []
    for each in found:
        if each["so_far"] is None:
            said = f"not known: {each['unknown']}"
        elif each["left"]:
            said = f"{amount(each['so_far'])} so far, {amount(each['left'])} to come"
        else:
            said = f"{amount(each['so_far'])} by its checkpoints"
        lines.append(f"{each['subscription']}: predicted {amount(each['predicted'])}, {said}")
    return "; ".join(lines) or None


def _log(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for entry in report["log"]:
        yield (
            _local(entry["at"]) or "", entry["what"], entry["by"] or "", brief(entry["details"])
        )  # fmt: skip


def _local(text: str | None) -> str | None:
    return None if text is None else local(datetime.fromisoformat(text))
