"""The independent checker: did one tenant's move keep every promise?

It reads both servers with plain SQL text over plain connections. It uses neither the product's
stores nor its verifier, and judges by what the writers recorded: see ``invariants``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg

from eventsource.testing import invariants
from eventsource.testing.invariants import History, MappingRow, Row, Violation
from eventsource.testing.records import Attempt, Outcome
from eventsource.testing.writer_config import StoreAddress

# Of each kind of violation only the first ones are kept; all are counted.
_KEPT = 20

# Text must not depend on who asks.
_RENDERING = {
    "application_name": "eventsource-checker",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "row_security": "off",
}

_COLUMNS = """
select attname from pg_catalog.pg_attribute
where attrelid = $1::text::regclass and attnum > 0 and not attisdropped
"""

_MIGRATION = """
select tenant_id, state, source_store_id, target_store_id, position_offset, fence_position,
       to_jsonb(m) -> 'config' ->> 'position_mapping' as position_mapping
from tenant_migrations m where id = $1
"""

_ROUTE = """
select store_id, migration_state from tenant_routing where tenant_id::text = $1
"""

_MAPPING = """
select source_position, target_position, event_id::text
from migration_position_mappings where migration_id = $1
"""


@dataclass(slots=True)
class CheckReport:
    """What the checker found out about one tenant.

    Counts of events: ``attempted`` by writers, of which ``acknowledged``, ``refused`` and
    ``unknown``; ``found`` are the acknowledged ones (and those of the baseline, ``preloaded``)
    that are in the authoritative store, ``lost`` the others. ``carried`` rows are on both sides,
    ``written_at_target`` only there. ``failed_appends`` counts answers that were errors, by text.
    """

    tenant_id: UUID
    migration_id: UUID | None = None
    source_rows: int = 0
    target_rows: int = 0
    mapping_rows: int = 0
    streams: int = 0
    preloaded: int = 0
    attempted: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    unknown_found: int = 0
    found: int = 0
    carried: int = 0
    written_at_target: int = 0
    failed_appends: Counter[str] = field(default_factory=Counter)
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Acknowledged events that are not there."""
        return self.kinds["I1", "lost"]

    @property
    def duplicated(self) -> int:
        """Events that are there more than once."""
        return self.kinds["I1", "duplicated"]

    @property
    def unattempted(self) -> int:
        """Events that nobody tried to append."""
        return self.kinds["I2", "unattempted"]

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return not self.kinds

    def assert_clean(self) -> None:
        """Raise AssertionError that names every kind of violation and the first of each."""
        if self.is_clean:
            return
        lines = [f"tenant {self.tenant_id}:"]
        for (invariant, kind), count in sorted(self.kinds.items()):
            lines.append(f"{count} x {invariant} {kind}")
            same = [v for v in self.violations if (v.invariant, v.kind) == (invariant, kind)]
            lines += [f"    {violation.detail}" for violation in same[:3]]
        raise AssertionError("\n".join(lines))

    def add(self, *found: Iterable[Violation]) -> None:
        """Count violations, and keep the first of each kind."""
        for violations in found:
            for violation in violations:
                key = (violation.invariant, violation.kind)
                self.kinds[key] += 1
                if self.kinds[key] <= _KEPT:
                    self.violations.append(violation)


async def read_rows(store: StoreAddress, tenant_id: UUID, filled: Iterable[str] = ()) -> list[Row]:
    """The tenant's rows of one store, in the order of position; also the baseline of a test.

    ``filled`` are columns that each side fills for itself, such as stamps of its cluster.
    """
    connection = await asyncpg.connect(store.dsn, server_settings=_RENDERING)
    try:
        return await _rows(connection, store.table, tenant_id, filled)
    finally:
        await connection.close()


async def check_moved(
    *,
    source: StoreAddress,
    target: StoreAddress,
    control_dsn: str,
    tenant_id: UUID,
    migration_id: UUID,
    attempts: Iterable[Attempt],
    baseline: Iterable[Row] = (),
    filled: Iterable[str] = (),
) -> CheckReport:
    """Check I1 to I7 for a tenant that has moved and whose source rows are still there.

    The target is the authoritative store. Call it when no writer writes for the tenant any more;
    the rows of both sides are held in memory.

    Args:
        attempts: of all writer processes; those of other tenants are ignored.
        baseline: rows that were at the source before any writer began (``read_rows``).
        filled: columns that each side fills for itself; they are not compared.
    """
    filled = tuple(filled)
    control = await asyncpg.connect(control_dsn, server_settings=_RENDERING)
    try:
        migration = await control.fetchrow(_MIGRATION, migration_id)
        route = await control.fetchrow(_ROUTE, str(tenant_id))
        mapping = [MappingRow(*row) for row in await control.fetch(_MAPPING, migration_id)]
    finally:
        await control.close()
    at_source = await read_rows(source, tenant_id, filled)
    at_target = await read_rows(target, tenant_id, filled)
    own = [attempt for attempt in attempts if attempt.tenant_id == str(tenant_id)]
    history = History.of(own, baseline)
    report = _counts(tenant_id, migration_id, own, history, at_target)
    report.source_rows, report.target_rows = len(at_source), len(at_target)
    report.mapping_rows = len(mapping)
    moved = {row.event_id for row in at_source} & {row.event_id for row in at_target}
    report.carried, report.written_at_target = len(moved), len(at_target) - len(moved)
    report.add(_journal_says_moved(migration, route, tenant_id))
    offset = (migration["position_offset"] if migration else None) or 0
    fence_position = migration["fence_position"] if migration else None
    report.add(
        _authoritative(history, own, at_target, offset),
        invariants.copies_are_equal(at_source, at_target, offset),
        _mapping_is_right(migration, at_source, at_target, mapping),
        invariants.one_writer_epoch(at_source, at_target, offset, fence_position),
        await _tables_match(source, target, filled),
    )
    return report


async def check_returned(
    *,
    home: StoreAddress,
    left: StoreAddress,
    control_dsn: str,
    tenant_id: UUID,
    migration_id: UUID,
    attempts: Iterable[Attempt],
    baseline: Iterable[Row] = (),
    offset: int = 0,
) -> CheckReport:
    """Check I1 to I4, I6 and I7 for a tenant that has returned by a way back, or gone forth again.

    Args:
        home: where the tenant lives now.
        left: the store that it has left, and whose rows are still there.
        migration_id: of the last return.
        offset: by how much positions of the baseline are higher at ``home``.
    """
    control = await asyncpg.connect(control_dsn, server_settings=_RENDERING)
    try:
        migration = await control.fetchrow(_MIGRATION, migration_id)
        route = await control.fetchrow(_ROUTE, str(tenant_id))
    finally:
        await control.close()
    here, there = await read_rows(home, tenant_id), await read_rows(left, tenant_id)
    own = [attempt for attempt in attempts if attempt.tenant_id == str(tenant_id)]
    history = History.of(own, baseline)
    report = _counts(tenant_id, migration_id, own, history, here)
    report.source_rows, report.target_rows = len(there), len(here)
    report.carried, report.written_at_target = len(there), len(here) - len(there)
    report.add(
        _journal_says_moved(migration, route, tenant_id),
        _authoritative(history, own, here, offset, there),
        invariants.one_epoch_of_a_stay(there, here),
        await _tables_match(left, home, ()),
    )
    return report


async def check_unmoved(
    *,
    store: StoreAddress,
    tenant_id: UUID,
    attempts: Iterable[Attempt],
    baseline: Iterable[Row] = (),
    elsewhere: Sequence[StoreAddress] = (),
    longest_append_seconds: float | None = None,
) -> CheckReport:
    """Check I1, I2, I3, I6 and I8 for a tenant that lives where it always did.

    For the bystanders of a migration, and for a tenant whose migration was aborted.

    Args:
        elsewhere: stores that must hold no row of the tenant.
        longest_append_seconds: if given, no append of the tenant may have failed or taken longer.
            Optimistic conflicts are no failures.
    """
    rows = await read_rows(store, tenant_id)
    own = [attempt for attempt in attempts if attempt.tenant_id == str(tenant_id)]
    history = History.of(own, baseline)
    report = _counts(tenant_id, None, own, history, rows)
    report.source_rows = len(rows)
    report.add(_authoritative(history, own, rows, 0))
    for other in elsewhere:
        strays = await read_rows(other, tenant_id)
        report.target_rows += len(strays)
        report.add(Violation("I8", "stray_row", f"event {row.event_id}") for row in strays)
    if longest_append_seconds is not None:
        report.add(_undisturbed(own, longest_append_seconds))
    return report


def _authoritative(
    history: History,
    own: Sequence[Attempt],
    rows: Sequence[Row],
    offset: int,
    elsewhere: Sequence[Row] = (),
) -> Iterable[Violation]:
    yield from invariants.acknowledged_exactly_once(history, rows)
    yield from invariants.answers_were_true(own, rows, offset, elsewhere)
    yield from invariants.nothing_unattempted(history, rows)
    yield from invariants.streams_are_whole(rows)
    yield from invariants.baseline_is_untouched(history, rows, offset)
    yield from invariants.order_is_kept(history, rows)


def _mapping_is_right(
    migration: asyncpg.Record | None,
    at_source: Sequence[Row],
    at_target: Sequence[Row],
    mapping: Sequence[MappingRow],
) -> Iterable[Violation]:
    offset = (migration["position_offset"] if migration else None) or 0
    if migration is None or migration["position_mapping"] != "offset":
        return invariants.mapping_is_a_bijection(at_source, mapping, offset)
    return invariants.offset_is_a_bijection(
        at_source, at_target, mapping, migration["position_offset"], migration["fence_position"]
    )


def _undisturbed(own: Sequence[Attempt], limit: float) -> Iterable[Violation]:
    for attempt in own:
        error = attempt.error or ""
        if error and not error.startswith("OptimisticLockError"):
            yield Violation("I8", "failed_append", f"{attempt.event_ids[0]}: {error}")
        if attempt.latency is not None and attempt.latency > limit:
            took = f"{attempt.latency * 1000:.0f} ms"
            yield Violation("I8", "delayed_append", f"{attempt.event_ids[0]} took {took}")


def _counts(
    tenant_id: UUID,
    migration_id: UUID | None,
    own: Sequence[Attempt],
    history: History,
    authoritative: Sequence[Row],
) -> CheckReport:
    present = {row.event_id for row in authoritative}
    report = CheckReport(tenant_id, migration_id)
    report.streams = len({row.stream for row in authoritative})
    report.preloaded = len(history.baseline)
    report.attempted = len(history.first_invoked)
    report.acknowledged = len(history.acknowledged) - len(history.baseline)
    report.refused = len(history.refused)
    report.unknown = len(history.unknown)
    report.unknown_found = len(history.unknown & present)
    report.found = len(history.acknowledged & present)
    report.failed_appends.update(
        (attempt.error or "no answer").split(":")[0]
        for attempt in own
        if attempt.outcome is not Outcome.OK
    )
    return report


def _journal_says_moved(
    migration: asyncpg.Record | None, route: asyncpg.Record | None, tenant_id: UUID
) -> Iterable[Violation]:
    """I7: state and route name the target; a migration that is not there proves nothing."""
    if migration is None or str(migration["tenant_id"]) != str(tenant_id):
        yield Violation("I7", "no_migration", f"none of tenant {tenant_id}")
        return
    if migration["state"] != "migrated":
        yield Violation("I7", "not_migrated", f"the state is {migration['state']}")
    wanted = (migration["target_store_id"], "normal")
    if route is None or tuple(route) != wanted:
        yield Violation("I7", "wrong_route", f"{tuple(route) if route else None}, not {wanted}")


async def _tables_match(
    source: StoreAddress, target: StoreAddress, filled: Iterable[str]
) -> list[Violation]:
    """I4: a column that only one table has is not compared by comparing rows."""
    sides = []
    for store in (source, target):
        connection = await asyncpg.connect(store.dsn, server_settings=_RENDERING)
        try:
            sides.append(set(await _columns(connection, store.table, filled)))
        finally:
            await connection.close()
    differing = sides[0] ^ sides[1]
    return [Violation("I4", "column_missing", name) for name in sorted(differing)]


async def _columns(
    connection: asyncpg.Connection[asyncpg.Record], table: str, filled: Iterable[str]
) -> list[str]:
    found = await connection.fetch(_COLUMNS, _quoted(table))
    return sorted(
        {row["attname"] for row in found} - {"global_position", "transaction_id", *filled}
    )


async def _rows(
    connection: asyncpg.Connection[asyncpg.Record],
    table: str,
    tenant_id: UUID,
    filled: Iterable[str],
) -> list[Row]:
    """Rows with a digest of the text of all other columns; NULL differs from any text."""
    columns = await _columns(connection, table, filled)
    fields = " || ',' || ".join(f"quote_nullable({_quoted(name)}::text)" for name in columns)
    found = await connection.fetch(
        f"""
        select global_position, event_id::text, aggregate_type, aggregate_id::text, version,
               encode(sha256(convert_to({fields}, 'UTF8')), 'hex')
        from {_quoted(table)} where tenant_id = $1 order by global_position, event_id
        """,
        tenant_id,
    )
    return [Row(*row) for row in found]


def _quoted(name: str) -> str:
    # Written again, so that a mistake of the product's quoting is seen and not shared.
    return '"' + name.replace('"', '""') + '"'
