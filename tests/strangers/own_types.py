"""Arrays and composites of the application's own types, which each database numbers for itself.

Columns have defaults, so that what the application appends while it moves has such values, too: the
mirror carries those.
"""

from __future__ import annotations

from tests.strangers.stranger import Stranger

#: So the types that follow have other numbers at the target.
_BEFORE = "".join(f"create type nobodys_{n} as enum ();" for n in range(7))

_MOOD = "create type mood as enum ('glad', 'sad', 'so, so');"
_SHORT = "create domain short as text check (length(value) < 9);"
_FELT = _MOOD + "create type felt as (m mood, n int, note text);"

#: No value, none at all, one NULL, two dimensions, and a subscript that begins elsewhere.
_MOODS = (
    "(array[null, '{}', '{NULL,glad}', '{{glad,sad},{\"so, so\",NULL}}', '[3:4]={sad,glad}']"
    "::text[])[1 + g % 5]::mood[]"
)


def _own(
    name: str, both: str, values: dict[str, str], *, source: str = "", target: str = ""
) -> Stranger:
    return Stranger(name, both, source, target, values=values, before_target=_BEFORE)


OWN_TYPES = [
    _own("array of enum", _MOOD + "alter table {t} add column moods mood[] default '{glad,sad}'",
         {"moods": _MOODS}),
    _own("domain over array of enum", _MOOD + "create domain moods as mood[];"
         "alter table {t} add column moods moods default '{sad}'", {"moods": f"{_MOODS}::moods"}),
    _own("array of domain", _SHORT + "alter table {t} add column shorts short[] default '{a}'",
         {"shorts": "array['x', null, g::text]::short[]"}),
    _own("composite with enum", _FELT + "alter table {t} add column felt felt default"
         " '(glad,1,\"a, b\")'", {"felt": "case when g % 3 > 0 then row(case when g % 2 = 0 then"
                                  " 'sad'::mood end, g, 'x')::felt end"}),
    _own("composite that lost an attribute", _MOOD,
         {"felt": "row('glad', g)::felt"},
         source="create type felt as (gone mood[], m mood, also text, n int);"
         "alter type felt drop attribute gone, drop attribute also;"
         "alter table {t} add column felt felt default '(sad,1)'",
         target="create type felt as (m mood, n int);"
         "alter table {t} add column felt felt default '(sad,1)'"),
    _own("array of composite", "create type pair as (a int, b text);"
         "alter table {t} add column pairs pair[] default '{\"(1,x)\"}'",
         {"pairs": "array[row(g, 'x')::pair, null, row(null, '')::pair]"}),
    _own("array of composites of composites", _FELT + _SHORT
         + "create type heard as (all_of_it felt[], said short[], plain int[], at timestamptz);"
         "alter table {t} add column heard heard[] default array[row(array[row('glad', 1, 'x')"
         "::felt], '{a}', '{1}', null)::heard]",
         {"heard": "array[array[row(array[row('sad', g, null)::felt, null], '{a,b}', '{1,NULL}',"
                   " now())::heard], array[null::heard]]"}),
    _own("domain over composite with a domain", _SHORT + "create type said as (s short, n bigint);"
         "create domain claim as said check ((value).n > 0); alter table {t} add column claims"
         " claim[] default '{\"(a,1)\"}', add column claim claim default '(b,2)'",
         {"claims": "array[row('x', g)::said::claim]", "claim": "row('y', g)::said::claim"}),
    _own("range in a composite", _MOOD + "create type moods as range (subtype = mood);"
         "create type span as (m moods, many moods_multirange); alter table {t} add column span"
         " span default row(moods('glad', 'sad'), moods_multirange(moods('glad', 'sad')))",
         {"span": "row(moods('glad', null, '(]'), '{}')::span"}),
    _own("array of ranges of yours", _MOOD + "create type moods as range (subtype = mood);"
         "alter table {t} add column rs moods[] default '{\"[glad,sad)\"}',"
         " add column ms moods_multirange[] default '{\"{[glad,sad)}\"}'",
         {"rs": "array['empty', moods(null, 'sad'), null]",
          "ms": "array[moods_multirange(moods('glad', 'sad'), moods('so, so', null)), '{}']"}),
    _own("range over a composite", _FELT + "create type stretch as range (subtype = felt);"
         "alter table {t} add column stretch stretch default stretch(row('glad', 1, '')::felt,"
         " row('sad', 2, '')::felt), add column all_of_it stretch_multirange",
         {"stretch": "stretch(row('glad', g, 'x')::felt, null)",
          "all_of_it": "stretch_multirange(stretch(row('glad', 1, 'x')::felt, row('glad', 2, 'x')"
                       "::felt), stretch(row('sad', g, null)::felt, null))"}),
    _own("array of a type that came with the server", "alter table {t} add column names"
         " information_schema.sql_identifier[] default '{a}'",
         {"names": "array['b', null]::information_schema.sql_identifier[]"}),
    _own("array of enum generated on both sides", _MOOD + "alter table {t} add column m mood,"
         " add column ms mood[] generated always as (array[m, 'glad']) stored",
         {"m": "(array['glad', 'sad'])[1 + g % 2]::mood"}),
    _own("wide composite with enum", _FELT + "alter table {t} add column felt felt",
         {"felt": "row('sad', g, repeat('wide', 50000))::felt"}),
]  # fmt: skip
