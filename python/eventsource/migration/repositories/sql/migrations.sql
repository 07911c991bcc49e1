-- name: insert
with created as (
    insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state, config,
                                   generation, source_identity, target_identity, pause_at, protocol,
                                   control_identity)
    values ($1, $2, $3, $4, 'pending', $5::text::jsonb, $6, $9::text::jsonb, $10::text::jsonb, $11, $12,
            $13::text::jsonb)
    returning *
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'state:pending', $7::text::jsonb, $8 from created
), announced as (
    select pg_notify('eventsource_migrations', id::text) from created
)

-- name: select_columns
select id, tenant_id, source_store_id, target_store_id, state,
       coalesce(progress_percentage, 0)::float8 as progress_percentage,
       coalesce(events_copied, 0) as events_copied, coalesce(total_events, 0) as total_events,
       error_message, error_code, created_at, started_at, completed_at, config::text as config,
       generation, paused_from,
       -- A move whose time is over is asked to pause by that alone, in every process: the process that
       -- wanted it may be dead by then.
       pause_requested or late.so as pause_requested,
       parked or not pause_requested and late.so as parked, pause_at,
       abort_requested, cutover_request, cutover_force,
       cutover_outcome::text as cutover_outcome, driver_owner, driver_name,
       coalesce(driver_expires_at > now(), false) as driver_alive, driver_expires_at,
       position_offset, fence_position, cutover_pause_ms, throttle_rate, throttle_reason, updated_at,
       copy_rate, copied_at,
       source_identity::text as source_identity, target_identity::text as target_identity,
       cutover_budget, rehearsal_request, rehearsal_options::text as rehearsal_options,
       rehearsal_outcome::text as rehearsal_outcome, longest_wait_ms, returns, protocol,
       control_identity::text as control_identity
from tenant_migrations
cross join lateral (
    select coalesce(pause_at <= clock_timestamp() and state in ('pending', 'bulk_copy', 'dual_write'),
                    false) as so
) late

-- name: transition
with moved as (
    update tenant_migrations set
        state = $3::text,
        updated_at = now(),
        started_at = coalesce(started_at, case when $3::text = 'bulk_copy' then now() end),
        completed_at = case when $3::text in ('migrated', 'rolled_back', 'failed') then now() end,
        -- What is resumed goes on there; after an abort that failed it does not.
        paused_from = case
            when $3::text not in ('paused', 'failed') then null
            when $3::text = 'failed' and abort_requested is not null then null
            when $2::text = 'paused' then paused_from
            else $2::text
        end,
        pause_requested = pause_requested and 'paused' not in ($2::text, $3::text),
        parked = parked and $2::text <> 'paused'
                 or $3::text = 'paused' and not pause_requested and coalesce(pause_at <= now(), false),
        pause_at = case when $3::text not in ('paused', 'migrated', 'rolled_back', 'failed')
                            then pause_at end,
        abort_requested = case when $3::text <> 'rolled_back' then abort_requested end,
        -- A return that is asked for again is this row again, with a cutover of its own.
        cutover_request = case when $3::text <> 'rolled_back' then cutover_request end,
        rehearsal_request = case when $3::text <> 'rolled_back' then rehearsal_request end,
        -- Nothing is left to drive: who comes next need not wait for this driver to close.
        driver_owner = case when $3::text not in ('paused', 'rolled_back') then driver_owner end,
        driver_expires_at = case when $3::text not in ('paused', 'rolled_back')
                                 then driver_expires_at end,
        copy_rate = null, copied_at = null,
        throttle_rate = case when $3::text in ('bulk_copy', 'dual_write') then throttle_rate end,
        throttle_reason = case when $3::text in ('bulk_copy', 'dual_write')
                                   then throttle_reason end,
        error_code = $6, error_message = $7
    where id = $1 and state = $2::text and ($4::uuid is null or driver_owner = $4)
      and ($9::uuid is null or cutover_request = $9)
      -- A newer version may have taken it over since it was read.
      and protocol <= $10
      -- Another move may have given it more time since its driver has read that it is late.
      and ($3::text <> 'paused' or $4 is null or pause_requested or pause_at <= now())
      and ($2::text <> 'failed' or $3::text = 'rolled_back'
           or (paused_from = $3::text and abort_requested is null))
    returning *
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'state:' || $3::text, $5::text::jsonb, $8 from moved
), announced as (
    select pg_notify('eventsource_migrations', id::text) from moved
)

-- name: audit
insert into migration_audit_log (migration_id, event_type, details, operator)
values ($1, $2, $3::text::jsonb, $4)

-- name: acquire_lease
update tenant_migrations
set driver_owner = $2, driver_name = $3, driver_expires_at = now() + make_interval(secs => $4)
where id = $1 and state not in ('migrated', 'rolled_back') and protocol <= $6
  and (driver_owner is null or driver_owner = $2 or driver_expires_at is null
       or driver_expires_at < now() or driver_expires_at = $5)
returning id

-- name: lock_places
-- One after the other, in the order of the locks: two that come at the same moment do not wait for
-- each other. By their names they would, where two names have one lock.
select pg_advisory_xact_lock(1163281236, key)
from (select distinct hashtext(name) as key from unnest($1::text[]) name order by key offset 0) as sorted

-- name: full_stores
-- Arrays go as text, here and elsewhere: for any other a session asks the catalog first what it is.
-- Not for a recovery, an abort or a cutover that is asked for: they have to come to their end.
select s.name
from unnest($2::text[], $3::text[]::int[]) as s(name, places)
where not exists (
        select from tenant_migrations m
        where m.id = $1
          and (m.state in ('cutover_paused', 'failed') or m.abort_requested is not null
               or m.pause_requested or m.pause_at <= now() or m.state = 'dual_write' and m.cutover_request is not null
               or m.driver_owner = $4 and m.driver_expires_at > now()))
  and (select count(*) from tenant_migrations m
       where m.id <> $1 and m.driver_expires_at > now()
         and (s.name = '' or s.name in (m.source_store_id, m.target_store_id,
                                        'server ' || (m.source_identity ->> 'system'),
                                        'server ' || (m.target_identity ->> 'system')))) >= s.places

-- name: record_wait
update tenant_migrations set error_message = $2, updated_at = now()
where id = $1 and state not in ('migrated', 'rolled_back', 'failed')
  and (driver_owner is null or driver_expires_at is null or driver_expires_at < now())
  and error_message is distinct from $2

-- name: renew_lease
update tenant_migrations set driver_expires_at = now() + make_interval(secs => $3)
where id = $1 and driver_owner = $2
returning id

-- name: release_lease
-- Nobody waits for the disk: what is lost in a crash runs out by itself.
update tenant_migrations set driver_expires_at = null, driver_owner = null
from (select set_config('synchronous_commit', 'off', true)) unhurried
where id = $1 and driver_owner = $2

-- name: record_progress
-- The rate follows the last chunks: what is older than five seconds counts little. Nobody waits until
-- it is on the disk: what is lost in a crash is published again. As long as nobody has counted them,
-- there are zero events and zero percent.
update tenant_migrations m
set events_copied = p.copied, total_events = coalesce(p.total, 0), updated_at = now(),
    progress_percentage = case when p.total is null then 0 when p.total = 0 then 100
                               else least(100, round(100.0 * p.copied / p.total, 2)) end,
    copied_at = case when p.copied = m.events_copied and m.copied_at is not null
                     then m.copied_at else clock_timestamp() end,
    copy_rate = case
        when m.state <> 'bulk_copy' or m.copied_at is null or p.copied < m.events_copied then null
        when p.copied = m.events_copied then m.copy_rate
        when m.copy_rate is null then s.rate
        else s.rate + (m.copy_rate - s.rate) * exp(-least(s.seconds, 60) / 5)
    end
from (select $3::bigint as copied,
             case when coalesce($4, known) is not null
                  then greatest($3::bigint, coalesce($4::bigint, known)) end as total
      from (select case when total_events > 0 or progress_percentage = 100
                        then total_events end as known
            from tenant_migrations where id = $1) counted) p,
     (select seconds, ($3::bigint - events_copied) / seconds as rate
      from (select events_copied,
                   coalesce(greatest(extract(epoch from clock_timestamp() - copied_at), 0.001),
                            1)::float8 as seconds
            from tenant_migrations where id = $1) measured) s,
     (select set_config('synchronous_commit', 'off', true)) unhurried
where m.id = $1 and m.driver_owner = $2

-- name: record_throttle
update tenant_migrations set throttle_rate = $3, throttle_reason = $4, updated_at = now()
where id = $1 and driver_owner = $2

-- name: record_error
update tenant_migrations set error_message = $3, error_code = $4, updated_at = now()
where id = $1 and driver_owner = $2

-- name: require_protocol
update tenant_migrations set protocol = greatest(protocol, $3), updated_at = now()
where id = $1 and driver_owner = $2

-- name: record_offset
-- As for progress: the change of state that follows waits for it.
update tenant_migrations set position_offset = $3, updated_at = now()
from (select set_config('synchronous_commit', 'off', true)) unhurried
where id = $1 and driver_owner = $2

-- name: record_decision
update tenant_migrations
set fence_position = $2, position_offset = $3,
    cutover_pause_ms = coalesce($4, cutover_pause_ms),
    longest_wait_ms = greatest($5, longest_wait_ms),
    -- All that was decided on is at the target.
    events_copied = coalesce($6, events_copied), total_events = coalesce($6, total_events),
    progress_percentage = case when $6::bigint is null then progress_percentage else 100 end,
    updated_at = now()
where id = $1

-- name: request_pause
with asked as (
    update tenant_migrations
    set pause_requested = state <> 'paused', updated_at = now(),
        -- What a person has paused stays so until a person resumes it.
        parked = $3::boolean and (parked or not pause_requested)
    where id = $1 and (state in ('pending', 'bulk_copy', 'dual_write')
                       or state = 'paused' and parked)
    returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'pause_requested', jsonb_build_object('parked', $3::boolean), $2 from asked
)
select pg_notify('eventsource_migrations', id::text) from asked

-- name: set_pause_at
with asked as (
    update tenant_migrations set pause_at = $2, updated_at = now()
    where id = $1 and state not in ('migrated', 'rolled_back', 'failed')
      and pause_at is distinct from $2
    returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'pause_at_set', jsonb_build_object('pause_at', $2::timestamptz), $3 from asked
)
select pg_notify('eventsource_migrations', id::text) from asked

-- name: set_rate
with asked as (
    update tenant_migrations
    set config = jsonb_set(config, '{max_events_per_second}',
                           coalesce(to_jsonb($2::float8), 'null'::jsonb)),
        updated_at = now()
    where id = $1 and state not in ('migrated', 'rolled_back', 'failed') returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'rate_set', jsonb_build_object('max_events_per_second', $2::float8), $3 from asked
)
select pg_notify('eventsource_migrations', id::text) from asked

-- name: set_keep_way_back
with asked as (
    update tenant_migrations
    set config = config || jsonb_build_object('keep_way_back', $2::float8, 'require_way_back', $4::boolean),
        updated_at = now()
    where id = $1 and state not in ('migrated', 'rolled_back', 'failed') returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'keep_way_back_set',
           jsonb_build_object('keep_way_back', $2::float8, 'require_way_back', $4::boolean), $3
    from asked
)
select pg_notify('eventsource_migrations', id::text) from asked

-- name: request_abort
with asked as (
    update tenant_migrations
    set abort_requested = $2::text, updated_at = now(),
        -- Begun once it may have deleted rows: what failed is not resumed after that.
        paused_from = case when state <> 'failed' then paused_from end
    where id = $1 and state not in ('migrated', 'rolled_back') returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'abort_requested', json_build_object('reason', $2::text)::jsonb, $3 from asked
)
select pg_notify('eventsource_migrations', id::text) from asked

-- name: withdraw_abort
update tenant_migrations set abort_requested = null where id = $1

-- name: request_cutover
with asked as (
    update tenant_migrations
    set cutover_request = $2, cutover_force = $3, cutover_budget = $6, cutover_outcome = null,
        updated_at = now()
    where id = $1 and state in ('pending', 'bulk_copy', 'dual_write') and cutover_request is null
    returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'cutover_requested',
           jsonb_strip_nulls(jsonb_build_object('request', $2::uuid, 'comparison', $5::text,
                                                'force', $5::text = 'left out',
                                                'max_pause_seconds', $6::float8)), $4
    from asked
)
select pg_notify('eventsource_migrations', id::text) from asked

-- name: answer_cutover
with answered as (
    update tenant_migrations
    set cutover_request = null, updated_at = now(),
        cutover_outcome = $3::text::jsonb || jsonb_build_object('request', $2::uuid, 'at', now())
    where id = $1 and cutover_request = $2 returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details)
    select id, 'cutover_answered', $3::text::jsonb from answered
)
select pg_notify('eventsource_migrations', id::text) from answered

-- name: request_rehearsal
-- In columns of their own: a driver of an older version would carry a cutover out.
with asked as (
    update tenant_migrations
    set rehearsal_request = $2, rehearsal_options = $3::text::jsonb, rehearsal_outcome = null,
        updated_at = now()
    where id = $1 and state in ('pending', 'bulk_copy', 'dual_write')
      and rehearsal_request is null and cutover_request is null
    returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'rehearsal_requested',
           $3::text::jsonb || jsonb_build_object('request', $2::uuid), $4
    from asked
)
select pg_notify('eventsource_migrations', id::text) from asked

-- name: answer_rehearsal
with answered as (
    update tenant_migrations
    set rehearsal_request = null, updated_at = now(),
        rehearsal_outcome = $3::text::jsonb || jsonb_build_object('request', $2::uuid)
    where id = $1 and rehearsal_request = $2 returning id, rehearsal_outcome
), audit as (
    insert into migration_audit_log (migration_id, event_type, details)
    select id, 'rehearsal_answered', rehearsal_outcome from answered
)
select pg_notify('eventsource_migrations', id::text) from answered

-- name: restore
-- What a repair has read in the fences: a row that was lost, or that is of an earlier time.
with restored as (
    insert into tenant_migrations (id, tenant_id, source_store_id, target_store_id, state,
            paused_from, config, generation, position_offset, fence_position, source_identity,
            target_identity, returns, protocol, control_identity, completed_at,
            events_copied, total_events, progress_percentage)
    values ($1, $2, $3, $4, $5::text, $6, $7::text::jsonb, $8, $9, $10, $11::text::jsonb,
            $12::text::jsonb, $14::uuid, $15, $16::text::jsonb,
            case when $5::text in ('migrated', 'failed') then now() end,
            coalesce($18::bigint, 0), coalesce($18::bigint, 0),
            case when $18::bigint is null then 0 else 100 end)
    on conflict (id) do update
        set state = excluded.state, paused_from = excluded.paused_from, error_code = null,
            error_message = null, pause_requested = false, pause_at = null, abort_requested = null,
            driver_owner = null, driver_expires_at = null, completed_at = excluded.completed_at,
            position_offset = coalesce(excluded.position_offset, tenant_migrations.position_offset),
            fence_position = coalesce(excluded.fence_position, tenant_migrations.fence_position),
            returns = coalesce(excluded.returns, tenant_migrations.returns), updated_at = now(),
            events_copied = coalesce($18::bigint, tenant_migrations.events_copied),
            total_events = coalesce($18::bigint, tenant_migrations.total_events),
            progress_percentage = case when $18::bigint is null
                                       then tenant_migrations.progress_percentage else 100 end
        where tenant_migrations.protocol <= $17 and not $19::boolean
    returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'repaired', jsonb_build_object('state', $5::text), $13 from restored
)
select pg_notify('eventsource_migrations', id::text) from restored

-- name: abort_again
-- Of a migration that is over, and whose fence a store has again.
with asked as (
    update tenant_migrations
    set state = 'failed', paused_from = null, abort_requested = $2::text, updated_at = now()
    where id = $1 and (state in ('migrated', 'rolled_back', 'failed')
                       or driver_owner is null or driver_expires_at < now())
    returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'abort_requested', json_build_object('reason', $2::text)::jsonb, $3 from asked
)
select pg_notify('eventsource_migrations', id::text) from asked

-- name: rebind
with bound as (
    update tenant_migrations
    set source_identity = case when $2 = 'source' then $3::text::jsonb else source_identity end,
        target_identity = case when $2 = 'target' then $3::text::jsonb else target_identity end,
        config = config || $4::text::jsonb, updated_at = now()
    where id = $1 returning id
), audit as (
    insert into migration_audit_log (migration_id, event_type, details, operator)
    select id, 'rebound', jsonb_build_object('side', $2::text, 'place', $3::text::jsonb), $5
    from bound
)
select pg_notify('eventsource_migrations', id::text) from bound
