-- name: select_columns
-- Of a way back the source is the store to which the tenant has moved.
select w.id, w.migration_id, w.tenant_id, w.state, w.reason, w.generation, w.keep_seconds,
       greatest(w.protocol, m.protocol, r.protocol) as protocol,
       w.carried, w.lag, w.followed_at, w.driver_owner, w.created_at,
       m.target_store_id as source_store_id, m.source_store_id as target_store_id,
       m.state as moved_state, r.state as return_state,
       m.completed_at + make_interval(secs => w.keep_seconds) as kept_until,
       coalesce(m.completed_at + make_interval(secs => w.keep_seconds) <= now(), false) as is_over,
       coalesce(w.driver_expires_at > now(), false) as is_followed,
       -- A follower gives its claim back at once: what counts is when it was there last.
       case when w.driver_expires_at > now() then 0
            else extract(epoch from now() - greatest(w.followed_at, m.completed_at)) end::float8
           as unfollowed_seconds
from tenant_ways_back w
join tenant_migrations m on m.id = w.migration_id
left join tenant_migrations r on r.id = w.id

-- name: insert
-- By the driver of its migration alone: of one that wakes late, the newer row would hide the other.
insert into tenant_ways_back (id, migration_id, tenant_id, state, generation, keep_seconds,
                              driver_owner, driver_expires_at, protocol)
select $1, m.id, $3, 'preparing', $4, $5, $6, now() + make_interval(secs => 60), m.protocol
from tenant_migrations m where m.id = $2 and m.driver_owner = $7
returning id

-- name: change
with changed as (
    update tenant_ways_back
    set state = $3, reason = coalesce($4, reason), driver_owner = null, driver_expires_at = null,
        updated_at = now()
    where id = $1 and state = any ($2::text[])
    returning migration_id, id
)
insert into migration_audit_log (migration_id, event_type, details, operator)
select migration_id, 'way_back:' || $3, jsonb_build_object('way_back', id, 'reason', $4::text), $5
from changed returning id

-- name: end
-- An end of its time and an end that somebody wants are one change: never while a return is asked for.
with ended as (
    update tenant_ways_back w
    set state = 'closing', reason = $2, driver_owner = null, driver_expires_at = null,
        updated_at = now()
    from tenant_migrations m
    where w.id = $1 and m.id = w.migration_id and w.state = 'standby'
      and ($3 or m.completed_at + make_interval(secs => w.keep_seconds) <= now())
      and w.protocol <= $5
    returning w.migration_id, w.id
)
insert into migration_audit_log (migration_id, event_type, details, operator)
select migration_id, 'way_back:closing', jsonb_build_object('way_back', id, 'reason', $2::text), $4
from ended returning id

-- name: follow
update tenant_ways_back
set driver_owner = $2, driver_expires_at = now() + make_interval(secs => $3)
where id = $1 and state = any ($4::text[]) and protocol <= $5
  and (driver_owner is null or driver_expires_at is null or driver_expires_at < now())
returning id

-- name: hold
update tenant_ways_back set driver_expires_at = now() + make_interval(secs => $3)
where id = $1 and driver_owner = $2
returning id

-- name: followed
update tenant_ways_back
set driver_owner = null, driver_expires_at = null, followed_at = now(), carried = $3, lag = $4,
    reason = $5
where id = $1 and driver_owner = $2

-- name: stay
update tenant_ways_back
set driver_expires_at = now() + make_interval(secs => $5), followed_at = now(), carried = $3,
    lag = $4, reason = null
where id = $1 and driver_owner = $2 and state = 'standby'
returning id

-- name: leave
update tenant_ways_back set driver_owner = null, driver_expires_at = null, reason = $3
where id = $1 and driver_owner = $2
returning id

-- name: ask_return
-- The way back becomes a migration of its own, in dual-write. Never after its end: the clock is the one
-- that the end is decided by.
with taken as (
    update tenant_ways_back w
    set state = 'returning', driver_owner = null, driver_expires_at = null, updated_at = now()
    from tenant_migrations m
    where w.id = $1 and m.id = w.migration_id and w.state = 'standby' and m.state = 'migrated'
      and greatest(w.protocol, m.protocol) <= $4
      and not exists (select from tenant_migrations r where r.id = w.id and r.protocol > $4)
      and m.completed_at + make_interval(secs => w.keep_seconds) > now()
    returning w.id, w.tenant_id, w.migration_id, w.generation
), asked as (
    insert into tenant_migrations as j (id, tenant_id, source_store_id, target_store_id, state,
            config, generation, source_identity, target_identity, returns, protocol,
            control_identity, started_at)
    select t.id, t.tenant_id, m.target_store_id, m.source_store_id, 'dual_write',
           m.config || '{"mirror_writes": false}' || $2::text::jsonb, t.generation,
           m.target_identity, m.source_identity, m.id, m.protocol,
           $5::text::jsonb, now()
    from taken t join tenant_migrations m on m.id = t.migration_id
    on conflict (id) do update
        set state = 'dual_write', abort_requested = null, pause_requested = false,
            paused_from = null, completed_at = null, error_message = null, error_code = null,
            cutover_outcome = null, cutover_request = null, rehearsal_request = null,
            config = excluded.config, updated_at = now()
        where j.state in ('rolled_back', 'failed')
    returning id, tenant_id, returns
)
insert into migration_audit_log (migration_id, event_type, details, operator)
select id, 'state:dual_write', jsonb_build_object('returns', returns), $3 from asked returning id

-- name: give_up
-- An aborted return: nothing is changed at the stores, and it stands by as before. Never one that was
-- asked for since: two may come to write this, and one of them late.
update tenant_ways_back w set state = 'standby', updated_at = now()
where id = $1 and state = 'returning'
  and exists (select from tenant_migrations r where r.id = w.id and r.state = 'rolled_back')

-- name: restore
-- What a repair has read in the fences: a row that was lost, or that is of an earlier time.
with restored as (
    insert into tenant_ways_back as w (id, migration_id, tenant_id, generation, state, reason,
                                       keep_seconds, protocol)
    select $1, m.id, $3, $4, $5::text, $6::text,
           coalesce(nullif((m.config ->> 'keep_way_back')::double precision, 0), $7), m.protocol
    from tenant_migrations m where m.id = $2
    on conflict (id) do update
        set state = excluded.state, reason = excluded.reason, driver_owner = null,
            driver_expires_at = null, updated_at = now(),
            generation = case when excluded.state = 'standby' then excluded.generation
                              else w.generation end
        where w.protocol <= $9
    returning migration_id, id
)
insert into migration_audit_log (migration_id, event_type, details, operator)
select migration_id, 'way_back:' || $5::text,
       jsonb_build_object('way_back', id, 'reason', $6::text, 'repaired', true), $8
from restored
