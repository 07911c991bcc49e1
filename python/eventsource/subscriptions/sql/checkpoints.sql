-- name: get
select subscription_name, store_id, tenant_id, position, updated_at
from subscription_checkpoints
where subscription_name = $1 and store_id = $2
  and coalesce(tenant_id::text, '') = coalesce($3::uuid::text, '')

-- name: save
-- The comparison is made under the row's lock: of two savers the one that is further on wins.
insert into subscription_checkpoints as kept (subscription_name, store_id, tenant_id, position)
values ($1, $2, $3, $4)
on conflict (subscription_name, store_id, coalesce(tenant_id::text, '')) do update
    set position = greatest(kept.position, excluded.position), updated_at = now()
returning subscription_name, store_id, tenant_id, position, updated_at

-- name: force
insert into subscription_checkpoints (subscription_name, store_id, tenant_id, position)
values ($1, $2, $3, $4)
on conflict (subscription_name, store_id, coalesce(tenant_id::text, '')) do update
    set position = excluded.position, updated_at = now()
returning subscription_name, store_id, tenant_id, position, updated_at

-- name: save_if_absent
insert into subscription_checkpoints (subscription_name, store_id, tenant_id, position)
values ($1, $2, $3, $4)
on conflict (subscription_name, store_id, coalesce(tenant_id::text, '')) do nothing
returning subscription_name, store_id, tenant_id, position, updated_at

-- name: save_over
-- Under the row's lock: a reader may have saved it since it was read.
insert into subscription_checkpoints as kept (subscription_name, store_id, tenant_id, position)
values ($1, $2, $3, $4)
on conflict (subscription_name, store_id, coalesce(tenant_id::text, '')) do update
    set position = excluded.position, updated_at = now() where kept.updated_at = $5
returning subscription_name, store_id, tenant_id, position, updated_at

-- name: list
select subscription_name, store_id, tenant_id, position, updated_at
from subscription_checkpoints
where ($1::text is null or subscription_name = $1)
order by subscription_name, store_id, tenant_id nulls first
