-- name: wave_columns
select id, name, state, settings::text as settings, created_at, created_by, started_at, ended_at,
       stopped_at, stopped_by, stop_reason, failures_in_row, history::text as history
from migration_waves

-- name: item_columns
select wave_id, tenant_id, ordinal, source_store_id, target_store_id, events, bytes, outcome,
       migration_id, attempts, error_code, error_message, began_at, ended_at
from migration_wave_items

-- name: create_wave
insert into migration_waves (id, name, state, settings, created_by, history)
values ($1, $2, 'planned', $3::text::jsonb, $4, jsonb_build_array(jsonb_build_object(
    'at', clock_timestamp(), 'what', 'planned', 'by', $4::text)))

-- name: create_items
insert into migration_wave_items
    (wave_id, tenant_id, ordinal, source_store_id, target_store_id, events, bytes)
select $1, c.tenant_id, c.ordinal, c.source, c.target, c.events, c.bytes
from unnest($2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])
     with ordinality as c(tenant_id, source, target, events, bytes, ordinal)

-- name: lock_plans
-- One plan after the other: of two that are recorded at once, neither would see the other's tenants.
select pg_advisory_xact_lock(1163281237, 1)

-- name: lock_stopped
-- One that is resumed meanwhile would go on without the tenants that it has given up.
select id from migration_waves where state = 'stopped' order by id for update

-- name: elsewhere
-- Tenants that another wave is about to move.
select i.tenant_id, w.name from migration_wave_items i join migration_waves w on w.id = i.wave_id
where i.tenant_id = any ($1::text[]) and i.outcome is null and w.state <> 'done'
order by 2, 1 limit 6

-- name: remove_planned
delete from migration_waves where name = $1 and state = 'planned' returning id

-- name: leave_stopped
-- Tenants that a stopped wave has not begun to move, or whose move was undone, are another wave's now.
with gone as (
    delete from migration_wave_items i using migration_waves w
    where w.id = i.wave_id and w.state = 'stopped' and i.tenant_id = any ($1::text[])
      and i.outcome is null
      and (i.began_at is null or exists (select from tenant_migrations m
                                         where m.id = i.migration_id and m.state = 'rolled_back'))
    returning i.wave_id
)
update migration_waves w
set history = history || jsonb_build_object(
        'at', clock_timestamp(), 'what', 'left', 'by', $2::text,
        'reason', l.tenants || ' tenants, for wave ' || $3::text),
    updated_at = now()
from (select wave_id, count(*) as tenants from gone group by 1) l
where w.id = l.wave_id

-- name: remove_left
delete from migration_waves w
where name = $1 and state = 'stopped'
  and not exists (select from migration_wave_items i where i.wave_id = w.id)

-- name: lock
select state from migration_waves where id = $1 for update

-- name: lock_shared
select state from migration_waves where id = $1 for share

-- name: start
update migration_waves
set state = 'running', started_at = coalesce(started_at, now()), failures_in_row = 0,
    stopped_at = null, stopped_by = null, stop_reason = null, ended_at = null, updated_at = now(),
    history = history || jsonb_build_object(
        'at', clock_timestamp(), 'what', $3::text, 'by', $2::text)
where id = $1 and state = any ($4::text[])
returning id

-- name: begin_item
-- What it has waited for is over; what an attempt has failed with is said until it is done.
update migration_wave_items
set began_at = coalesce(began_at, now()),
    error_code = case when attempts > 0 then error_code end,
    error_message = case when attempts > 0 then error_message end
where wave_id = $1 and tenant_id = $2 and outcome is null
returning tenant_id

-- name: name_migration
update migration_wave_items set migration_id = $3
where wave_id = $1 and tenant_id = $2 and migration_id is distinct from $3

-- name: name_size
update migration_wave_items set events = coalesce(events, $3), bytes = coalesce(bytes, $4)
where wave_id = $1 and tenant_id = $2

-- name: record_wait
update migration_wave_items set error_code = $3, error_message = $4
where wave_id = $1 and tenant_id = $2 and outcome is null

-- name: record_attempt
update migration_wave_items
set attempts = attempts + 1, error_code = $3, error_message = $4
where wave_id = $1 and tenant_id = $2 and outcome is null
returning attempts

-- name: record_outcome
update migration_wave_items
set outcome = $3, migration_id = coalesce($4, migration_id), error_code = $5, error_message = $6,
    began_at = coalesce(began_at, now()), ended_at = now()
where wave_id = $1 and tenant_id = $2 and outcome is null
returning tenant_id

-- name: count_failure
update migration_waves
set failures_in_row = case when $2 then failures_in_row + 1 else 0 end, updated_at = now()
where id = $1
returning failures_in_row, state, (settings ->> 'stop_after')::int as stop_after

-- name: finish
update migration_waves w
set state = 'done', ended_at = now(), updated_at = now(),
    history = history || jsonb_build_object('at', clock_timestamp(), 'what', 'done')
where id = $1 and state = 'running'
  and not exists (select from migration_wave_items i
                  where i.wave_id = w.id and i.outcome is null)

-- name: retry
update migration_wave_items
set outcome = null, attempts = 0, error_code = null, error_message = null, ended_at = null
where wave_id = $1 and outcome in ('refused', 'failed', 'held')
  and ($2::text is null or tenant_id = $2)
returning tenant_id

-- name: to_retry
select tenant_id from migration_wave_items
where wave_id = $1 and outcome in ('refused', 'failed', 'held')
  and ($2::text is null or tenant_id = $2)

-- name: note
update migration_waves
set history = history || jsonb_build_object(
        'at', clock_timestamp(), 'what', $2::text, 'by', $3::text, 'reason', $4::text),
    updated_at = now()
where id = $1

-- name: summary
select coalesce(i.outcome, case when i.began_at is null then 'waiting' else 'begun' end) as what,
       count(*)::int as tenants, coalesce(sum(i.events), 0)::bigint as events,
       coalesce(sum(i.bytes), 0)::bigint as bytes
from migration_wave_items i where i.wave_id = $1 group by 1
