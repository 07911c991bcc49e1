-- name: snapshot
-- One row with everything about table $1. The reader has set search_path to pg_catalog, so that every
-- name that is printed is qualified, whatever the role or the database has for a path.
with recursive subject as materialized (
    select c.*, n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = to_regclass($1::text)
),
attributes as materialized (
    select a.* from pg_attribute a join subject s on a.attrelid = s.oid
    where a.attnum > 0 and not a.attisdropped
),
-- Every type that a value of the table can hold, also inside of others.
reached (oid) as (
    select atttypid from attributes
    union
    select part.oid from reached r join pg_type y on y.oid = r.oid
    cross join lateral (
        select y.typbasetype as oid where y.typtype = 'd'
        union all
        select y.typelem where y.typsubscript = 'array_subscript_handler'::regproc
        union all
        select a.atttypid from pg_attribute a
        where y.typtype = 'c' and a.attrelid = y.typrelid and a.attnum > 0 and not a.attisdropped
        union all
        select g.rngsubtype from pg_range g where y.oid in (g.rngtypid, g.rngmultitypid)
    ) part
),
types as (
    select jsonb_agg(jsonb_build_object(
        'oid', y.oid::bigint, 'name', y.typname, 'kind', y.typtype,
        -- A type of an extension is the same wherever the extension was put.
        'home', coalesce((select 'extension ' || e.extname
                          from pg_depend d join pg_extension e on e.oid = d.refobjid
                          where d.classid = 'pg_type'::regclass and d.objid = y.oid
                            and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'),
                         n.nspname),
        'binary', y.typsend <> 0 and y.typreceive <> 0,
        -- Given by hand, so the same in every cluster and every version.
        'fixed', y.oid < 10000,
        'element', case when y.typsubscript = 'array_subscript_handler'::regproc
                        then y.typelem::bigint end,
        'base', case when y.typtype = 'd' then y.typbasetype::bigint end,
        'modifier', y.typtypmod, 'not_null', y.typnotnull,
        'subtype', (select g.rngsubtype::bigint from pg_range g
                    where y.oid in (g.rngtypid, g.rngmultitypid)),
        'labels', (select coalesce(jsonb_agg(e.enumlabel order by e.enumsortorder), '[]')
                   from pg_enum e where e.enumtypid = y.oid),
        'attributes', (select coalesce(jsonb_agg(jsonb_build_array(
                           a.attname, a.atttypid::bigint, a.atttypmod) order by a.attnum), '[]')
                       from pg_attribute a where y.typtype = 'c' and a.attrelid = y.typrelid
                         and a.attnum > 0 and not a.attisdropped),
        'checks', (select coalesce(jsonb_agg(pg_get_constraintdef(k.oid)
                                             order by pg_get_constraintdef(k.oid)), '[]')
                   from pg_constraint k where k.contypid = y.oid and k.contype = 'c')
    )) as found
    from pg_type y join pg_namespace n on n.oid = y.typnamespace
    where y.oid in (select oid from reached)
),
drawn as materialized (
    -- What a default or an identity draws from, no matter who owns it.
    select a.attnum, q.oid
    from attributes a
    join pg_attrdef f on f.adrelid = a.attrelid and f.adnum = a.attnum
    join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid
        and d.refclassid = 'pg_class'::regclass
    join pg_class q on q.oid = d.refobjid and q.relkind = 'S'
    union
    select a.attnum, q.oid
    from attributes a
    join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = a.attrelid
        and d.refobjsubid = a.attnum and d.classid = 'pg_class'::regclass and d.deptype in ('i', 'a')
    join pg_class q on q.oid = d.objid and q.relkind = 'S'
    where a.attidentity <> '' or not a.atthasdef
),
sequences as (
    select d.attnum, jsonb_agg(jsonb_build_object(
        'name', format('%I.%I', n.nspname, q.relname), 'type', format_type(s.seqtypid, null),
        'least', s.seqmin, 'most', s.seqmax, 'increment', s.seqincrement, 'cycle', s.seqcycle,
        'cache', s.seqcache, 'start', s.seqstart,
        'last', case when r.may_read then pg_sequence_last_value(q.oid) end,
        'may_read', r.may_read, 'may_set', has_sequence_privilege(q.oid, 'update'),
        'role', current_user)) as found
    from drawn d join pg_class q on q.oid = d.oid join pg_namespace n on n.oid = q.relnamespace
    cross join lateral (select has_sequence_privilege(q.oid, 'usage, select')) r (may_read)
    join pg_sequence s on s.seqrelid = q.oid
    group by d.attnum
),
columns as (
    select jsonb_agg(jsonb_build_object(
        'name', a.attname, 'type', a.atttypid::bigint, 'modifier', a.atttypmod,
        'shown', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
        'identity', a.attidentity, 'generated', a.attgenerated,
        'default', pg_get_expr(f.adbin, f.adrelid),
        'collation', case when a.attcollation <> y.typcollation
                          then format('%I.%I', n.nspname, c.collname) end,
        'sequences', coalesce(s.found, '[]')) order by a.attnum) as found
    from attributes a
    join pg_type y on y.oid = a.atttypid
    left join pg_attrdef f on f.adrelid = a.attrelid and f.adnum = a.attnum
    left join pg_collation c on c.oid = a.attcollation
    left join pg_namespace n on n.oid = c.collnamespace
    left join sequences s on s.attnum = a.attnum
),
triggers as (
    select jsonb_agg(jsonb_build_object(
        'name', t.tgname, 'bits', t.tgtype, 'enabled', t.tgenabled,
        'function', format('%I.%I', n.nspname, p.proname),
        'bare_function', p.proname, 'own_schema', p.pronamespace = s.relnamespace,
        'condition', coalesce(substring(pg_get_triggerdef(t.oid) from ' WHEN \((.*)\) EXECUTE '), ''),
        'returns_null', p.prosrc ~* '\mreturn\s+null\M',
        'writes_elsewhere', p.prosrc ~* '\m(insert\s+into|execute)\M') order by t.tgname collate "C") as found
    from pg_trigger t join subject s on t.tgrelid = s.oid
    join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
    where not t.tgisinternal
),
rules as (
    select jsonb_agg(jsonb_build_object(
        'name', r.rulename, 'event', r.ev_type, 'instead', r.is_instead,
        'enabled', r.ev_enabled) order by r.rulename) as found
    from pg_rewrite r join subject s on r.ev_class = s.oid
),
constraints as (
    select jsonb_agg(jsonb_build_object(
        'name', k.conname, 'type', k.contype, 'definition', pg_get_constraintdef(k.oid),
        'columns', array(select a.attname::text from unnest(k.conkey) with ordinality i (num, at)
                         join attributes a on a.attnum = i.num order by i.at),
        'references', k.confrelid::bigint, 'referenced', (
            select format('%I.%I', n.nspname, c.relname)
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.oid = k.confrelid),
        'referenced_columns', array(
            select a.attname::text from unnest(k.confkey) with ordinality i (num, at)
            join pg_attribute a on a.attrelid = k.confrelid and a.attnum = i.num order by i.at),
        -- PostgreSQL 18 knows constraints that are not enforced; a disabled trigger asks nothing.
        'enforced', coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
            and not exists (select from pg_trigger t where t.tgconstraint = k.oid
                            and t.tgrelid = k.conrelid and t.tgenabled in ('D', 'R')))
        order by k.conname) as found
    from pg_constraint k join subject s on k.conrelid = s.oid
    -- A foreign key to a partitioned table has another one to each of its partitions.
    where not exists (select from pg_constraint whole where whole.oid = k.conparentid
                      and whole.conrelid = k.conrelid)
),
uniques as (
    select jsonb_agg(jsonb_build_object(
        'name', format('%I.%I', n.nspname, c.relname), 'constraint', k.conname,
        'columns', array(select a.attname::text from unnest(i.indkey[:i.indnkeyatts - 1]) u (num)
                         join attributes a on a.attnum = u.num),
        'part', i.indpred is not null, 'made', i.indexprs is not null,
        'definition', substring(pg_get_indexdef(i.indexrelid) from ' USING (.*)'))
        order by c.relname) as found
    from pg_index i join subject s on i.indrelid = s.oid
    join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
    left join pg_constraint k on k.conindid = i.indexrelid and k.conrelid = s.oid
        and k.contype in ('u', 'p')
    where i.indisunique and i.indisready
),
kin as (
    select array_agg(format('%I.%I', n.nspname, c.relname) order by c.relname)
               filter (where h.inhparent = s.oid) as children,
           array_agg(format('%I.%I', n.nspname, c.relname) order by c.relname)
               filter (where h.inhrelid = s.oid) as parents
    from subject s join pg_inherits h on s.oid in (h.inhparent, h.inhrelid)
    join pg_class c on c.oid = case when h.inhparent = s.oid then h.inhrelid else h.inhparent end
    join pg_namespace n on n.oid = c.relnamespace
),
identified as materialized (
    -- What a published row that is deleted is known by; of all columns there is no row.
    select i.indkey::int2[] as columns from subject s join pg_index i on i.indrelid = s.oid
    where case s.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident end
),
publications as (
    select array_agg(p.pubname::text order by p.pubname) as found,
           coalesce(bool_or(b.pubdelete), false) as deletes,
           array_agg(p.pubname::text order by p.pubname)
               filter (where b.pubdelete and f.uncovered) as filtered,
           array_agg(p.pubname::text order by p.pubname)
               filter (where b.pubdelete and l.uncovered) as listed
    from subject s join pg_publication_tables p
        on p.schemaname = s.nspname and p.tablename = s.relname
    join pg_publication b on b.pubname = p.pubname
    -- Filters and lists came with PostgreSQL 15.
    left join pg_publication_rel r on r.prpubid = b.oid and r.prrelid = s.oid
    left join identified k on true
    cross join lateral (
        select bool_or(m[1]::int2 <> all (k.columns)) as uncovered
        from regexp_matches(to_jsonb(r) ->> 'prqual', ':varattno (\d+)', 'g') m
    ) f
    cross join lateral (
        select to_jsonb(r) ->> 'prattrs' is not null and (k.columns is null or exists (
            select from unnest(k.columns) c
            where not to_jsonb(r) -> 'prattrs' @> to_jsonb(c)
        )) as uncovered
    ) l
)
select jsonb_build_object(
    'oid', s.oid::bigint, 'schema', s.nspname, 'name', s.relname, 'kind', s.relkind,
    'persistence', s.relpersistence, 'partition', s.relispartition,
    'children', coalesce((select to_jsonb(children) from kin), '[]'),
    'parents', coalesce((select to_jsonb(parents) from kin), '[]'),
    'columns', coalesce((select found from columns), '[]'),
    'types', coalesce((select found from types), '[]'),
    'triggers', coalesce((select found from triggers), '[]'),
    'rules', coalesce((select found from rules), '[]'),
    'constraints', coalesce((select found from constraints), '[]'),
    'uniques', coalesce((select found from uniques), '[]'),
    'publications', coalesce((select to_jsonb(found) from publications), '[]'),
    'publishes_deletes', (select deletes from publications),
    'filtered_publications', coalesce((select to_jsonb(filtered) from publications), '[]'),
    'listed_publications', coalesce((select to_jsonb(listed) from publications), '[]'),
    'can_delete_published', case s.relreplident
        when 'f' then true when 'n' then false
        when 'i' then exists (select from pg_index i where i.indrelid = s.oid and i.indisreplident)
        else exists (select from pg_index i where i.indrelid = s.oid and i.indisprimary) end,
    'row_security', s.relrowsecurity, 'forced', s.relforcerowsecurity,
    'filtered', row_security_active(s.oid),
    'encoding', getdatabaseencoding(),
    'read_only', current_setting('default_transaction_read_only') = 'on',
    'standby', pg_is_in_recovery())::text as catalog
from subject s

-- name: companions
-- Tables beside an event table that hold something of a tenant, or that point to its events.
select format('%I.%I', n.nspname, c.relname) as name,
       exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'f'
               and k.confrelid = to_regclass($1::text)) as points_here
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition
  and c.oid is distinct from to_regclass($1::text)
  and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and c.relname !~ '^eventsource_' and c.relname <> all ($2::text[])
  and (exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id'
               and not a.attisdropped)
       or exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'f'
                  and k.confrelid = to_regclass($1::text)))
order by 1 limit 50
