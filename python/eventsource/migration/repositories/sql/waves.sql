-- name: of_migration
select wave_id, tenant_id from migration_wave_items where migration_id = $1 and outcome is null

-- name: stop
-- Only the one that stops it writes so: everybody else finds it stopped.
update migration_waves
set state = 'stopped', stopped_at = now(), stopped_by = $2, stop_reason = $3, updated_at = now(),
    history = history || jsonb_build_object(
        'at', clock_timestamp(), 'what', 'stopped', 'by', $2::text, 'reason', $3::text)
where id = $1 and state = 'running'
returning id

-- name: withdraw
-- What is under its fence already comes to its end; nothing else of the wave cuts over.
update tenant_migrations m set cutover_request = null, updated_at = now()
where m.cutover_request is not null and m.state in ('pending', 'bulk_copy', 'dual_write')
  and m.id is distinct from $2
  and m.id in (select i.migration_id from migration_wave_items i
               where i.wave_id = $1 and i.outcome is null)
