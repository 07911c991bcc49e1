-- Every statement that writes to an event table announces, before it draws a position, the last
-- position drawn so far: its own positions are greater. A reader finds the announcement beside the
-- statement's table lock in pg_locks and stops there until the transaction has ended.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

-- Once per transaction and table: the first announcement is the lowest. The setting is local, so a
-- rollback to a savepoint takes it back together with the lock. Security definer, because a role
-- that may insert need not be allowed to read the sequence.
create or replace function {schema}.eventsource_announce() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $announce$
begin
    if coalesce(current_setting('eventsource.announced_' || tg_relid, true), '') = '' then
        perform pg_advisory_xact_lock_shared(
            tg_relid::integer # -1152626862,
            coalesce(pg_sequence_last_value(coalesce(
                to_regclass(tg_argv[0]),
                pg_get_serial_sequence(format('%I.%I', tg_table_schema, tg_table_name),
                                       'global_position')::regclass)), 0)::bit(32)::integer);
        perform set_config('eventsource.announced_' || tg_relid, 'yes', true);
    end if;
    return null;
end
$announce$;
