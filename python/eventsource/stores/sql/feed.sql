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
        -- A migration writes only rows of an arriving tenant, which no reader is shown yet.
        floor := 9223372036854775807;
    else
        floor := coalesce(pg_sequence_last_value(coalesce(
            to_regclass(tg_argv[0]),
            pg_get_serial_sequence(format('%I.%I', tg_table_schema, tg_table_name),
                                   'global_position')::regclass)), 0);
    end if;
    if floor >> 32 > 0 then
        perform pg_advisory_xact_lock_shared(tg_relid::integer # -78885038,
                                             (floor >> 32)::integer);
    end if;
    perform pg_advisory_xact_lock_shared(tg_relid::integer # -1152626862,
                                         floor::bit(32)::integer);
    perform set_config('eventsource.announced_' || tg_relid, 'yes', true);
    return null;
end
$announce$;

-- The tenants whose rows a migration is still carrying into the table. Their positions do not
-- appear in order, so they are no part of the feed until the tenant is opened. A reader asks after
-- it has read the last position drawn: what such a tenant appends once it is open lies above that.
create or replace function {schema}.eventsource_arriving(events text) returns uuid[]
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $arriving$
    select coalesce(array_agg(tenant_id), '{}')
    from {schema}.eventsource_fences
    where table_name = events and role = 'target' and state = 'closed'
$arriving$;
