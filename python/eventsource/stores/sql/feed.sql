-- What a reader of the feed has to know of writers that have not ended, and of arriving tenants.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

-- Every statement that writes to an event table announces, before it draws a position, the last
-- position drawn so far: its own positions are greater. A reader finds the announcement beside the
-- statement's table lock in pg_locks and stops there until the transaction has ended.
--
-- Once per transaction and table: the first announcement is the lowest. The setting is local, so a
-- rollback to a savepoint takes it back together with the locks. The high half of a position comes
-- first: a reader that sees the low half sees both. Security definer, because a role that may insert need
-- not be allowed to read the sequence.
create or replace function {schema}.eventsource_announce() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $announce$
declare
    floor bigint;
begin
    if coalesce(current_setting('eventsource.announced_' || tg_relid, true), '') <> '' then
        return null;
    end if;
    if coalesce(current_setting('eventsource.migration', true), '') <> '' then
        -- A migration writes only rows of an arriving tenant, which no reader is shown yet. Anybody
        -- may set the setting: only the owner's sessions, and only for such a tenant, are believed.
        if pg_has_role({schema}.eventsource_caller(),
                       (select relowner from pg_class where oid = tg_relid), 'usage')
           and exists (select from {schema}.eventsource_fences
                       where table_name = tg_table_name and role = 'target'
                         and state in ('closed', 'standby')
                         and migration_id::text = current_setting('eventsource.migration', true)) then
            floor := 9223372036854775807;
        end if;
    end if;
    if floor is null then
        floor := coalesce(pg_sequence_last_value(coalesce(
            to_regclass(tg_argv[0]),
            pg_get_serial_sequence(format('%I.%I', tg_table_schema, tg_table_name),
                                   'global_position')::regclass)), 0);
    end if;
    -- Never waited for. Only a session that means harm holds such a lock exclusively: the writer then
    -- goes on unannounced, which a reader notices. A later statement of the transaction must not
    -- announce its higher floor in place of this one, hence the setting in any case.
    if floor >> 32 = 0 or pg_try_advisory_xact_lock_shared(tg_relid::integer # -78885038,
                                                           (floor >> 32)::integer) then
        perform pg_try_advisory_xact_lock_shared(tg_relid::integer # -1152626862,
                                                 floor::bit(32)::integer);
    end if;
    perform set_config('eventsource.announced_' || tg_relid, 'yes', true);
    return null;
end
$announce$;

-- The tenants whose rows a migration is still carrying into the table. Their positions do not
-- appear in order, so they are no part of the feed until the tenant is opened. A reader asks after
-- it has read the last position drawn: what such a tenant appends once it is open lies above that.
--
-- The reader's role need not be allowed to read the fences, but learns nothing of a table that it may
-- not read. An error and not an empty answer, which would show it half of a tenant.
create or replace function {schema}.eventsource_arriving(events text) returns uuid[]
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $arriving$
begin
    if not exists (select from pg_class c
                   where c.relname = events
                     and c.relnamespace = (select typnamespace from pg_type where oid =
                                           pg_typeof(null::{schema}.eventsource_fences)::oid)
                     and has_any_column_privilege({schema}.eventsource_caller(), c.oid, 'select'))
    then
        raise exception 'role % may not read table %', {schema}.eventsource_caller(), events
            using errcode = '42501', hint = format('grant select on %I to %I', events,
                                                   {schema}.eventsource_caller());
    end if;
    return (select coalesce(array_agg(distinct tenant_id::uuid), '{}')
            from {schema}.eventsource_fences
            where table_name = events and role = 'target'
              and state in ('closed', 'aborting'));
end
$arriving$;

-- What is no part of the feed: tenants that arrive with all their events, and of those that may return
-- what was carried since they left, above the position at which they did. Hiding these by tenant would
-- make readers that lag, or begin again, pass the old events without having seen them.
create or replace function {schema}.eventsource_hidden(events text)
returns table (tenant uuid, above bigint)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $hidden$
begin
    return query
        select arriving, (-9223372036854775808)::bigint
            from unnest({schema}.eventsource_arriving(events)) as arriving
        union all
        select f.tenant_id::uuid, max(m.source_head)
            from {schema}.eventsource_fences f
            join {schema}.eventsource_fences m
                on m.lock_id = f.lock_id and m.role = 'source' and m.state = 'moved'
            where f.table_name = events and f.role = 'target' and f.state in ('standby', 'retired')
              and m.table_name = events and m.source_head is not null
            group by f.tenant_id;
end
$hidden$;
