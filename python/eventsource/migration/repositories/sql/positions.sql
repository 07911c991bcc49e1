-- name: first
select source_position, target_position, event_id
from migration_position_mappings
where migration_id = $1
order by source_position
limit 1

-- name: last
select source_position, target_position, event_id
from migration_position_mappings
where migration_id = $1
order by source_position desc
limit 1

-- name: next_after
select source_position, target_position, event_id
from migration_position_mappings
where migration_id = $1 and source_position > $2
order by source_position
limit 1

-- name: lowest_target_after
-- Not the target of the next row: a mapping that was not carried may cross itself.
select min(target_position)
from migration_position_mappings
where migration_id = $1 and source_position > $2

-- name: highest_target
select max(target_position)
from migration_position_mappings
where migration_id = $1

-- name: count
select count(*)
from migration_position_mappings
where migration_id = $1 and source_position > $2 and source_position <= $3
  and target_position > $4

-- name: through_returns
-- A return maps what was appended since the move; what is older is mapped by the move, the other way
-- round, and so on. One event may be mapped by two of them, equally.
with recursive chain as (
    select id, returns, false as inverted from tenant_migrations where id = $1
    union all
    select m.id, m.returns, not c.inverted
    from tenant_migrations m join chain c on m.id = c.returns
), mapped as (
    select distinct
           case when c.inverted then p.target_position else p.source_position end
               as source_position,
           case when c.inverted then p.source_position else p.target_position end
               as target_position, p.event_id
    from chain c join migration_position_mappings p on p.migration_id = c.id
)

-- name: lowest_target_after_through_returns
select min(target_position) from mapped where source_position > $2

-- name: highest_target_through_returns
select max(target_position) from mapped

-- name: count_through_returns
select count(*) from mapped
where source_position > $2 and source_position <= $3 and target_position > $4

-- name: delete_page
-- A range by position, so that no page looks again at what the one before it removed.
with edge as (
    select max(source_position) as position
    from (
        select source_position
        from migration_position_mappings
        where migration_id = $1 and source_position > $2
        order by source_position
        limit $3
    ) as page
), removed as (
    delete from migration_position_mappings
    where migration_id = $1 and source_position > $2
      and source_position <= (select position from edge)
    returning 1
)
select (select position from edge) as position, (select count(*) from removed) as rows

-- name: add
insert into migration_position_mappings (migration_id, source_position, target_position, event_id)
select $1, m.source, m.target, m.event
from unnest($2::bigint[], $3::bigint[], $4::uuid[]) as m(source, target, event)
on conflict do nothing

-- name: remove_events
delete from migration_position_mappings
where migration_id = $1 and target_position = any ($2::bigint[])

-- name: sources_of
select event_id, max(source_position) as position
from migration_position_mappings
where migration_id = any ($1::uuid[]) and event_id = any ($2::uuid[])
group by event_id
