-- What a copy has done: its witnesses at a source, progress and copied ranges at a target.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

-- The barrier of each pass. Committing a row here flushes the write-ahead log past every transaction
-- that a snapshot taken earlier calls finished: without it a source crash can hand such a transaction
-- id to a new event. And the row is a witness: while the one that a progress row names is there, this
-- database has not gone back to before its pass. `xid` equals the row's own header for as long as the
-- rows are those of one history: a dump carries the column and not the header.
create table if not exists {schema}.eventsource_witnesses (
    migration_id  uuid not null,
    pass_number   integer not null,
    token         uuid not null,
    xid           xid8 not null,
    passed_at     timestamptz not null default now(),
    primary key (migration_id, pass_number, token)
);

-- The barrier of older versions, of which there may still be processes.
create table if not exists {schema}.eventsource_barrier (
    migration_id  uuid primary key,
    passed_at     timestamptz not null default now()
);

-- What the target holds, committed in the same transaction as the rows it describes.
create table if not exists {schema}.eventsource_copy_progress (
    migration_id         uuid primary key,
    tenant_id            text not null,
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
    columns              text[],
    shape                text,
    updated_at           timestamptz not null default now()
);

-- A table of an older version; looked at first, because to alter it waits for a copy, and the copy for it.
do $upgrade$
begin
    -- Ids of tenants were UUIDs only.
    if pg_typeof((null::{schema}.eventsource_copy_progress).tenant_id) = 'uuid'::regtype then
        alter table {schema}.eventsource_copy_progress alter column tenant_id type text;
    end if;
end
$upgrade$;
do $upgrade$
begin
    perform witness_token from {schema}.eventsource_copy_progress limit 0;
exception when undefined_column then
    -- The barrier that the stored pass has passed: see eventsource_witnesses.
    alter table {schema}.eventsource_copy_progress
        add column witness_pass    integer,
        add column witness_token   uuid,
        -- When the source's server was started, as of the last look at what it may have lost.
        add column source_started  timestamptz;
end
$upgrade$;

-- What a layout's tables need besides: see eventsource.migration.journaled.
do $upgrade$
begin
    perform carriage from {schema}.eventsource_copy_progress limit 0;
exception when undefined_column then
    alter table {schema}.eventsource_copy_progress add column carriage jsonb;
end
$upgrade$;

-- Events that a source had lost and an aborted migration still held: nothing here deletes them.
create table if not exists {schema}.eventsource_rescued_events (
    event_id      uuid primary key,
    migration_id  uuid not null,
    tenant_id     uuid not null,
    event         jsonb not null,
    rescued_at    timestamptz not null default now()
);

-- The same of another library's tables. Numbers in `key` are those of the source, in `row` those of
-- the target. `digest` is of the row as text.
create table if not exists {schema}.eventsource_rescued_rows (
    migration_id  uuid not null,
    tenant_id     text not null,
    table_name    text not null,
    key           jsonb not null,
    digest        text not null,
    row           jsonb not null,
    rescued_at    timestamptz not null default now(),
    primary key (migration_id, table_name, digest)
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
