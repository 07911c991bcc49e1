-- name: ids_between
-- By a range, which an index has: what begins with some text, none has.
select id from tenant_migrations where id between $1 and $2
order by created_at desc, id desc limit $3

-- name: offered
select id::text, tenant_id::text, state, target_store_id from tenant_migrations
where id between $1 and $2 order by created_at desc, id desc limit $3

-- name: operators_of
-- A move is begun once; a return that was aborted is asked for again, and the last to ask is named.
select distinct on (migration_id) migration_id, operator from migration_audit_log
where operator is not null and migration_id = any ($1::text[]::uuid[])
  and (event_type = 'state:pending' or event_type = 'state:dual_write' and details ? 'returns')
order by migration_id, case event_type when 'state:pending' then id else -id end

-- name: audit_of
select id, migration_id, event_type, details::text as details, operator, created_at
from migration_audit_log where migration_id = $1 order by id

-- name: reported
select migration_id, created_at, operator from migration_audit_log
where event_type = 'reported' and details ->> 'sha256' = $1 order by id limit 1

-- name: sent_on
-- Stores that a driver has reminded of a decision, until a repair has named what they alone have.
select distinct migration_id from migration_audit_log s
where event_type = 'sent_on'
  and not exists (select from migration_audit_log n where n.migration_id = s.migration_id
                  and n.event_type = 'stranded_named' and n.id > s.id)

-- name: states
select state, count(*)::int as n from tenant_migrations group by state

-- name: outcomes
select details ->> 'code' as code, count(*)::int as n from migration_audit_log
where event_type = 'cutover_answered' group by 1

-- name: pauses
-- How many of the bounds hold each pause: they are negative and ascending, so that a bound that a pause
-- is equal to holds it too.
select width_bucket(- cutover_pause_ms, $1::float8[]) as bounds, count(*)::int as n,
       sum(cutover_pause_ms) / 1000 as seconds
from tenant_migrations where cutover_pause_ms is not null group by 1
