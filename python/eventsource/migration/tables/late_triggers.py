"""Triggers that others make at the target while a tenant moves: they fire for what is carried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventsource.catalog.model import ANNOUNCEMENT, GUARD
from eventsource.errors import StoreSchemaError

if TYPE_CHECKING:
    from eventsource.migration.event_table import AnyTable

# One that is altered or made again has another xmin; where there is none the catalogs are not read.
_OF_OTHERS = """
with recursive subject (oid) as (
    select to_regclass(name)::oid from unnest($1::text[]) name
    union
    select h.inhrelid from subject s join pg_inherits h on h.inhparent = s.oid
)
select string_agg(concat_ws(' ', t.oid, t.xmin), ',' order by t.oid)
from subject s join pg_trigger t on t.tgrelid = s.oid
where not t.tgisinternal and t.tgenabled in ('O', 'A')
  and not starts_with(t.tgname, $2) and not starts_with(t.tgname, $3)
"""


@dataclass(slots=True)
class LateTriggers:
    """What was seen of them by the last pass of a driver."""

    seen: str | None = None

    async def refuse(
        self, target: AnyTable, names: Sequence[str], look: Callable[[], Awaitable[list[str]]]
    ) -> None:
        """Before a pass carries anything: ``look`` as a preflight does, where there are others.

        Raises:
            StoreSchemaError: what a preflight would refuse; it is waited for.
        """
        now = await target.connection.fetchval(_OF_OTHERS, list(names), GUARD, ANNOUNCEMENT)
        if now is not None and now != self.seen and (problems := await look()):
            raise StoreSchemaError("; ".join(problems))
        self.seen = now
