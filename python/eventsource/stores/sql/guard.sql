-- The functions that the triggers of the guard call; the fence rows that they read are in fences.sql.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

-- The role of a session, also within functions that run with the rights of their owner.
create or replace function {schema}.eventsource_caller() returns name
language sql stable
set search_path = pg_catalog, pg_temp
as $caller$
    select case when current_setting('role') = 'none' then session_user
                else current_setting('role')::name end
$caller$;

-- What a transaction that was let through has in its settings, and no other one: nobody has it by accident,
-- and nobody who cannot read the number makes it up (the hash is a quick one, and no cipher).
-- Null, and so no pass, where the number cannot be read. To be made part of a caller's expression it has no
-- settings of its own.
create or replace function {schema}.eventsource_guard_pass(lock integer) returns text
language sql volatile
as $pass$
    select pg_catalog.hashint8extended(
        (lock::pg_catalog.int8 operator(pg_catalog.<<) 32)
            operator(pg_catalog.#) pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8,
        case when pg_catalog.has_sequence_privilege(
                      pg_catalog.to_regclass($name${schema}.eventsource_fence_secret$name$), 'select')
             then pg_catalog.pg_sequence_last_value(
                      pg_catalog.to_regclass($name${schema}.eventsource_fence_secret$name$))
        end)::pg_catalog.text
$pass$;

-- The guard: lets a writer pass, wait or fail. Lock and check are two statements of a volatile
-- function, so that the check takes a snapshot after the wait; under a frozen snapshot FOR SHARE makes
-- the server raise 40001 instead of letting the writer trust an old row. The row that the guard was made
-- for is the newest: a snapshot that does not show it does not show what it says. The lock timeout of
-- the argument holds inside only.
create or replace function {schema}.eventsource_guard_check(
    lock integer, guarded integer, patience text, operation text
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set row_security = off
set lock_timeout = '10s'
as $guard$
declare
    fence   record;
    caller  name;
    frozen  boolean := current_setting('transaction_isolation') in ('repeatable read', 'serializable');
    through boolean := false;
    passed  text;
    mine    text := coalesce(current_setting('eventsource.migration', true), '');
begin
    -- Who need not wait spends no statement on the lock. Nobody is overtaken: this fails too while another
    -- session waits for the lock alone.
    if not pg_try_advisory_xact_lock_shared(1163281235, lock) then
        perform set_config('lock_timeout', patience, true);
        perform pg_advisory_xact_lock_shared(1163281235, lock);
    end if;
    if frozen then
        perform from {schema}.eventsource_fences
            where fence_id = guarded for share;
        if not found then
            raise exception 'the tenant began to migrate after this transaction took its snapshot'
                using errcode = '40001', hint = 'Retry the transaction.';
        end if;
    end if;
    if mine <> '' and operation = 'INSERT' then
        -- As eventsource_caller(), which would cost more than all the rest.
        caller := case when current_setting('role') = 'none' then session_user
                       else current_setting('role')::name end;
        -- The passes of a way back write to a store that the tenant has left. Anybody may set the
        -- setting: it has to be that of an open way back, and the session the owner's. The row stays
        -- locked: who closes the way back waits for what is being written.
        perform from {schema}.eventsource_fences w join pg_class c on c.oid = w.table_oid
            where w.lock_id = lock and w.role = 'target' and w.state = 'standby'
              and w.migration_id::text = mine
              and pg_has_role(caller, c.relowner, 'usage')
            for share of w;
        through := found;
    end if;
    if not through then
        select f.state, f.role, f.generation, f.tenant_id, f.moved_to, f.migration_id, f.table_oid
            into fence from {schema}.eventsource_fences f
            where f.lock_id = lock
            order by f.generation desc,
                     case f.state when 'open' then 2 when 'moved' then 1 else 0 end, f.role
            limit 1;
        if not found then
            raise exception 'fence % is missing', guarded
                using errcode = 'EVF02', hint = 'Abort the migration of this tenant.';
        end if;
        through := operation = 'INSERT' and fence.state = 'open';
    end if;
    if through then
        -- Nothing below refuses that. Before it, since an expression with a query in it is a statement.
        if not frozen then
            -- Further rows of this transaction need not look again: the setting goes when the locks go,
            -- also with a savepoint, and while they are held nobody closes an open fence, or the way
            -- back. The first row may be the only one, and leaves a cheaper mark.
            passed := set_config('eventsource.passed', case
                when coalesce(current_setting('eventsource.passed', true), '') = '' then 'once'
                else {schema}.eventsource_guard_pass(lock) end, true);
        end if;
        return;
    end if;

    if fence.state in ('closed', 'aborting')
       and exists (select from {schema}.eventsource_fences a
                   where a.fence_id = guarded and a.role = 'source' and a.generation = -1) then
        -- The guard of its way back is up before the tenant has arrived: those of its arrival refuse.
        return;
    end if;
    if fence.state in ('closed', 'aborting', 'standby') then
        raise exception 'tenant % is not open on this store yet', fence.tenant_id
            using errcode = 'EVF03',
                  -- Not the migration's id: with it a session could pass for the migrator's.
                  detail = json_build_object('generation', fence.generation)::text;
    end if;
    if operation = 'DELETE' and fence.state = 'moved' then
        -- The old rows are the way back until an operator says otherwise.
        if current_setting('eventsource.migration', true) = fence.migration_id::text
           and exists (select from pg_class c where c.oid = fence.table_oid
                       and pg_has_role({schema}.eventsource_caller(), c.relowner, 'usage')) then
            return;
        end if;
        raise exception 'the old rows of tenant %, which moved to store %, are guarded',
                        fence.tenant_id, fence.moved_to
            using errcode = 'EVF02',
                  hint = format('To delete them, as the owner of the table: '
                                'set eventsource.migration = %L in the session.',
                                fence.migration_id);
    end if;
    if operation <> 'INSERT' and fence.role = 'source' and fence.state = 'open' then
        raise exception 'events of tenant % cannot be changed while it migrates', fence.tenant_id
            using errcode = 'EVF02',
                  hint = 'Events are immutable; to erase some, abort the migration or wait for its end.'
                         ' Of a tenant that has moved here and may still return, close the way back.';
    end if;
    if fence.state = 'moved' then
        raise exception 'tenant % has moved to store %', fence.tenant_id, fence.moved_to
            using errcode = 'EVF01',
                  detail = json_build_object('target_store_id', fence.moved_to,
                                             'generation', fence.generation,
                                             'migration_id', fence.migration_id)::text;
    end if;
end
$guard$;

-- What the triggers of older versions call, from before a tenant had more than one fence.
create or replace function {schema}.eventsource_guard_check(
    guarded integer, patience text, operation text
) returns void
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $guard$
    select {schema}.eventsource_guard_check(guarded, guarded, patience, operation)
$guard$;

-- The guard of one tenant that is arriving. Its trigger's condition knows the tenant, and lets the
-- migrator pass.
create or replace function {schema}.eventsource_guard() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $guard$
begin
    perform {schema}.eventsource_guard_check(
        coalesce(tg_argv[2], tg_argv[0])::integer, tg_argv[0]::integer, tg_argv[1], tg_op);
    return coalesce(new, old);
end
$guard$;

-- The triggers of a table's guard that do not fire as they have to. One that is switched off is meant to
-- be, unless its tenant is still arriving, or its load is under way: an abort or the end of the load
-- has done it. Those that all share are off while no tenant is leaving or has left.
create or replace function {schema}.eventsource_guard_weakened(events regclass) returns setof name
language sql stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $weakened$
    select t.tgname
    from pg_trigger t join pg_class c on c.oid = t.tgrelid
    where t.tgrelid = events and t.tgenabled <> 'A'
      and t.tgname like 'zzz\_eventsource\_guard\_%'
      and (t.tgenabled <> 'D'
           or t.tgname !~ '_guard_[0-9]' and {schema}.eventsource_guarded(c.relname) is not null
           or exists (
               select from {schema}.eventsource_fences f
               where f.table_name = c.relname and f.role = 'target' and f.state <> 'open'
                 and starts_with(t.tgname, 'zzz_eventsource_guard_' || f.fence_id || '_')
                 and (t.tgname not like '%\_loading' or exists (
                     select from {schema}.eventsource_copy_progress p
                     where p.migration_id = f.migration_id and p.deferred_indexes is not null))))
$weakened$;

-- Makes the guard of all tenants that are leaving a table or have left it what the fences say; call it
-- whenever a tenant joins them or is no longer among them. It waits out all transactions that have
-- written to the table, and none that writes later misses the change: with the table's lock a writer
-- also learns of a function that was replaced.
--
-- The fences are a constant of the functions. PostgreSQL parses the condition of a trigger for
-- every statement, and would do so for each tenant that ever left; a function it parses once in a
-- session. The constant is jsonb because that is searched as it lies there: an array of many is made
-- into a hash table first, in every transaction.
create or replace function {schema}.eventsource_guard_renew(events regclass) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set row_security = off
as $renew$
declare
    home     name;
    event    name;
    label    text;
    fences   jsonb;
    make     text;
    body     text;
    kind     text;
    change   text;
    changes  text[] := '{}';
begin
    select n.nspname, c.relname into strict home, event
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = events;
    execute format('lock table %I.%I in share row exclusive mode', home, event);
    perform {schema}.eventsource_fences_follow(events);
    -- ENABLE TRIGGER ALL makes ALWAYS into ORIGIN.
    for kind in select {schema}.eventsource_guard_weakened(events) loop
        changes := changes || format('alter table %I.%I enable always trigger %I', home, event, kind);
    end loop;
    label := case when octet_length(event) > 35 then md5(event) else event end;
    -- Waits for a fence that is being deleted: its session looks for these triggers afterwards.
    perform from {schema}.eventsource_fences where table_name = event for key share;
    fences := {schema}.eventsource_guarded(event);

    -- A tenant's name is data: the body is quoted as a whole, whatever quotes the name has in it.
    make := 'create or replace function %I.%I() returns trigger language plpgsql security definer'
            ' set search_path = pg_catalog, pg_temp as %L';
    body := $body$
        declare
            fence   jsonb;
            seat    pg_catalog.int4;
            passed  boolean;
        begin
            fence := %2$L::pg_catalog.jsonb
                operator(pg_catalog.->) (%3$s.tenant_id::pg_catalog.text);
            if fence is not null then
                seat := (fence operator(pg_catalog.->>) 2)::pg_catalog.int4;
                passed := tg_op operator(pg_catalog.=) 'INSERT'
                    and pg_catalog.current_setting('eventsource.passed', true) operator(pg_catalog.<>) ''
                    and pg_catalog.current_setting('eventsource.passed', true)
                        operator(pg_catalog.=) %1$I.eventsource_guard_pass(seat);
                if passed is not true then
                    -- An expression and not PERFORM, which is a statement and costs as much as one.
                    passed := %1$I.eventsource_guard_check(
                        seat, (fence operator(pg_catalog.->>) 0)::pg_catalog.int4,
                        fence operator(pg_catalog.->>) 1, tg_op) is not null;
                end if;
                %4$s
            end if;
            return %5$s;
        end
        $body$;
    if fences is null then
        -- Switched off and not dropped: that would wait for readers of the table.
        foreach kind in array array['write', 'change', 'truncate'] loop
            if exists (select from pg_trigger t where t.tgrelid = events
                       and t.tgname = 'zzz_eventsource_guard_' || kind) then
                changes := changes || format('alter table %I.%I disable trigger %I',
                                             home, event, 'zzz_eventsource_guard_' || kind);
            end if;
        end loop;
    else
        -- A snapshot is compared with this column, so no writer chooses its value.
        changes := changes || array[
            format(make, home, 'eventsource_guard_write_of_' || label,
                   format(body, home, fences, 'new',
                          'new.transaction_id := pg_catalog.pg_current_xact_id();', 'new')),
            format(make, home, 'eventsource_guard_change_of_' || label,
                   format(body, home, fences, 'old', '', 'coalesce(new, old)')),
            -- BEFORE triggers run in the order of their names: another one may still change the tenant.
            format('create or replace trigger zzz_eventsource_guard_write before insert or update'
                   ' on %1$I.%2$I for each row execute function %1$I.%3$I()',
                   home, event, 'eventsource_guard_write_of_' || label),
            format('create or replace trigger zzz_eventsource_guard_change before update or delete'
                   ' on %1$I.%2$I for each row execute function %1$I.%3$I()',
                   home, event, 'eventsource_guard_change_of_' || label),
            format('create or replace trigger zzz_eventsource_guard_truncate before truncate'
                   ' on %1$I.%2$I for each statement'
                   ' execute function %1$I.eventsource_guard_truncate()', home, event)
        ];
        -- Otherwise session_replication_role = replica walks past.
        foreach kind in array array['write', 'change', 'truncate'] loop
            changes := changes || format('alter table %I.%I enable always trigger %I',
                                         home, event, 'zzz_eventsource_guard_' || kind);
        end loop;
    end if;
    -- For each of these an event trigger of yours may run, whose function looks its names up by the
    -- path that role and database have.
    perform set_config('search_path', null, true);
    foreach change in array changes loop
        execute change;
    end loop;
end
$renew$;

-- A table that a tenant is leaving or entering cannot be emptied under the migration.
create or replace function {schema}.eventsource_guard_truncate() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $guard$
begin
    raise exception 'table % cannot be truncated while a tenant migrates', tg_table_name
        using errcode = 'EVF02', hint = 'Finish or abort the migration first.';
end
$guard$;

-- While a migration loads an empty table without its unique constraints, nobody else writes to it.
create or replace function {schema}.eventsource_guard_loading() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $guard$
begin
    raise exception 'table % is being loaded by a migration', tg_table_name
        using errcode = 'EVF03', hint = 'It takes writes again when the bulk copy is done.';
end
$guard$;
