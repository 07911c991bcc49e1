"""What a set-up is: SQL on both sides, and what has to come of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.worlds.three_databases import SOURCE_TABLE, TARGET_TABLE, World, table

#: Of each list every third set-up runs in CI; `make strangers` runs them all.
SHARE = 3


#: Of the constraint that versions of a stream are unique, after the table's name.
_VERSIONS = "aggregate_id_aggregate_type_version_key"


@dataclass(frozen=True)
class Stranger:
    """One set-up.

    Attributes:
        both, source, target: SQL for the sides, run in this order; ``{t}`` is the event table.
        before_target: SQL for the target that comes before all other.
        refused: the name of the refusal, None when the tenant moves.
        mends: the statement of the refusal's remedy can be run as it stands, and mends it.
        values: SQL expressions for columns of the rows that are written by SQL, by column.
        filled: columns that each side fills for itself.
        config: settings of the migration.
        seeded: the table takes the events of an ordinary application.
    """

    name: str
    both: str = ""
    source: str = ""
    target: str = ""
    refused: str | None = None
    mends: bool = False
    values: dict[str, str] = field(default_factory=dict)
    filled: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    seeded: bool = True
    before_target: str = ""

    async def set_up(self, world: World) -> None:
        """Make both sides what they are."""
        for side in ("source", "target"):
            before = self.before_target if side == "target" else ""
            for sql in (before, self.both, getattr(self, side)):
                if sql:
                    text = sql.replace("{t}", table(side)).replace("{tenant}", str(world.tenant))
                    name = SOURCE_TABLE if side == "source" else TARGET_TABLE
                    text = text.replace("{t_sequence}", f'"{name}_global_position_seq"')
                    text = text.replace("{t_versions}", f"{name}_{_VERSIONS}")
                    await getattr(world, side).execute(text)

    def insert(self, tenant: str, stream: str, version: str) -> str:
        """SQL that writes one event of the stranger's application at the source."""
        named = {
            "event_id": "gen_random_uuid()", "aggregate_id": f"'{stream}'",
            "aggregate_type": "'Past'", "event_type": "'world.past'", "tenant_id": f"'{tenant}'",
            "version": version, "timestamp": "now()",
            "payload": """'{"n": 1, "text": "päst", "kind": "odd"}'""", **self.values,
        }  # fmt: skip
        return (
            f"insert into {table('source')} ({', '.join(named)})"
            f" select {', '.join(named.values())} from generate_series({version}, {version}) g"
        )


def chosen(strangers: Iterable[Stranger]) -> list[Any]:
    """As parameters: those that do not run in CI are marked."""
    return [
        pytest.param(
            each, id=each.name, marks=[] if number % SHARE == 0 else [pytest.mark.strangers]
        )
        for number, each in enumerate(strangers)
    ]
