-- The fence rows beside an event table, and the opening of a target.
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
    -- The table itself, by which a fence is recognised when the table has got another name.
    table_oid        oid,
    unique (table_name, tenant_id)
);

-- Opens an arriving tenant for applications, after the decision: the sequence first, so that no new
-- event gets a position that the migration carried. False when the migration has no fence here.
-- The sequence never goes back: a reader of the feed may already have taken its value for the head.
create or replace function {schema}.eventsource_open_target(
    target text, tenant uuid, migration uuid, new_generation bigint, last_carried bigint
) returns boolean
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
