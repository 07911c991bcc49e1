-- What the mirror needs at the target, with the rights of a role that may only insert there.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

-- Whether a process of the application may mirror the tenant's events: its role may insert into the
-- table, and the migration has the fence closed. The fence row is locked to the transaction's end: an
-- abort that changes it waits for this mirror and then deletes what it wrote.
create or replace function {schema}.eventsource_mirror_permit(
    target text, tenant uuid, migration uuid
) returns boolean
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $permit$
declare
    caller  name := {schema}.eventsource_caller();
begin
    if not exists (select from pg_class c
                   where c.relname = target
                     and c.relnamespace = (select typnamespace from pg_type where oid =
                                           pg_typeof(null::{schema}.eventsource_fences)::oid)
                     and has_table_privilege(caller, c.oid, 'insert')) then
        raise exception 'role % may not insert into table %', caller, target
            using errcode = '42501', hint = format('grant insert on %I to %I', target, caller);
    end if;
    perform from {schema}.eventsource_fences
        where table_name = target and tenant_id = tenant::text and migration_id = migration
          and role = 'target' and state = 'closed' and mirrored
        for share;
    return found;
end
$permit$;

-- Writes carried rows of the tenant, each an array of texts in the order of `names`: those whose
-- stream's predecessor is there or among them, and that are not there yet. Returns how many.
--
-- What the table's own triggers run is not ours to qualify: for the insert the path leads to the
-- table's schema, as most roles' does. The setting by which the guard knows the migrator ends here.
create or replace function {schema}.eventsource_mirror(
    target text, tenant uuid, migration uuid, names text[], given jsonb
) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $mirror$
declare
    events   regclass;
    home     name;
    columns  text;
    made     text;
    shift    bigint;
    last     bigint;
    written  bigint;
    before   text := coalesce(current_setting('eventsource.migration', true), '');
begin
    if not {schema}.eventsource_mirror_permit(target, tenant, migration) then
        return 0;
    end if;
    select c.oid, n.nspname into strict events, home
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relname = target
          and n.oid = (select typnamespace from pg_type where oid =
                       pg_typeof(null::{schema}.eventsource_fences)::oid);
    select position_offset, last_target_position into strict shift, last
        from {schema}.eventsource_copy_progress where migration_id = migration;
    select string_agg(format('%I', a.attname), ', ' order by c.place),
           string_agg(format('(r operator(pg_catalog.->>) %s)::%s%s', c.place - 1,
                             format_type(a.atttypid, a.atttypmod),
                             case when a.attname = 'global_position'
                                  then ' operator(pg_catalog.+) $2' else '' end),
                      ', ' order by c.place)
        into strict columns, made
        from unnest(names) with ordinality c(name, place)
        join pg_attribute a on a.attrelid = events and a.attname = c.name
                           and a.attnum > 0 and not a.attisdropped;
    perform set_config('search_path', format('pg_catalog, %I, pg_temp', home), true);
    perform set_config('eventsource.migration', migration::text, true);
    -- Consecutive versions of a stream stand or fall with the first of them.
    execute format($insert$
        with given as (
            select r, (r ->> %4$s)::uuid as stream, r ->> %5$s as kind, (r ->> %6$s)::bigint as version
            from jsonb_array_elements($1) r where (r ->> %7$s)::uuid = $3
              -- What lies outside of the reserved block no abort deletes.
              and (r ->> %8$s)::bigint + $2 <= $4
        ), runs as (
            select *, version - dense_rank() over (partition by stream, kind order by version) as run
            from given
        ), whole as (
            select *, min(version) over (partition by stream, kind, run) as first from runs
        )
        insert into %1$I.%2$I (%3$s) overriding system value select %9$s from whole w
        where w.first = 1 or exists (
            select from %1$I.%2$I p where p.aggregate_id = w.stream and p.aggregate_type = w.kind
                                      and p.version = w.first - 1)
        order by (r ->> %8$s)::bigint
        on conflict do nothing
        $insert$, home, target, columns,
        array_position(names, 'aggregate_id') - 1, array_position(names, 'aggregate_type') - 1,
        array_position(names, 'version') - 1, array_position(names, 'tenant_id') - 1,
        array_position(names, 'global_position') - 1, made)
        using given, shift, tenant, last;
    get diagnostics written = row_count;
    perform set_config('eventsource.migration', before, true);
    return written;
end
$mirror$;
