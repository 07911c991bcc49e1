-- name: here
select (select system_identifier::text from pg_control_system()) as system,
       (select oid::bigint from pg_database where datname = current_database()) as database_oid,
       c.relnamespace::bigint as schema_oid, c.oid::bigint as table_oid,
       format('%I in database %I', c.relname, current_database()) as name
from pg_class c where c.oid = to_regclass('tenant_migrations')

-- name: elsewhere
-- Names are for messages: a database that was renamed is the same place.
with meant as (
    select id, created_at, control_identity from tenant_migrations
    where state not in ('migrated', 'rolled_back', 'failed')
    union
    (select id, created_at, control_identity from tenant_migrations
     order by created_at desc, id desc limit 1)
)
select id, control_identity::text as control_identity from meant
where control_identity - 'name' <> $1::text::jsonb - 'name'
order by created_at, id limit 1000

-- name: bind
with bound as (
    update tenant_migrations m
    set control_identity = $1::text::jsonb, updated_at = now()
    where control_identity - 'name' <> $1::text::jsonb - 'name' and protocol <= $2
    returning id
)
insert into migration_audit_log (migration_id, event_type, details, operator)
select id, 'control_bound', jsonb_build_object('place', $1::text::jsonb), $3 from bound
