"""What can be said of a way back before there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.migration.event_table import of_store
from eventsource.migration.steps import way_back

if TYPE_CHECKING:
    from eventsource.migration.configuration import MigrationConfig
    from eventsource.migration.event_table import AnyTable
    from eventsource.stores.postgresql import PostgreSQLEventStore

# The own sessions of a way back are known by their role and by a setting.
_ROLES = """
select current_user::text as mine,
       array(select distinct a.usename::text from pg_stat_activity a
             where a.datname = current_database() and a.usename <> current_user
               and (has_table_privilege(a.usename, $1::text::regclass, 'insert')
                    or has_any_column_privilege(a.usename, $1::text::regclass, 'insert'))) as others
"""


@dataclass(frozen=True, slots=True)
class Prospect:
    """Whether a move would keep a way back.

    Attributes:
        keep_seconds: for how long it would be kept; 0 is not at all.
        refusals: why it could not be kept, in sentences; empty when nothing stands against it.
        role: the role that moves the tenant, where the application uses it too (no other one that
            may append is known or connected): then only a setting distinguishes the way back's
            own sessions at the old store from those of the application. None where they differ.
    """

    keep_seconds: float
    refusals: tuple[str, ...] = ()
    role: str | None = None

    @property
    def is_kept(self) -> bool:
        """Whether there will be one, as far as that can be seen."""
        return self.keep_seconds > 0 and not self.refusals

    @property
    def why_not(self) -> str | None:
        """Why there will be none, or None."""
        if self.keep_seconds == 0:
            return "keep_way_back is 0"
        return "; ".join(self.refusals) or None


async def of(
    source: PostgreSQLEventStore, target: PostgreSQLEventStore, config: MigrationConfig
) -> Prospect:
    """Look at both stores of a move; changes nothing."""
    if config.keep_way_back == 0:
        return Prospect(0)
    old, home = await of_store(source), await of_store(target)
    found = tuple((await way_back.look(old, home, fires=config.fires))[0])
    if found:
        return Prospect(config.keep_way_back, found)
    return Prospect(config.keep_way_back, role=await _role_for_all(old, source.application_role))


async def _role_for_all(old: AnyTable, application_role: str | None) -> str | None:
    row = await old.connection.fetchrow(_ROLES, old.name)
    assert row is not None
    others = row["others"] if application_role is None else [application_role]
    return row["mine"] if not set(others) - {row["mine"]} else None
