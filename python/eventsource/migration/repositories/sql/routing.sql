-- name: select
-- Always a row, which says whether row-level security may hide others.
select r.tenant_id, r.store_id, r.migration_state, r.target_store_id, r.generation, r.migration_id,
       r.updated_at, s.active
from (select row_security_active('tenant_routing') as active) s
left join tenant_routing r on

-- name: begin
-- A migration takes the route over: only from its source store and only when no other holds it.
with taken as (
    insert into tenant_routing (tenant_id, store_id, migration_state, target_store_id, generation,
                                migration_id)
    values ($1, $2, 'normal', $3, $4, $5)
    on conflict (tenant_id) do update
        set migration_state = 'normal', target_store_id = excluded.target_store_id,
            migration_id = excluded.migration_id, updated_at = now()
        where tenant_routing.store_id = excluded.store_id
          and tenant_routing.generation = excluded.generation
    returning tenant_id
)
select pg_notify('eventsource_routes', tenant_id::text) from taken

-- name: set_state
with changed as (
    update tenant_routing set migration_state = $3, updated_at = now()
    -- Not that of a tenant that has arrived: see `finish`.
    where tenant_id = $1 and migration_id = $2 and target_store_id is not null
    returning tenant_id
)
select pg_notify('eventsource_routes', tenant_id::text) from changed

-- name: finish
-- The only statement that changes a tenant's store; it follows the decision, never leads it.
with changed as (
    update tenant_routing
    set store_id = $3, migration_state = 'normal', target_store_id = null, generation = $4,
        updated_at = now()
    where tenant_id = $1 and migration_id = $2 and generation < $4
    returning tenant_id
)
select pg_notify('eventsource_routes', tenant_id::text) from changed

-- name: release
with changed as (
    update tenant_routing
    set migration_state = 'normal', target_store_id = null, migration_id = null, updated_at = now()
    where tenant_id = $1 and migration_id = $2
    returning tenant_id
)
select pg_notify('eventsource_routes', tenant_id::text) from changed

-- name: assign
with changed as (
    insert into tenant_routing (tenant_id, store_id) values ($1, $2)
    on conflict (tenant_id) do update
        set store_id = excluded.store_id, updated_at = now(),
            generation = tenant_routing.generation + 1
        -- By its target, which a migration has from its start: until it copies its state is normal.
        where tenant_routing.target_store_id is null
    returning tenant_id
)
select pg_notify('eventsource_routes', tenant_id::text) from changed

-- name: restore
-- What a repair has read in the fences. Never an older generation: routers would not follow it.
with changed as (
    insert into tenant_routing (tenant_id, store_id, generation, migration_id)
    values ($1, $2, $3, $4)
    on conflict (tenant_id) do update
        set store_id = excluded.store_id, migration_state = 'normal', target_store_id = null,
            generation = excluded.generation, migration_id = excluded.migration_id,
            updated_at = now()
        where tenant_routing.generation < excluded.generation
    returning tenant_id
)
select pg_notify('eventsource_routes', tenant_id::text) from changed
