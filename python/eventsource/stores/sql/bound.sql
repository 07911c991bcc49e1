-- Fences and their table: by its name, by its oid, and by the triggers that stand for them.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

-- A fence belongs to a table of a name and of an oid. A table that is renamed takes its fences along,
-- one that was dropped and made again or restored from a dump gets those of its name. Where the two
-- disagree, two tables have changed their names, and only their owner knows which of them is meant.
create or replace function {schema}.eventsource_fences_follow(events regclass) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set row_security = off
as $follow$
declare
    event  name;
    home   oid;
    stray  record;
    named  text;
begin
    select relname, relnamespace into strict event, home from pg_class where oid = events;
    select n.nspname into named
        from pg_trigger t join pg_proc p on p.oid = t.tgfoid
        join pg_namespace n on n.oid = p.pronamespace
        where t.tgrelid = events and t.tgname like 'zzz\_eventsource\_guard\_%'
          and p.pronamespace <> home limit 1;
    if found then
        raise exception 'table % has come from schema %, where its fences still are', events, named
            using errcode = '55000',
                  hint = format('Take it back (alter table %s set schema %I), or move the rows of'
                                ' eventsource_fences to its new schema and drop its triggers'
                                ' zzz_eventsource_guard_*.', events, named);
    end if;
    with renamed as (
        update {schema}.eventsource_fences f set table_name = event
            where f.table_oid = events and f.table_name <> event
              and not exists (select from pg_class c where c.relnamespace = home
                              and c.relname = f.table_name)
              and not exists (select from {schema}.eventsource_fences g
                              where g.table_name = event and g.tenant_id = f.tenant_id)
            returning f.migration_id, f.role
    )
    update {schema}.eventsource_copy_progress p set table_name = event
        from renamed where p.migration_id = renamed.migration_id and renamed.role = 'target';
    update {schema}.eventsource_fences f set table_oid = events
        where f.table_name = event and f.table_oid is distinct from events
          and not exists (select from pg_class c where c.oid = f.table_oid and c.relkind = 'r');
    select f.table_name, f.table_oid::regclass::text as other, f.table_oid as number into stray
        from {schema}.eventsource_fences f
        where (f.table_name = event) <> (f.table_oid = events) limit 1;
    if found then
        raise exception 'a fence names table %, and by its oid it is that of table %',
                        stray.table_name, stray.other
            using errcode = '55000',
                  hint = format('If it is meant for the table called %1$s: update %2$s set table_oid = %3$L'
                                '::regclass where table_name = %1$L. If it is meant for %4$s: update %2$s'
                                ' set table_name = (select relname from pg_class where oid = %5$s) where'
                                ' table_oid = %5$s. Then run create_schema() for both tables.',
                                stray.table_name, pg_typeof(null::{schema}.eventsource_fences),
                                format('%I.%I', home::regnamespace::text, stray.table_name),
                                stray.other, stray.number);
    end if;
end
$follow$;

-- Whether the guard of the tenants that leave a table, or have left it, is what the fences say: looked
-- at without any lock, by everybody who starts.
create or replace function {schema}.eventsource_guard_stands(events regclass) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $stands$
declare
    event   name;
    home    oid;
    label   text;
    fences  jsonb;
begin
    select relname, relnamespace into strict event, home from pg_class where oid = events;
    if exists (select from {schema}.eventsource_fences f
               where (f.table_name = event) is distinct from (f.table_oid = events)
                 and (f.table_name = event or f.table_oid = events))
       or exists (select from {schema}.eventsource_guard_weakened(events))
       or exists (select from pg_trigger t join pg_proc p on p.oid = t.tgfoid
                  where t.tgrelid = events and t.tgname like 'zzz\_eventsource\_guard\_%'
                    and p.pronamespace <> home) then
        return false;
    end if;
    label := case when octet_length(event) > 35 then md5(event) else event end;
    fences := {schema}.eventsource_guarded(event);
    return (
        select count(*) from pg_trigger t join pg_proc p on p.oid = t.tgfoid
        where t.tgrelid = events and t.tgenabled = 'A' and t.tgqual is null
          and t.tgattr = ''::int2vector and p.prosecdef
          and (t.tgname, t.tgtype, p.proname) in (
              ('zzz_eventsource_guard_write', 23, 'eventsource_guard_write_of_' || label),
              ('zzz_eventsource_guard_change', 27, 'eventsource_guard_change_of_' || label),
              ('zzz_eventsource_guard_truncate', 34, 'eventsource_guard_truncate'))
          and (p.proname = 'eventsource_guard_truncate'
               or position(quote_literal(fences::text) in p.prosrc) > 0)
    ) = case when fences is null then 0 else 3 end;
end
$stands$;
