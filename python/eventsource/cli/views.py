"""How a migration looks on a screen: in a line, in a table, and in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from eventsource.cli import estimates
from eventsource.cli.output import (
    amount,
    clock,
    columns,
    described,
    duration,
    grid,
    labelled,
    local,
)
from eventsource.counts import counted
from eventsource.migration import Migration, MigrationState
from eventsource.migration.driver.lease import process_name
from eventsource.migration.protocol import SPOKEN
from eventsource.migration.rehearsals import Rehearsal
from eventsource.migration.repositories.router_reports import RouterReport
from eventsource.migration.repositories.ways_back import WayBack
from eventsource.migration.routing.route_hook import LateRoute

#: Characters of an id where the whole does not fit.
SHORT = 8

#: Columns of the screen that a table with whole ids needs.
_WIDE = 170

#: What a table says at least: which one, whose, where to, and how it stands.
_FEWEST_COLUMNS = 4

#: What a driver waits for it says at each attempt; after so long without a word it may be gone
#: (seconds).
_BETWEEN_ATTEMPTS = 30.0

_S = MigrationState


def moved(migration: Migration) -> str:
    """Of a migration that is over: how long the fence was held, and where the tenant lives."""
    pause = migration.cutover_pause_ms
    how = "finished by recovery" if pause is None else f"the fence was held for {pause:.1f} ms"
    if pause is not None and migration.longest_wait_ms is not None:
        how += f", a writer waited at most {migration.longest_wait_ms:.1f} ms"
    return f"{how}; the tenant lives in {migration.target_store_id!r}"


def of_way_back(way: WayBack | None) -> list[str]:
    """A line that says how to go back, or why that is not possible in this way."""
    if way is not None and way.is_open and way.kept_until is not None:
        command = f"eventsource-migrate return {way.migration_id}"
        return [labelled("way back", f"{command}, kept until {local(way.kept_until)}")]
    if way is not None and way.reason:
        return [labelled("way back", f"none: {way.reason}")]
    return []


def share(migration: Migration, unit: str = "event") -> str:
    """How many events of how many, and how much that is; `Workspace.unit` says of what."""
    copied, total = migration.events_copied, migration.total_events
    if migration.state is _S.ROLLED_BACK:
        return "removed again"
    if not migration.is_counted:
        # One that has failed, or was restored by a repair, is counted no more.
        is_yet = migration.state in (_S.PENDING, _S.BULK_COPY, _S.PAUSED)
        unknown = "not counted yet" if is_yet else "not counted"
        return f"{counted(copied, unit)}, {unknown}" if copied else unknown
    if copied >= total:
        return f"{counted(copied, unit)}, 100 %"
    return f"{amount(copied)} of {counted(total, unit)}, {migration.progress_percentage:.1f} %"


def newer(found: Migration | WayBack) -> str | None:
    """What is carried on by a newer version alone, and what to do; None of all else."""
    if not found.is_newer:
        return None
    return (
        f"version {found.protocol}, and this process speaks {SPOKEN}: it is left alone; upgrade"
        " this process to change it"
    )


def driver(migration: Migration) -> str | None:
    """Who drives it, or that nobody does; None when there is nothing to drive."""
    if migration.state.is_final and migration.abort_requested is None:
        return None
    if migration.driver_alive and migration.driver_name:
        return migration.driver_name
    if migration.state is _S.PAUSED:
        return "none, it is paused"
    if migration.is_newer:
        return "nobody drives it: start `eventsource-migrate work` of the newer version"
    silent = (datetime.now().astimezone() - migration.updated_at).total_seconds()
    if migration.is_waiting and silent < _BETWEEN_ATTEMPTS:
        # Nobody has the lease then, and the one that waits tries again by itself.
        return f"none, between two attempts; the last one ended {duration(max(silent, 0))} ago"
    return "nobody drives it: start `eventsource-migrate work`, or `resume` it"


def cannot_drive(unknown: Sequence[str]) -> str:
    """That this process waits for another one, and what to do where there is none."""
    names = " and ".join(map(repr, unknown))
    return f"this configuration has no store {names}: add it, or start a `work` whose own has it"


def who_goes_on(migration: Migration) -> str:
    """At the end of a command: whether anybody drives the migration when it is gone.

    A command that waits for a migration drives it meanwhile, and its lease ends with it.
    """
    if migration.driver_alive and migration.driver_name not in (None, process_name()):
        return f"{migration.driver_name} drives it"
    return (
        "nobody drives it from here on, unless a `work` runs, and its lag grows: start"
        " `eventsource-migrate work`"
    )


def pace(migration: Migration) -> str | None:
    """Rate and time that is left, or what it is at without a rate."""
    left = estimates.left(migration)
    if estimates.is_building_indexes(migration):
        rest = "" if left is None or left.indexes is None else f"  ETA {duration(left.indexes)}"
        return f"building indexes{rest}"
    rate = estimates.rate_of(migration)
    if migration.state is not _S.BULK_COPY or rate is None:
        return None
    if left is None:
        return f"{amount(rate)}/s"
    after = "" if left.after is None else f" {duration(left.after)}"
    eta = f"ETA {duration(left.copy)}, then indexes and comparison{after}"
    return f"{amount(rate)}/s  {eta}"


def line(migration: Migration) -> str:
    """One line for one moment: what changed in `work`, and in `status --watch` without a screen."""
    remarks = (pace(migration), slowed(migration), migration.error_message)
    start = f"{clock()}  {short(migration.id)}  {migration.state:<14}  {share(migration)}"
    return "  ".join([start, *(" ".join(each.split()) for each in remarks if each)])


def slowed(migration: Migration) -> str | None:
    """The rate to which the copy is limited to spare the source, and why."""
    if migration.throttle_rate is None:
        return None
    return f"slowed to {counted(migration.throttle_rate, 'event')}/s: {migration.throttle_reason}"


def last_cutover(migration: Migration) -> str | None:
    """How the last cutover that was asked for ended, while the tenant has not moved."""
    outcome = migration.cutover_outcome
    if outcome is None or migration.state is _S.MIGRATED or outcome.get("code") == "ok":
        return None
    at = outcome.get("at")
    when = f"{clock(datetime.fromisoformat(at))}  " if at else ""
    return f"{when}{outcome.get('message', outcome.get('code'))}"


def last_rehearsal(migration: Migration) -> str | None:
    """What the last rehearsal has shown, while the tenant has not moved."""
    if migration.rehearsal_outcome is None or migration.state.is_final:
        return None
    return str(Rehearsal.of(migration.updated_at, None, migration.rehearsal_outcome))


def _longest(migration: Migration) -> str | None:
    longest = migration.longest_wait_ms
    return None if longest is None else f"{longest:.1f} ms, of a writer at the fence"


def followed(way: WayBack) -> str:
    """Since when nobody has carried what is new to the store that would be returned to."""
    ago = duration(way.unfollowed_seconds or 0.0)
    if way.is_left_alone:
        return f"nobody has followed it for {ago}: start `eventsource-migrate work`"
    return f"{ago} ago"


def _way_back(way: WayBack | None) -> str | None:
    """Whether the tenant can return, and by how much the store that it would return to lags."""
    if way is None:
        return None
    # "closed by ada" says that it is closed.
    is_said = way.reason is not None and way.reason.startswith(f"{way.shown} ")
    said = [] if is_said else [way.shown]
    if way.kept_until is not None and way.is_open:
        said.append(f"kept until {local(way.kept_until)}")
    if way.lag is not None and way.is_open:
        said.append(counted(way.lag, "event behind", "events behind"))
    if way.is_left_alone:
        said.append(followed(way))
    if way.reason:
        said.append(way.reason)
    return ", ".join(said)


def details(
    migration: Migration,
    lag: int | None,
    way: WayBack | None = None,
    reports: Sequence[RouterReport] = (),
    silent: int | None = 0,
    hook: LateRoute | None = None,
    control: str | None = None,
    stores: str | None = None,
    unit: str = "event",
) -> str:
    """Everything that an operator asks about one migration."""
    asked = [
        name
        for name, is_asked in (
            ("pause", migration.pause_requested),
            ("abort", migration.abort_requested is not None and not migration.state.is_final),
            ("cutover", migration.cutover_request is not None),
            ("rehearsal", migration.rehearsal_request is not None),
        )
        if is_asked
    ]
    limit = None if migration.state.is_final else migration.config.max_events_per_second
    slow = slowed(migration)
    fence = migration.cutover_pause_ms
    return grid(
        ("migration", migration.id),
        ("tenant", migration.tenant_id),
        ("move", f"{migration.source_store_id!r} to {migration.target_store_id!r}"),
        ("state", migration.state),
        ("protocol", newer(migration)),
        ("control", control),
        ("stores", stores),
        ("carried", share(migration, unit)),
        ("pace", pace(migration)),
        ("limit", None if limit is None else f"{counted(limit, unit)}/s"),
        ("slowed to", slow and slow.removeprefix("slowed to ")),
        ("lag", None if lag is None else counted(lag, unit)),
        ("requested", ", ".join(asked) or None),
        ("pauses at", migration.pause_at and local(migration.pause_at)),
        ("fence held", None if fence is None else f"{fence:.1f} ms"),
        ("longest wait", None if fence is None else _longest(migration)),
        ("last cutover", last_cutover(migration)),
        ("rehearsal", last_rehearsal(migration)),
        ("driver", driver(migration)),
        ("routers", None if migration.state.is_final else _readiness(reports, silent)),
        ("way back", _way_back(way)),
        ("route hook", hook and _late(hook)),
        ("message", migration.error_message),
        ("started", local(migration.created_at)),
        ("ended", migration.completed_at and local(migration.completed_at)),
        ("took" if migration.completed_at else "elapsed", duration(estimates.elapsed(migration))),
    )


def _late(hook: LateRoute) -> str:
    """Since when another library's routing table lags, and why."""
    why = hook.error or "nobody has tried yet: start `eventsource-migrate work`"
    return f"its table does not have the route of {local(hook.since)} yet: {why}"


def routers(reports: Sequence[RouterReport], screen: int | None = None) -> str:
    """One row for each router, or a sentence where none has said anything."""
    if not reports:
        return "no process that appends for the tenant has said anything yet"
    rows = []
    for each in reports:
        answer = "yes" if each.ready else "no"
        if each.left_out_by:
            answer += f", left out by {each.left_out_by}"
        elif not each.is_live:
            answer += ", not seen any more"
        longest = None if each.longest_append_ms is None else f"{each.longest_append_ms:.1f} ms"
        rows.append((each.router, answer, clock(each.seen_at), longest, each.reason))
    return columns(("router", "ready", "seen", "longest append", "reason"), rows, screen)


def unreported(sessions: int | None) -> list[str]:
    """A line about sessions at the source of which nobody has said anything; None is not known."""
    if sessions is None:
        return ["how many sessions may append and have not reported is not known"]
    if sessions == 0:
        return []
    if sessions == 1:
        return ["1 session that may append has not reported, and is not waited for"]
    return [f"{sessions} sessions that may append have not reported, and are not waited for"]


def _readiness(reports: Sequence[RouterReport], sessions: int | None) -> str | None:
    """Whether those that append for the tenant could write at the target."""
    live = [each for each in reports if each.is_live]
    ready = sum(each.ready for each in live)
    said = [f"{ready} of {len(live)} could write at the target"] if live else []
    unready = [f"not ready: {each}" for each in live if not each.ready]
    return "; ".join([*said, *unready, *unreported(sessions)]) or None


def document(migration: Migration, lag: int | None = None) -> dict[str, object]:
    """The same for programs."""
    left = estimates.left(migration)
    return {
        **described(migration),
        "lag": lag,
        "events_per_second": estimates.rate_of(migration),
        "seconds_left": left,
        "elapsed_seconds": round(estimates.elapsed(migration), 3),
    }


def table(
    found: Sequence[Migration],
    width: int,
    operators: Mapping[UUID, str] | None = None,
    lags: Mapping[UUID, int | None] | None = None,
) -> str:
    """One row for each; `status` has the rest.

    Whole ids where the width allows it; in a narrow terminal columns are left out at the end.
    """
    who = operators or {}
    is_wide = width >= _WIDE
    cells: dict[str, list[object]] = {
        "migration": [str(each.id) if is_wide else short(each.id) for each in found],
        "tenant": [str(each.tenant_id) if is_wide else short(each.tenant_id) for each in found],
        **({"from": [each.source_store_id for each in found]} if is_wide else {}),
        "to": [each.target_store_id for each in found],
        "state": [_state(each) for each in found],
        "carried": [_carried(each, is_wide) for each in found],
        **({"lag": [_lag(lags.get(each.id)) for each in found]} if lags else {}),
        "started": [_started(each.created_at, is_wide) for each in found],
        "took": [_brief(estimates.elapsed(each)) for each in found],
        "by": [who.get(each.id, "") for each in found],
    }
    while True:
        shown = columns(list(cells), zip(*cells.values(), strict=True))
        if len(cells) <= _FEWEST_COLUMNS or max(map(len, shown.splitlines())) <= width:
            return shown
        cells.popitem()


def short(id_: object) -> str:
    """The first characters of an id, which every command takes for it."""
    return str(id_)[:SHORT]


def _state(migration: Migration) -> str:
    return f"{migration.state}{f', protocol {migration.protocol}' if migration.is_newer else ''}"


def _carried(migration: Migration, is_wide: bool) -> str:
    if migration.state is _S.ROLLED_BACK:
        return "removed"
    events = migration.events_copied
    if not migration.is_counted and (events or migration.state is _S.MIGRATED):
        return "" if not events else amount(events) if is_wide else _rounded(events)
    full = events >= migration.total_events and migration.total_events
    percent = 100.0 if full else migration.progress_percentage
    return f"{amount(events) if is_wide else _rounded(events)} {percent:.0f}%"


def _lag(events: int | None) -> str:
    return "" if events is None else amount(events)


def _rounded(number: float) -> str:
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G"


def _started(when: datetime, is_wide: bool) -> str:
    here = when.astimezone()
    if is_wide:
        return here.strftime("%m-%d %H:%M")
    is_today = here.date() == datetime.now().astimezone().date()
    return here.strftime("%H:%M" if is_today else "%m-%d")


def _brief(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f}s"
    if seconds < 6000:
        return f"{seconds / 60:.0f}min"
    return f"{seconds / 3600:.0f}h"
