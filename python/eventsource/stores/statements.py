"""The statements of a store, one function each. ``table`` is quoted SQL text.

jsonb goes in and comes out as text, so codecs that an application set on its pool do not matter.
"""

from __future__ import annotations

ROW_COLUMNS = (
    'event_id, event_type, aggregate_id, aggregate_type, tenant_id, version, "timestamp", '
    "actor_id, payload::text as payload, metadata::text as metadata, global_position, created_at"
)


def append(table: str) -> str:
    """Insert all rows of an append if the stream is where the caller expects it.

    $1 aggregate id, $2 aggregate type, $3 tenant, $4 expected version, $5–$10 arrays with one
    element per event. One row: version and position of the last event, null when an expectation
    failed; whether the stream belongs to another tenant, and to which. Positions are drawn in the
    order of the events.
    """
    return f"""
        with last as materialized (
            select version::bigint as version, tenant_id
            from {table} where aggregate_id = $1::uuid and aggregate_type = $2::text
            order by version desc limit 1
        ), found as materialized (
            select coalesce(max(version), 0) as version,
                   coalesce(bool_or(tenant_id is distinct from $3::uuid), false) as of_another
            from last
        ), added as (
            insert into {table} (event_id, aggregate_id, aggregate_type, event_type, tenant_id,
                                 version, "timestamp", actor_id, payload, metadata)
            select e.event_id, $1, $2, e.event_type, $3::uuid, f.version + e.ordinal,
                   e.happened, e.actor_id, e.payload::jsonb, e.metadata::jsonb
            from found f,
                 unnest($5::uuid[], $6::text[], $7::timestamptz[], $8::text[], $9::text[],
                        $10::text[]) with ordinality
                     as e(event_id, event_type, happened, actor_id, payload, metadata, ordinal)
            where case $4::bigint when -1 then true when -2 then f.version > 0
                                  else f.version = $4::bigint end
              and not f.of_another
            order by e.ordinal
            returning version, global_position
        )
        select max(version) as version, max(global_position) as position,
               (select of_another from found) as of_another, (select tenant_id from last) as tenant
        from added
    """


def stored_ids(table: str) -> str:
    """Which events are stored already, and whether they are the same.

    $1–$3 arrays of ids, types and payloads, $4 aggregate id, $5 aggregate type, $6 tenant. Rows in
    the order of the events, only for ids that are stored.
    """
    return f"""
        select e.ordinal, t.event_id, t.version, t.global_position,
               t.aggregate_id = $4::uuid and t.aggregate_type = $5::text as same_stream,
               t.tenant_id is not distinct from $6::uuid as same_tenant,
               t.event_type = e.event_type as same_type,
               t.payload = e.payload::jsonb as same_payload
        from unnest($1::uuid[], $2::text[], $3::text[]) with ordinality
                 as e(event_id, event_type, payload, ordinal)
        join {table} t on t.event_id = e.event_id
        order by e.ordinal
    """


def typed_stream_rows(table: str) -> str:
    """The next $4 rows of stream $1, $2 after version $3; $5 a tenant, or null for every tenant."""
    return f"""
        select {ROW_COLUMNS} from {table}
        where aggregate_id = $1::uuid and aggregate_type = $2::text and version > $3::bigint
          and ($5::uuid is null or tenant_id = $5::uuid)
        order by version
        limit $4::bigint
    """


def untyped_stream_rows(table: str) -> str:
    """The first rows of every stream of aggregate $1, to find out its type; otherwise as above."""
    return f"""
        select {ROW_COLUMNS} from {table}
        where aggregate_id = $1::uuid and version > $2::bigint
          and ($4::uuid is null or tenant_id = $4::uuid)
        order by version, aggregate_type
        limit $3::bigint
    """


def stream_versions(table: str) -> str:
    """Type and version of the streams of aggregate $1; $2 a type and $3 a tenant, or null."""
    return f"""
        select aggregate_type, max(version) as version from {table}
        where aggregate_id = $1::uuid and ($2::text is null or aggregate_type = $2::text)
          and ($3::uuid is null or tenant_id = $3::uuid)
        group by aggregate_type
        order by aggregate_type
    """


def stream_version(table: str) -> str:
    """The version of stream $1, $2, which the index answers at once."""
    return f"""
        select coalesce(max(version), 0)::bigint from {table}
        where aggregate_id = $1::uuid and aggregate_type = $2::text
    """


def feed_rows(table: str) -> str:
    """The next $3 rows of the feed with $1 < position <= $2."""
    return f"""
        select {ROW_COLUMNS} from {table}
        where global_position > $1::bigint and global_position <= $2::bigint
        order by global_position
        limit $3::bigint
    """


def feed_rows_without(table: str) -> str:
    """The same without the events of tenants $4 above positions $5 (two arrays)."""
    return f"""
        select {ROW_COLUMNS} from {table} e
        where global_position > $1::bigint and global_position <= $2::bigint
          and {_not_hidden("$4", "$5")}
        order by global_position
        limit $3::bigint
    """


def tenant_feed_rows(table: str) -> str:
    """The same, only with the events of tenant $4."""
    return f"""
        select {ROW_COLUMNS} from {table}
        where tenant_id = $4::uuid and global_position > $1::bigint
          and global_position <= $2::bigint
        order by global_position
        limit $3::bigint
    """


def selected_rows(table: str, *, backwards: bool) -> str:
    """Rows with $1 < position <= $2, at most $3, from either end.

    $4 a tenant or null, $5 event types or null, $6 and $7 the times between which it happened or
    null, $8 and $9 tenants that are left out, and above which position.
    """
    return f"""
        select {ROW_COLUMNS} from {table} e
        where global_position > $1::bigint and global_position <= $2::bigint
          and ($4::uuid is null or tenant_id = $4::uuid)
          and ($5::text[] is null or event_type = any ($5::text[]))
          and ($6::timestamptz is null or "timestamp" >= $6::timestamptz)
          and ($7::timestamptz is null or "timestamp" < $7::timestamptz)
          and {_not_hidden("$8", "$9")}
        order by global_position {"desc" if backwards else ""}
        limit $3::bigint
    """


def _not_hidden(tenants: str, above: str) -> str:
    return (
        f"not exists (select from unnest({tenants}::uuid[], {above}::bigint[]) as h(tenant, above)"
        " where h.tenant = e.tenant_id and e.global_position > h.above)"
    )


def last_position(table: str) -> str:
    """The highest stored position up to $1, 0 when there is none."""
    return f"""
        select coalesce(max(global_position), 0)::bigint from {table}
        where global_position <= $1::bigint
    """


def last_position_without(table: str) -> str:
    """The same without the events of tenants $2 above positions $3 (two arrays)."""
    return f"""
        select coalesce(max(global_position), 0)::bigint from {table} e
        where global_position <= $1::bigint and {_not_hidden("$2", "$3")}
    """


def event_exists(table: str) -> str:
    """Whether event $1 is stored; $2 a tenant, or null for every tenant."""
    return f"""
        select exists (select from {table}
                       where event_id = $1::uuid and ($2::uuid is null or tenant_id = $2::uuid))
    """


def key_columns(table: str) -> str:
    """The columns of index $1 of the table, in order."""
    literal = table.replace("'", "''")
    return f"""
        select a.attname::text
        from pg_index i
        join pg_class c on c.oid = i.indexrelid and c.relname = $1::text
        cross join unnest(i.indkey::int2[]) with ordinality k(attnum, ordinal)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indrelid = to_regclass('{literal}')
        order by k.ordinal
    """
