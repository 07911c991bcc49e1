-- name: moving
-- What has begun and has no outcome yet, with what the journal says of it.
select i.ordinal, i.tenant_id, i.source_store_id, i.target_store_id, i.events, i.bytes, i.attempts,
       i.began_at, i.error_message as last_error, m.id as migration_id, m.state,
       coalesce(m.events_copied, 0) as events_copied, coalesce(m.total_events, 0) as total_events,
       coalesce(m.progress_percentage, 0)::float8 as percent, m.error_message as message,
       coalesce(m.driver_expires_at > now(), false) as driver_alive, m.driver_name,
       coalesce(m.parked, false) as parked, m.throttle_rate, m.started_at, m.cutover_pause_ms,
       extract(epoch from now() - m.started_at)::float8 as copying_seconds
from migration_wave_items i left join tenant_migrations m on m.id = i.migration_id
where i.wave_id = $1 and i.outcome is null and i.began_at is not null
order by i.ordinal limit $2

-- name: arriving
-- What is still to come to some stores: rows that are not copied yet, and indexes, which are built
-- at the end. Of tenants without a migration those count that began before and still may: one of two
-- goes first.
select coalesce(sum(i.bytes * case
           when m.state in ('dual_write', 'cutover_paused', 'migrated') then 0
           else $4::float8 - least(1, coalesce(m.events_copied::float8
                                               / nullif(m.total_events, 0), 0)) end), 0)::bigint
from migration_waves w
join migration_wave_items i on i.wave_id = w.id and i.outcome is null
cross join migration_wave_items mine
left join lateral (select state, events_copied, total_events from tenant_migrations
                   where id = i.migration_id offset 0) m on true
where w.state <> 'done' and mine.wave_id = $1 and mine.tenant_id = $2
  and i.began_at is not null and i.target_store_id = any ($3::text[])
  and (i.wave_id, i.tenant_id) <> (mine.wave_id, mine.tenant_id)
  and (m.state is not null or w.state = 'running'
       and (i.began_at, i.wave_id, i.tenant_id) < (mine.began_at, mine.wave_id, mine.tenant_id))

-- name: pace
-- How fast tenants have arrived lately.
select count(*)::int as tenants, coalesce(sum(events), 0)::bigint as events,
       extract(epoch from now() - greatest(min(ended_at), now() - make_interval(secs => $2)))::float8
           as seconds
from migration_wave_items
where wave_id = $1 and outcome = 'moved' and ended_at > now() - make_interval(secs => $2)

-- name: pauses
-- By the key of each: a plan for all at once would read the whole journal, of which the wave is a part.
select percentile_disc(0.5) within group (order by m.cutover_pause_ms) as median,
       max(m.cutover_pause_ms) as longest
from migration_wave_items i
cross join lateral (select cutover_pause_ms from tenant_migrations
                    where id = i.migration_id offset 0) m
where i.wave_id = $1 and i.outcome = 'moved'

-- name: proofs
-- What a report says of each tenant: the proof of its bulk copy, the pause, the positions.
select i.ordinal, i.tenant_id, i.source_store_id, i.target_store_id, i.outcome, i.attempts,
       i.error_code, i.error_message, i.migration_id, i.began_at, i.ended_at,
       m.state, m.events_copied, m.cutover_pause_ms, m.fence_position, m.position_offset,
       m.generation, m.config ->> 'verification_level' as verification_level,
       coalesce((select true from migration_audit_log a where a.migration_id = i.migration_id
                 and a.event_type = 'state:dual_write' limit 1), false) as bulk_proven,
       m.state = 'migrated' as last_pass_proven,
       (select a.details ->> 'comparison' from migration_audit_log a
        where a.migration_id = i.migration_id and a.event_type = 'cutover_requested'
        order by a.id desc limit 1) as comparison,
       (m.config ->> 'sample_percentage')::float8 as sample
from migration_wave_items i left join tenant_migrations m on m.id = i.migration_id
where i.wave_id = $1 and i.ordinal > $2 order by i.ordinal limit $3

-- name: copies
-- How long the last bulk copies took.
select m.events_copied as events,
       extract(epoch from d.created_at - b.created_at)::float8 as copy_seconds,
       extract(epoch from m.completed_at - m.created_at)::float8 as seconds
from (select id, events_copied, created_at, completed_at from tenant_migrations
      where state = 'migrated' order by created_at desc, id desc limit 200) m
cross join lateral (select min(created_at) as created_at from migration_audit_log
                    where migration_id = m.id and event_type = 'state:bulk_copy') b
cross join lateral (select min(created_at) as created_at from migration_audit_log
                    where migration_id = m.id and event_type = 'state:dual_write') d
where d.created_at > b.created_at

-- name: alone
-- What moves without a wave.
select 0 as ordinal, m.tenant_id::text as tenant_id, m.source_store_id, m.target_store_id,
       0 as attempts, m.created_at as began_at, null as last_error, m.id as migration_id, m.state,
       coalesce(m.events_copied, 0) as events_copied, coalesce(m.total_events, 0) as total_events,
       coalesce(m.progress_percentage, 0)::float8 as percent, m.error_message as message,
       coalesce(m.driver_expires_at > now(), false) as driver_alive, m.driver_name, m.parked,
       extract(epoch from now() - m.started_at)::float8 as copying_seconds
from tenant_migrations m
where m.state not in ('migrated', 'rolled_back', 'failed')
  and not exists (select from migration_wave_items i join migration_waves w on w.id = i.wave_id
                  where i.migration_id = m.id and w.state <> 'done')
order by m.created_at, m.id limit 200

-- name: recent_pauses
select i.tenant_id, i.source_store_id, i.target_store_id, i.events, i.ended_at, m.cutover_pause_ms
from migration_wave_items i join tenant_migrations m on m.id = i.migration_id
where i.wave_id = $1 and i.outcome = 'moved' and m.cutover_pause_ms is not null
order by i.ended_at desc limit $2

-- name: number
select count(*)::int from migration_waves

-- name: closed
-- Waves of which nothing moves: a line for each.
select w.id, w.name, w.state, s.what, s.tenants
from migration_waves w cross join lateral (
    select coalesce(i.outcome, 'waiting') as what, count(*)::int as tenants
    from migration_wave_items i where i.wave_id = w.id group by 1
) s
where w.id = any ($1::uuid[]) order by w.created_at desc, w.id
