-- name: report
insert into migration_router_reports (migration_id, router, ready, reason, sessions)
values ($1, $2, $3, $4, $5)
on conflict (migration_id, router) do update
set ready = excluded.ready, reason = excluded.reason, sessions = excluded.sessions, seen_at = now()

-- name: longest_append
-- A router that has said nothing yet has just appended at the target.
insert into migration_router_reports (migration_id, router, ready, longest_append_ms)
values ($1, $2, true, $3)
on conflict (migration_id, router) do update
set longest_append_ms = greatest(
    migration_router_reports.longest_append_ms, excluded.longest_append_ms
)

-- name: of_migration
select migration_id, router, ready, reason, seen_at, left_out_by, coalesce(sessions, 0) as sessions,
       longest_append_ms, seen_at > now() - make_interval(secs => $2) as is_live
from migration_router_reports where migration_id = $1
order by router

-- name: leave_out
update migration_router_reports set left_out_by = coalesce($3, 'an operator')
where migration_id = $1 and router = $2
returning true
