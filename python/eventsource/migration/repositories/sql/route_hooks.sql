-- name: pending
-- Routes that no migration has changed were made before the hook, and are the other table's own.
select r.tenant_id, r.store_id, r.generation, h.error
from tenant_routing r
left join migration_route_hooks h on h.tenant_id = r.tenant_id
where r.generation > coalesce(h.generation, 0)
order by h.tried_at nulls first, r.tenant_id
limit $1

-- name: pending_lately
-- Of those that have changed in so many seconds, and of those that were tried in vain.
with lately as (
    select tenant_id from tenant_routing where updated_at > now() - make_interval(secs => $2)
    union
    select tenant_id from migration_route_hooks where error is not null
)
select r.tenant_id, r.store_id, r.generation, h.error
from lately l join tenant_routing r on r.tenant_id = l.tenant_id
left join migration_route_hooks h on h.tenant_id = l.tenant_id
where r.generation > coalesce(h.generation, 0)
order by h.tried_at nulls first, r.tenant_id
limit $1

-- name: pending_of
select r.updated_at as since, h.error, h.tried_at
from tenant_routing r left join migration_route_hooks h on h.tenant_id = r.tenant_id
where r.tenant_id = $1 and r.generation > coalesce(h.generation, 0)

-- name: lock
-- A change of the route waits until its statement was run, and it is not run for an older one.
select r.store_id, r.generation
from tenant_routing r
where r.tenant_id = $1
  and r.generation > coalesce(
      (select h.generation from migration_route_hooks h where h.tenant_id = $1), 0)
for update

-- name: done
insert into migration_route_hooks (tenant_id, generation) values ($1, $2)
on conflict (tenant_id) do update
set generation = excluded.generation, error = null, tried_at = now()

-- name: failed
-- In one order: two processes that have failed do not wait for each other.
insert into migration_route_hooks (tenant_id, generation, error)
select tenant, 0, $2 from unnest($1::text[]) tenant order by tenant
on conflict (tenant_id) do update set error = excluded.error, tried_at = now()
