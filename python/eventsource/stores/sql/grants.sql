-- Who may call what of the above. A trigger's function needs no right to be fired, and the rest is the
-- migrator's; what applications call themselves is granted by name, since PUBLIC's defaults may be gone.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.
revoke all on function
    {schema}.eventsource_caller(),
    {schema}.eventsource_guard_pass(integer),
    {schema}.eventsource_guard_check(integer, text, text),
    {schema}.eventsource_guard_check(integer, integer, text, text),
    {schema}.eventsource_guarded(name),
    {schema}.eventsource_guard(),
    {schema}.eventsource_guard_weakened(regclass),
    {schema}.eventsource_change_check(integer, integer, text, text),
    {schema}.eventsource_change_fits(integer, bigint),
    {schema}.eventsource_guard_renew(regclass),
    {schema}.eventsource_guard_stands(regclass),
    {schema}.eventsource_fences_follow(regclass),
    {schema}.eventsource_guard_truncate(),
    {schema}.eventsource_guard_loading(),
    {schema}.eventsource_open_target(text, uuid, uuid, bigint, bigint),
    {schema}.eventsource_open_target(text, text, uuid, bigint, bigint, integer, uuid, bigint, bytea,
                                     bigint),
    {schema}.eventsource_announce()
    from public;
-- These ask themselves what the caller may do to the table.
grant execute on function
    {schema}.eventsource_arriving(text),
    {schema}.eventsource_hidden(text),
    {schema}.eventsource_mirror_permit(text, uuid, uuid),
    {schema}.eventsource_mirror(text, uuid, uuid, text[], jsonb)
    to public;
-- Who was granted the one by name, where PUBLIC has nothing, reads the feed with both.
do $granted$
declare
    reader record;
begin
    for reader in
        select distinct n.nspname, a.grantee::regrole as name
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace, aclexplode(p.proacl) a
        where p.proname = 'eventsource_arriving' and a.privilege_type = 'EXECUTE'
          and a.grantee not in (0, p.proowner)
          and n.oid = (select typnamespace from pg_type
                       where oid = pg_typeof(null::{schema}.eventsource_fences)::oid)
    loop
        execute format('grant execute on function %I.eventsource_hidden(text) to %s',
                       reader.nspname, reader.name);
    end loop;
end
$granted$;
