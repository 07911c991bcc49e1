-- What the guard of a layout's tables calls: tables of other libraries, which have no column that says
-- by which transaction a row was written. Instead, the guard writes down the key of each row that
-- changes, for the tenant that moves and while it moves.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

-- One row per change of a row of a tenant that is leaving. `table_no` is the place of the table in its
-- layout, `key` the values of its key, before the change and after it.
create table if not exists {schema}.eventsource_changes (
    fence_id  integer not null,
    table_no  integer not null,
    key       jsonb not null,
    xid       xid8 not null default pg_current_xact_id()
);

-- A pass asks for a range of transactions, and nobody asks for anything else.
create index if not exists eventsource_changes_since on {schema}.eventsource_changes (fence_id, xid);

-- It has no key: a publication of all tables would let nobody delete a row.
do $identified$
begin
    if exists (select from pg_class c join pg_type t on t.typrelid = c.oid
               where t.oid = pg_typeof(null::{schema}.eventsource_changes)::oid
                 and c.relreplident = 'd') then
        alter table {schema}.eventsource_changes replica identity full;
    end if;
end
$identified$;

-- Lets a writer of a tenant that leaves pass, wait or fail, and says whether its change is to be
-- written down. As eventsource_guard_check, but for rows that may change while the tenant moves.
create or replace function {schema}.eventsource_change_check(
    lock integer, guarded integer, patience text, operation text
) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set row_security = off
set lock_timeout = '10s'
as $guard$
declare
    fence record;
begin
    -- As eventsource_guard_check does.
    if not pg_try_advisory_xact_lock_shared(1163281235, lock) then
        perform set_config('lock_timeout', patience, true);
        perform pg_advisory_xact_lock_shared(1163281235, lock);
    end if;
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        perform from {schema}.eventsource_fences where fence_id = guarded for share;
        if not found then
            raise exception 'the tenant began to migrate after this transaction took its snapshot'
                using errcode = '40001', hint = 'Retry the transaction.';
        end if;
    end if;
    select f.state, f.role, f.fence_id, f.generation, f.tenant_id, f.moved_to, f.migration_id, f.table_oid
        into fence from {schema}.eventsource_fences f
        where f.lock_id = lock
        order by f.generation desc,
                 case f.state when 'open' then 2 when 'moved' then 1 else 0 end, f.role
        limit 1;
    if not found then
        raise exception 'fence % is missing', guarded
            using errcode = 'EVF02', hint = 'Abort the migration of this tenant.';
    end if;
    if fence.state in ('open', 'aborting') then
        -- Who is back, or whose migration is being undone, writes as everybody does.
        return fence.role = 'source' and fence.state = 'open' and fence.fence_id = guarded;
    end if;
    if fence.state = 'closed' then
        raise exception 'tenant % is not open on this store yet', fence.tenant_id
            using errcode = 'EVF03',
                  detail = json_build_object('generation', fence.generation)::text;
    end if;
    if operation = 'DELETE'
       and current_setting('eventsource.migration', true) = fence.migration_id::text
       and exists (select from pg_class c where c.oid = fence.table_oid
                   and pg_has_role({schema}.eventsource_caller(), c.relowner, 'usage')) then
        -- As a clean-up says it of our own table: from here nothing can be carried again.
        update {schema}.eventsource_fences set cleaned_at = now()
            where fence_id = fence.fence_id and cleaned_at is null;
        return false;
    end if;
    raise exception 'tenant % has moved to store %', fence.tenant_id, fence.moved_to
        using errcode = 'EVF01',
              detail = json_build_object('target_store_id', fence.moved_to,
                                         'generation', fence.generation,
                                         'migration_id', fence.migration_id)::text;
end
$guard$;

-- Whether another key may be written down. The sequence counts them, which waits for nobody, and the
-- driver sets it back to what is left. Beyond the limit one row says that changes are missing here:
-- with it in the transaction of the first of them, a session that sees a change that was not written down
-- sees that row. It stands under the negative number of the fence, where it is found without a search.
create or replace function {schema}.eventsource_change_fits(
    guarded integer, most bigint
) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $fits$
declare
    counter regclass := to_regclass($at${schema}.eventsource_changes_of_$at$ || guarded);
begin
    -- No writer fails because somebody has taken the sequence, or the right to it, away.
    if most is null or counter is null or not has_sequence_privilege(counter, 'usage')
       or nextval(counter) <= most then
        return true;
    end if;
    if not exists (select from {schema}.eventsource_changes c
                   where c.fence_id = -guarded and c.table_no = 1) then
        insert into {schema}.eventsource_changes (fence_id, table_no, key)
            values (-guarded, 1, '"overflowed"');
    end if;
    return false;
end
$fits$;
