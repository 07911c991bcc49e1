-- The objects that a migration needs beside an event table, in that table's schema.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

-- One row per tenant that is leaving or arriving. The row of the source is the decision record:
-- once it says 'moved', the tenant lives elsewhere. The journal and the caches only follow.
create table if not exists {schema}.eventsource_fences (
    fence_id         integer generated always as identity primary key,
    table_name       text not null,
    tenant_id        uuid not null,
    role             text not null check (role in ('source', 'target')),
    state            text not null check (state in ('open', 'closed', 'moved')),
    generation       bigint not null,
    migration_id     uuid not null,
    store_id         text not null,
    moved_to         text,
    source_head      bigint,
    position_offset  bigint not null default 0,
    -- How long a writer waits for a cutover, in milliseconds.
    patience_ms      integer not null,
    updated_at       timestamptz not null default now(),
    unique (table_name, tenant_id)
);

-- Committing a row here flushes the write-ahead log past every transaction that a snapshot taken
-- earlier calls finished. Without it a source crash can hand such a transaction id to a new event.
create table if not exists {schema}.eventsource_barrier (
    migration_id  uuid primary key,
    passed_at     timestamptz not null default now()
);

-- What the target holds, committed in the same transaction as the rows it describes.
create table if not exists {schema}.eventsource_copy_progress (
    migration_id         uuid primary key,
    tenant_id            uuid not null,
    table_name           text not null,
    owner                uuid not null,
    position_offset      bigint not null,
    last_target_position bigint not null,
    source_system        text not null,
    pass_number          integer not null default 0,
    previous_snapshot    text,
    snapshot             text,
    staged               boolean not null default false,
    last_transaction_id  xid8,
    last_position        bigint not null default 0,
    pass_rows            bigint not null default 0,
    pass_bytes           bigint not null default 0,
    pass_inserted        bigint not null default 0,
    pass_digest          bytea not null default '\x00000000000000000000000000000000',
    rows_copied          bigint not null default 0,
    proven_snapshot      text,
    proven_rows          bigint not null default 0,
    proven_position      bigint not null default 0,
    sealed_snapshot      text,
    sealed_position      bigint,
    sealed_xid           xid8,
    deferred_indexes     jsonb,
    updated_at           timestamptz not null default now()
);

-- The chunks of the first pass, committed with their rows: those up to `proven_position` have been
-- read back and are what the source sent. A range begins where the one before it ends.
create table if not exists {schema}.eventsource_copied_ranges (
    migration_id   uuid not null,
    upto_position  bigint not null,
    rows           bigint not null,
    digest         bytea not null,
    primary key (migration_id, upto_position)
);

-- The guard: lets a writer pass, wait or fail. Lock and check are two statements of a volatile
-- function, so that the check takes a snapshot after the wait; under a frozen snapshot FOR SHARE makes
-- the server raise 40001 instead of letting the writer trust an old row. The lock timeout of the
-- argument holds inside only.
create or replace function {schema}.eventsource_guard_check(
    guarded integer, patience text, operation text
) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, {schema}, pg_temp
set lock_timeout = '10s'
as $guard$
declare
    fence record;
begin
    perform set_config('lock_timeout', patience, true);
    perform pg_advisory_xact_lock_shared(1163281235, guarded);
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        select * into fence from {schema}.eventsource_fences
            where fence_id = guarded for share;
        if not found then
            raise exception 'the tenant began to migrate after this transaction took its snapshot'
                using errcode = '40001', hint = 'Retry the transaction.';
        end if;
    else
        select * into fence from {schema}.eventsource_fences
            where fence_id = guarded;
        if not found then
            raise exception 'fence % is missing', guarded
                using errcode = 'EVF02', hint = 'Abort the migration of this tenant.';
        end if;
    end if;

    if fence.state = 'closed' then
        raise exception 'tenant % is not open on this store yet', fence.tenant_id
            using errcode = 'EVF03',
                  detail = json_build_object('migration_id', fence.migration_id,
                                             'generation', fence.generation)::text;
    end if;
    if operation = 'DELETE' and fence.state = 'moved' then
        -- The old rows are the way back until an operator says otherwise.
        if current_setting('eventsource.migration', true) = fence.migration_id::text then
            return;
        end if;
        raise exception 'the old rows of tenant %, which moved to store %, are guarded',
                        fence.tenant_id, fence.moved_to
            using errcode = 'EVF02',
                  hint = format('To delete them: set eventsource.migration = %L in the session.',
                                fence.migration_id);
    end if;
    if operation <> 'INSERT' and fence.role = 'source' and fence.state = 'open' then
        raise exception 'events of tenant % cannot be changed while it migrates', fence.tenant_id
            using errcode = 'EVF02',
                  hint = 'Events are immutable; to erase some, abort the migration or wait for its end.';
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

-- The guard of one tenant that is arriving. Its trigger's condition knows the tenant, and lets the
-- migrator pass.
create or replace function {schema}.eventsource_guard() returns trigger
language plpgsql
as $guard$
begin
    perform {schema}.eventsource_guard_check(tg_argv[0]::integer, tg_argv[1], tg_op);
    return coalesce(new, old);
end
$guard$;

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
set search_path = pg_catalog, {schema}, pg_temp
as $renew$
declare
    home     name;
    event    name;
    label    text;
    fences   jsonb;
    make     text;
    kind     text;
begin
    select n.nspname, c.relname into strict home, event
        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = events;
    execute format('lock table %I.%I in share row exclusive mode', home, event);
    label := case when octet_length(event) > 35 then md5(event) else event end;
    select jsonb_object_agg(f.tenant_id, jsonb_build_array(f.fence_id, f.patience_ms))
        into fences
        -- Waits for a fence that is being deleted: its session looks for these triggers afterwards.
        from (select * from {schema}.eventsource_fences
              where table_name = event and role = 'source' for key share) f;
    if fences is null then
        foreach kind in array array['write', 'change', 'truncate'] loop
            if exists (select from pg_trigger t where t.tgrelid = events
                       and t.tgname = 'zzz_eventsource_guard_' || kind) then
                execute format('drop trigger %I on %I.%I',
                               'zzz_eventsource_guard_' || kind, home, event);
                if kind <> 'truncate' then
                    execute format('drop function %I.%I()', home,
                                   format('eventsource_guard_%s_of_%s', kind, label));
                end if;
            end if;
        end loop;
        return;
    end if;

    make := $make$
        create or replace function %1$I.%2$I() returns trigger language plpgsql as $guard$
        declare
            fence jsonb;
        begin
            fence := %3$L::pg_catalog.jsonb
                operator(pg_catalog.->) (%4$s.tenant_id::pg_catalog.text);
            if fence is not null then
                perform %1$I.eventsource_guard_check(
                    (fence operator(pg_catalog.->>) 0)::pg_catalog.int4,
                    fence operator(pg_catalog.->>) 1, tg_op);
                %5$s
            end if;
            return %6$s;
        end
        $guard$
        $make$;
    -- A snapshot is compared with this column, so no writer chooses its value.
    execute format(make, home, 'eventsource_guard_write_of_' || label, fences, 'new',
                   'new.transaction_id := pg_catalog.pg_current_xact_id();', 'new');
    execute format(make, home, 'eventsource_guard_change_of_' || label, fences, 'old',
                   '', 'coalesce(new, old)');
    -- BEFORE triggers run in the order of their names: another one may still change the tenant.
    execute format('create or replace trigger zzz_eventsource_guard_write before insert or update'
                   ' on %1$I.%2$I for each row execute function %1$I.%3$I()',
                   home, event, 'eventsource_guard_write_of_' || label);
    execute format('create or replace trigger zzz_eventsource_guard_change before update or delete'
                   ' on %1$I.%2$I for each row execute function %1$I.%3$I()',
                   home, event, 'eventsource_guard_change_of_' || label);
    execute format('create or replace trigger zzz_eventsource_guard_truncate before truncate'
                   ' on %1$I.%2$I for each statement'
                   ' execute function %1$I.eventsource_guard_truncate()', home, event);
    -- Otherwise session_replication_role = replica walks past.
    foreach kind in array array['write', 'change', 'truncate'] loop
        execute format('alter table %I.%I enable always trigger %I',
                       home, event, 'zzz_eventsource_guard_' || kind);
    end loop;
end
$renew$;

-- A table that a tenant is leaving or entering cannot be emptied under the migration.
create or replace function {schema}.eventsource_guard_truncate() returns trigger
language plpgsql
set search_path = pg_catalog, {schema}, pg_temp
as $guard$
begin
    raise exception 'table % cannot be truncated while a tenant migrates', tg_table_name
        using errcode = 'EVF02', hint = 'Finish or abort the migration first.';
end
$guard$;

-- While a migration loads an empty table without its unique constraints, nobody else writes to it.
create or replace function {schema}.eventsource_guard_loading() returns trigger
language plpgsql
set search_path = pg_catalog, {schema}, pg_temp
as $guard$
begin
    raise exception 'table % is being loaded by a migration', tg_table_name
        using errcode = 'EVF03', hint = 'It takes writes again when the bulk copy is done.';
end
$guard$;

-- Opens an arriving tenant for applications, after the decision: the sequence first, so that no new
-- event gets a position that the migration carried. False when the migration has no fence here.
-- The sequence never goes back: a reader of the feed may already have taken its value for the head.
create or replace function {schema}.eventsource_open_target(
    target text, tenant uuid, migration uuid, new_generation bigint, last_carried bigint
) returns boolean
language plpgsql volatile
set search_path = pg_catalog, {schema}, pg_temp
as $open$
declare
    fence     {schema}.eventsource_fences;
    sequence  regclass;
begin
    select * into fence from {schema}.eventsource_fences f
        where f.table_name = target and f.tenant_id = tenant and f.migration_id = migration
          and f.role = 'target'
        for update;
    if not found then
        return false;
    end if;
    if fence.state = 'closed' then
        select pg_get_serial_sequence(format('%s.%I', c.relnamespace::regnamespace, target),
                                      'global_position')
            into sequence
            from {schema}.eventsource_fences f join pg_class c on c.oid = f.tableoid
            where f.fence_id = fence.fence_id;
        perform setval(sequence,
                       greatest(last_carried, coalesce(pg_sequence_last_value(sequence), 0), 1));
        update {schema}.eventsource_fences f
            set state = 'open', generation = new_generation, updated_at = now()
            where f.fence_id = fence.fence_id;
    end if;
    return true;
end
$open$;
