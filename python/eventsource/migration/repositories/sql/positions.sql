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
