"""A tenant that the source does not know is most often a slip of the keyboard."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsource.cli.workspace import Workspace
from eventsource.identifiers import qualified
from eventsource.migration import PreflightError
from eventsource.migration.event_table import of_store
from eventsource.migration.journaled import tenants as layout_tenants
from eventsource.migration.preflight import admission
from eventsource.migration.preflight.findings import Findings
from eventsource.tenant_ids import TenantId, as_uuid

EmptyOption = Annotated[
    bool, typer.Option("--empty", help="Move a tenant that has no event yet as well.")
]


async def has_events(at: Workspace, tenant_id: TenantId, store_id: str) -> bool:
    """Whether the store holds anything of the tenant."""
    store = at.stores[store_id]
    if store.layout is not None:
        return (await layout_tenants.size_of(await of_store(store), tenant_id))[0] > 0
    name = qualified(await store.resolve_schema(), store.table_name)
    found = await store.pool.fetchval(
        f"select exists (select from {name} where tenant_id = $1)", as_uuid(tenant_id)
    )
    return bool(found)


def no_event(tenant_id: TenantId, source_id: str) -> str:
    """The sentence for a tenant without events."""
    return f"store {source_id!r} holds no event of tenant {tenant_id}: check the id"


async def examine(
    at: Workspace, tenant_id: TenantId, source_id: str, target_id: str, *, may_be_empty: bool
) -> Findings:
    """The preflight of a move, which also refuses one of nothing unless that is what is meant.

    Raises:
        PreflightError: the move is refused, or the source holds no event of the tenant.
        MigrationAlreadyExistsError, RoutingError: as when it is started.
    """
    source, target = at.stores[source_id], at.stores[target_id]
    default = admission.unrouted_home(source, source_id, at.router.default_store_id)
    await admission.generation_of(
        at.migrations, at.routes, tenant_id, source_id, default_store_id=default
    )
    findings = await at.coordinator.preflight(tenant_id, source, target)
    findings.raise_if_refused()
    # After it: where the role may not see the rows, that is what is wrong.
    if not may_be_empty and not await has_events(at, tenant_id, source_id):
        raise PreflightError(
            [
                f"{no_event(tenant_id, source_id)}; if it is a new tenant that shall begin in"
                f" {target_id!r}, say --empty"
            ]
        )
    return findings
