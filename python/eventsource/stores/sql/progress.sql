-- What a copy has done: the barrier at a source, progress and copied ranges at a target.
-- `{schema}` is replaced by the quoted schema name; nothing else is interpolated.

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
    columns              text[],
    shape                text,
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
