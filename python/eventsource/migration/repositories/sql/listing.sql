-- name: of_states
state = any ($1::text[])

-- name: active
state not in ('migrated', 'rolled_back', 'failed')

-- name: over
state in ('migrated', 'rolled_back', 'failed')

-- name: of_tenant
tenant_id = $1

-- name: source_store_id
source_store_id = $1

-- name: target_store_id
target_store_id = $1

-- name: since
created_at >= $1

-- name: until
created_at < $1

-- name: operator
-- The first condition finds them by two indexes, the second leaves out those that this operator has
-- only resumed while they were pending, and returns that somebody else has asked for since.
id in (select a.migration_id from migration_audit_log a
       where a.event_type = 'state:pending' and a.operator = $1
       union all
       select a.migration_id from migration_audit_log a
       where a.event_type = 'state:dual_write' and a.details ? 'returns' and a.operator = $1)
and $1 = (select a.operator from migration_audit_log a
          where a.migration_id = tenant_migrations.id and a.operator is not null
            and (a.event_type = 'state:pending'
                 or a.event_type = 'state:dual_write' and a.details ? 'returns')
          order by case a.event_type when 'state:pending' then a.id else -a.id end limit 1)

-- name: after
(created_at, id) < ((select b.created_at from tenant_migrations b where b.id = $1), $1)

-- name: exists
select true from tenant_migrations where id = $1

-- name: newest
order by created_at desc, id desc

-- name: each
select from tenant_migrations

-- name: count
select state, source_store_id, target_store_id, count(*)::int as migrations from tenant_migrations

-- name: by_pair
group by 1, 2, 3 order by 4 desc, 1, 2, 3
