-- The fence rows beside an event table, and the opening of a target.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

-- One row per tenant, migration and side: no migration writes over the row of another one, so that
-- what an earlier stay has left behind speaks again when a later migration is aborted. The row of the
-- source is the decision record: once it says 'moved', the tenant lives elsewhere. The journal and the
-- caches only follow. Of a tenant's rows the one of the highest generation is in force; at one generation
-- closed comes before moved, that before open, and who leaves before who has arrived.
create table if not exists {schema}.eventsource_fences (
    fence_id         integer generated always as identity primary key,
    table_name       text not null,
    tenant_id        text not null,
    role             text not null check (role in ('source', 'target')),
    state            text not null check (state in ('open', 'closed', 'aborting', 'moved', 'standby',
                                                    'retired')),
    generation       bigint not null,
    migration_id     uuid not null,
    store_id         text not null,
    moved_to         text,
    source_head      bigint,
    position_offset  bigint not null default 0,
    -- How long a writer waits for a cutover, in milliseconds.
    patience_ms      integer not null,
    updated_at       timestamptz not null default now(),
    -- The table itself, by which a fence is recognised when the table has got another name.
    table_oid        oid,
    -- Second key of the advisory lock, which all rows of a tenant in a table share.
    lock_id          integer not null,
    -- Whether routers may mirror to this target.
    mirrored         boolean not null default true,
    -- Which place the other store of the migration is.
    peer             jsonb,
    -- By table: the last number of the source that the target keeps a place for.
    bounds           jsonb,
    constraint eventsource_fences_of_migrations unique (table_name, tenant_id, migration_id, role)
);

-- A table of an older version is looked at first: to alter it holds up every append of a tenant that
-- moves.
do $upgrade$
begin
    -- Ids of tenants were UUIDs only.
    if pg_typeof((null::{schema}.eventsource_fences).tenant_id) = 'uuid'::regtype then
        alter table {schema}.eventsource_fences alter column tenant_id type text;
    end if;
end
$upgrade$;
do $upgrade$
begin
    perform decided_total from {schema}.eventsource_fences limit 0;
exception when undefined_column then
    -- What the target must hold of a tenant that was decided on: see eventsource_open_target.
    alter table {schema}.eventsource_fences
        add column decided_pass    integer,
        add column decided_token   uuid,
        add column decided_rows    bigint,
        add column decided_digest  bytea,
        add column decided_total   bigint,
        drop constraint if exists eventsource_fences_state_check,
        add constraint eventsource_fences_state_check
            check (state in ('open', 'closed', 'aborting', 'moved', 'standby', 'retired'));
end
$upgrade$;

-- The same for the time when a tenant had one row in a table, whatever it had done there before.
do $upgrade$
begin
    perform lock_id from {schema}.eventsource_fences limit 0;
exception when undefined_column then
    alter table {schema}.eventsource_fences
        add column lock_id   integer,
        add column mirrored  boolean not null default true,
        add column peer      jsonb,
        drop constraint if exists eventsource_fences_table_name_tenant_id_key;
    update {schema}.eventsource_fences set lock_id = fence_id;
    -- A tenant that is coming back had left before. Its migration of that time was not kept.
    insert into {schema}.eventsource_fences (table_name, tenant_id, role, state, generation,
            migration_id, store_id, moved_to, patience_ms, table_oid, lock_id)
        select table_name, tenant_id, 'source', 'moved', greatest(generation, 0), gen_random_uuid(),
               store_id, moved_to, patience_ms, table_oid, lock_id
        from {schema}.eventsource_fences
        where role = 'target' and state in ('closed', 'aborting') and moved_to is not null;
    update {schema}.eventsource_fences
        -- Below all others stood a fence whose mirrors were to stop.
        set moved_to = null, generation = greatest(generation, 0), mirrored = generation >= 0
        where role = 'target';
    alter table {schema}.eventsource_fences
        alter column lock_id set not null,
        add constraint eventsource_fences_of_migrations
            unique (table_name, tenant_id, migration_id, role);
end
$upgrade$;

do $upgrade$
begin
    perform cleaned_at from {schema}.eventsource_fences limit 0;
exception when undefined_column then
    -- And the states of a way back.
    alter table {schema}.eventsource_fences
        add column cleaned_at timestamptz,
        drop constraint if exists eventsource_fences_state_check,
        add constraint eventsource_fences_state_check
            check (state in ('open', 'closed', 'aborting', 'moved', 'standby', 'retired'));
end
$upgrade$;

do $upgrade$
begin
    perform bounds from {schema}.eventsource_fences limit 0;
exception when undefined_column then
    alter table {schema}.eventsource_fences add column bounds jsonb;
end
$upgrade$;

-- Two departures cannot both decide.
create unique index if not exists eventsource_fences_departing
    on {schema}.eventsource_fences (table_name, tenant_id) where role = 'source' and state = 'open';
create index if not exists eventsource_fences_by_lock on {schema}.eventsource_fences (lock_id);

-- A random number that no application may read, by which a transaction knows its own pass: see
-- eventsource_guard_pass.
create sequence if not exists {schema}.eventsource_fence_secret;
revoke all on sequence {schema}.eventsource_fence_secret from public;
select setval($name${schema}.eventsource_fence_secret$name$::regclass,
              1 + ('x' || left(replace(gen_random_uuid()::text, '-', ''), 15))::bit(60)::bigint)
    where pg_sequence_last_value($name${schema}.eventsource_fence_secret$name$::regclass) is null;
do $own$
declare
    -- Of the functions, which read it with the rights of their owner.
    keeper name := (select pg_get_userbyid(relowner) from pg_class
                    where oid = $name${schema}.eventsource_fences$name$::regclass);
begin
    if keeper <> (select pg_get_userbyid(relowner) from pg_class
                  where oid = $name${schema}.eventsource_fence_secret$name$::regclass) then
        execute $alter$alter sequence {schema}.eventsource_fence_secret owner to $alter$
                || quote_ident(keeper);
    end if;
exception when insufficient_privilege then
    null;
end
$own$;

-- The fences that the guard of a table obeys, each with its lock and how long a writer waits, by the
-- tenants that are leaving it or have left it. One of generation -1 is asleep: it is the guard of a way
-- back that stands before its tenant has arrived, and is woken with the opening.
create or replace function {schema}.eventsource_guarded(event name) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $guarded$
    select jsonb_object_agg(f.tenant_id, jsonb_build_array(f.fence_id, f.patience_ms, f.lock_id))
    from (select distinct on (tenant_id) * from {schema}.eventsource_fences
          where table_name = event
          order by tenant_id, (generation = -1 and role = 'source') desc, generation desc,
                   case state when 'open' then 2 when 'moved' then 1 else 0 end, role) f
    -- One that stands by and is asleep stops nobody where no other fence is in force: the move that
    -- it belongs to was aborted, and the tenant lives here.
    where f.role = 'source' or f.state = 'standby' and f.generation <> -1
$guarded$;

-- Opens an arriving tenant for applications, after the decision, and returns the state of its fence
-- then ('missing' without one). Only a closed target is opened, or one that stood by, and only if the
-- progress row says in the same statement what the decision names: otherwise this database was restored
-- or failed over since, and a driver carries again what is missing. The sequence moves before anybody
-- sees the open fence, so that no new event gets a position that the migration carried. It moves only if
-- it has to: to set it to what it is would take back what others draw meanwhile.
drop function if exists {schema}.eventsource_open_target(text, uuid, uuid, bigint, bigint, integer,
                                                         uuid, bigint, bytea, bigint);
create or replace function {schema}.eventsource_open_target(
    target text, tenant text, migration uuid, new_generation bigint, last_carried bigint,
    pass integer, token uuid, carried bigint, digest bytea, total bigint
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
set row_security = off
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
        return 'missing';
    end if;
    update {schema}.eventsource_fences f
        set state = 'open', generation = new_generation, updated_at = now()
        where f.fence_id = fence.fence_id and f.state in ('closed', 'standby')
          and exists (select from {schema}.eventsource_copy_progress p
                      where p.migration_id = migration and p.pass_number = pass
                        and p.witness_pass = pass and p.witness_token = token
                        and p.pass_rows = carried and p.pass_digest = digest
                        and p.proven_rows + p.pass_rows = total);
    if not found then
        return fence.state;
    end if;
    -- Its way back is armed: from the first append on the tenant is guarded as one that may leave.
    update {schema}.eventsource_fences f set generation = new_generation, updated_at = now()
        where f.lock_id = fence.lock_id and f.role = 'source' and f.state = 'open'
          and f.generation = -1;
    -- A layout's numbers were reserved before, and may be those of another column.
    select pg_get_serial_sequence(format('%s.%I', c.relnamespace::regnamespace, target), a.attname)
        into sequence
        from {schema}.eventsource_fences f join pg_class c on c.oid = f.tableoid
        join pg_class e on e.relname = target and e.relnamespace = c.relnamespace
        join pg_attribute a on a.attrelid = e.oid and a.attname = 'global_position'
                           and not a.attisdropped
        where f.fence_id = fence.fence_id;
    if sequence is not null and coalesce(pg_sequence_last_value(sequence), 0) < last_carried then
        perform setval(sequence, last_carried);
    end if;
    return 'open';
end
$open$;

-- What processes of older versions call. They do not say what the target must hold, so they wait for
-- one that does.
create or replace function {schema}.eventsource_open_target(
    target text, tenant uuid, migration uuid, new_generation bigint, last_carried bigint
) returns boolean
language plpgsql volatile
set search_path = pg_catalog, {schema}, pg_temp
as $open$
begin
    raise exception 'this version does not say what the target must hold to be opened'
        using errcode = '42501',
              hint = 'Let a process of the version that made these functions finish the move.';
end
$open$;
