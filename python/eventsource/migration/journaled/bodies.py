"""The bodies of the functions that the triggers of a layout's tables call."""

from __future__ import annotations

# Whether a change of the fence's tenant is to be written down, and there is room for its key. It
# waits, or fails, where the fence says so.
_WRITTEN_DOWN = """{schema}.eventsource_change_check(
            (eventsource_fence_ ->> 2)::integer, (eventsource_fence_ ->> 0)::integer,
            eventsource_fence_ ->> 1, tg_op)
           and {schema}.eventsource_change_fits(
            (eventsource_fence_ ->> 0)::integer, (eventsource_fence_ ->> 3)::bigint)"""

# The names of the variables are none that a column of somebody's table has: an expression of a
# layout is evaluated among them.
ROW_FUNCTION = """
#variable_conflict use_column
declare
    eventsource_before_ text;
    eventsource_after_ text;
    eventsource_fence_ jsonb;
begin
    if tg_op <> 'INSERT' then
        eventsource_before_ := {tenant_before};
        eventsource_fence_ := {fences}::jsonb -> eventsource_before_;
        if eventsource_fence_ is not null and @written_down@ then
            insert into {schema}.eventsource_changes (fence_id, table_no, key)
            values ((eventsource_fence_ ->> 0)::integer, {number}, {key_before});
        end if;
    end if;
    if tg_op <> 'DELETE' then
        eventsource_after_ := {tenant_after};
        eventsource_fence_ := {fences}::jsonb -> eventsource_after_;
        if eventsource_fence_ is not null
           and (tg_op = 'INSERT' or eventsource_before_ is distinct from eventsource_after_
                or {key_before} <> {key_after})
           and @written_down@ then
            insert into {schema}.eventsource_changes (fence_id, table_no, key)
            values ((eventsource_fence_ ->> 0)::integer, {number}, {key_after});
        end if;
    end if;
    return null;
end
""".replace("@written_down@", _WRITTEN_DOWN)

# Before a row goes that others refer to: what goes with it has to be written down, and its tenant
# is not known any more when it has gone.
CASCADE_FUNCTION = """
#variable_conflict use_column
declare
    eventsource_before_ text;
    eventsource_fence_ jsonb;
begin
    eventsource_before_ := {tenant};
    eventsource_fence_ := {fences}::jsonb -> eventsource_before_;
    if eventsource_fence_ is not null and @written_down@ then
        {children_before}
    end if;
    if tg_op = 'DELETE' then
        return old;
    end if;
    -- They come along with it, too.
    eventsource_before_ := {tenant_after};
    eventsource_fence_ := {fences}::jsonb -> eventsource_before_;
    if eventsource_fence_ is not null and @written_down@ then
        {children_after}
    end if;
    return new;
end
""".replace("@written_down@", _WRITTEN_DOWN)

ARRIVAL_FUNCTION = """
#variable_conflict use_column
declare
    eventsource_tenant_ text;
begin
    if tg_op <> 'INSERT' then
        eventsource_tenant_ := {old};
        if eventsource_tenant_ = {literal} then
            perform {schema}.eventsource_guard_check(
                {lock_id}, {fence_id}, '{patience}', tg_op);
        end if;
    end if;
    if tg_op <> 'DELETE' then
        eventsource_tenant_ := {new};
        if eventsource_tenant_ = {literal} then
            perform {schema}.eventsource_guard_check(
                {lock_id}, {fence_id}, '{patience}', tg_op);
        end if;
    end if;
    return null;
end
"""

# The trigger asks for the tenant's rows itself: leaves of others are emptied as they please.
TRUNCATE_FUNCTION = """
declare
    eventsource_there_ boolean;
begin
    if not ({applies}) then
        return null;
    end if;
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        -- An old snapshot does not show what was committed since.
        eventsource_there_ := true;
    else
        execute format({query}, tg_table_schema, tg_table_name) into eventsource_there_;
    end if;
    if eventsource_there_ then
        raise exception 'table %.% has rows of a tenant that migrates or has moved',
                        tg_table_schema, tg_table_name
            using errcode = 'EVF02', hint = 'Finish or abort the migration first.';
    end if;
    return null;
end
"""
