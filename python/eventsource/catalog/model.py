"""A table as the catalog describes it: frozen values, without the OIDs that differ by database."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from eventsource.identifiers import qualified

#: Bits of a trigger's type, as the catalog keeps them.
_ROW, _BEFORE, _INSERT, _DELETE, _UPDATE, _TRUNCATE = 1, 2, 4, 8, 16, 32

_STEPS_ASIDE = re.compile(
    r"current_setting\('eventsource\.migration'::text, true\)"
    r"(?: IS NULL|, ''::text\) = ''::text)"
)
_TURNS = re.compile(r"\b(?:OR|NOT|CASE)\b")

_DEFERRABLE = re.compile(r" DEFERRABLE( INITIALLY DEFERRED)?( NOT VALID)?$")

#: Triggers that this package makes; their functions are in the table's own schema.
GUARD = "zzz_eventsource_guard_"
ANNOUNCEMENT = "eventsource_announce"


@dataclass(frozen=True, slots=True)
class Type:
    """A type with what it is made of; equal when a value means the same on both sides.

    ``home`` is its schema, or the extension that it belongs to. ``parts`` are the element of an
    array, the base of a domain, the subtype of a range or the attributes of a composite, each with
    its name and modifier.
    """

    home: str
    name: str
    kind: str
    parts: tuple[tuple[str, Type, int], ...] = ()
    labels: tuple[str, ...] = field(default=(), compare=False)
    checks: tuple[str, ...] = field(default=(), compare=False)
    not_null: bool = field(default=False, compare=False)
    has_binary_form: bool = field(default=True, compare=False)
    has_fixed_oid: bool = field(default=True, compare=False)

    @property
    def is_array(self) -> bool:
        """Its binary form names the type of its elements by OID."""
        return self.kind == "array"

    @property
    def is_composite(self) -> bool:
        """Its binary form names the types of its attributes by OID."""
        return self.kind == "c"

    @property
    def is_of_the_server(self) -> bool:
        return self.home == "pg_catalog"

    def within(self) -> tuple[Type, ...]:
        """The type itself and all that it is made of."""
        return (self, *(each for _, part, _ in self.parts for each in part.within()))


@dataclass(frozen=True, slots=True)
class Sequence:
    """A sequence that a column draws from; ``name`` is quoted.

    Attributes:
        last: the last number that it has given; None before the first, and where ``role``, which
            is the one that looks, may not read it.
    """

    name: str
    type: str
    least: int
    most: int
    increment: int
    cycle: bool
    cache: int
    start: int
    last: int | None
    may_read: bool
    may_set: bool
    role: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column. ``shown`` is its type as SQL text that any search path understands."""

    name: str
    type: Type
    modifier: int
    shown: str
    not_null: bool
    identity: str
    generated: str
    default: str | None
    collation: str | None
    sequences: tuple[Sequence, ...] = field(default=(), compare=False)

    @property
    def is_generated(self) -> bool:
        """Its values are made by an expression; ``default`` is that expression."""
        return self.generated != ""

    @property
    def fills_itself(self) -> bool:
        """A row without a value for it gets one."""
        return self.default is not None or self.identity != ""

    @property
    def described(self) -> str:
        """Type and collation, as SQL."""
        return self.shown + (f" collate {self.collation}" if self.collation else "")


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger; ``condition`` is that of its WHEN, as the server prints it."""

    name: str
    bits: int
    enabled: str
    function: str
    bare_function: str
    own_schema: bool
    condition: str
    returns_null: bool
    writes_elsewhere: bool

    @property
    def is_ours(self) -> bool:
        return (
            self.name.startswith((GUARD, ANNOUNCEMENT))
            and self.own_schema
            and self.bare_function.startswith("eventsource_")
        )

    @property
    def steps_aside(self) -> bool:
        """Its condition lets it fire only where ``eventsource.migration`` is not set.

        Mentioned in any other way, such as beside an OR, the setting says nothing.
        """
        return bool(_STEPS_ASIDE.search(self.condition)) and not _TURNS.search(self.condition)

    @property
    def fires(self) -> bool:
        """In an ordinary session, as that of a migration is."""
        return self.enabled in ("O", "A")

    @property
    def is_row(self) -> bool:
        return bool(self.bits & _ROW)

    @property
    def is_before(self) -> bool:
        return bool(self.bits & _BEFORE)

    @property
    def events(self) -> tuple[str, ...]:
        """What it fires on, in words of SQL."""
        names = {_INSERT: "insert", _UPDATE: "update", _DELETE: "delete", _TRUNCATE: "truncate"}
        return tuple(name for bit, name in names.items() if self.bits & bit)

    @property
    def runs_after_the_guard(self) -> bool:
        """BEFORE triggers run in the order of their names, byte by byte; the guard's is `write`."""
        return self.name.encode() > f"{GUARD}write".encode()


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewrite rule."""

    name: str
    event: str
    instead: bool
    enabled: str


@dataclass(frozen=True, slots=True)
class Constraint:
    """A constraint of the table; ``referenced`` (quoted) is where a foreign key points to."""

    name: str
    type: str
    definition: str
    columns: tuple[str, ...]
    references: int
    referenced: str | None
    referenced_columns: tuple[str, ...]
    enforced: bool

    @property
    def is_deferrable(self) -> bool:
        """It may be checked at the end of a transaction, and not when a row is written."""
        return bool(_DEFERRABLE.search(self.definition))

    @property
    def checked_at_once(self) -> str:
        """Its definition, as one that is checked when a row is written."""
        return _DEFERRABLE.sub("", self.definition)


@dataclass(frozen=True, slots=True)
class Unique:
    """A unique index; ``name`` is quoted, and ``definition`` what follows USING.

    Attributes:
        part: it knows some of the rows only.
        made: it is over expressions, too.
    """

    name: str
    constraint: str | None
    columns: tuple[str, ...]
    part: bool
    made: bool
    definition: str

    def follows_from(self, other: Unique) -> bool:
        """Rows that the other one lets be are no two of one key here either."""
        if self.definition == other.definition:
            return True
        nulls = "NULLS NOT DISTINCT"
        return (
            not other.part and not other.made and set(other.columns) <= set(self.columns)
            and (nulls not in self.definition or nulls in other.definition)
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableCatalog:
    """Everything about one table that a move depends on."""

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    partition: bool
    children: tuple[str, ...]
    parents: tuple[str, ...]
    columns: tuple[Column, ...]
    triggers: tuple[Trigger, ...]
    rules: tuple[Rule, ...]
    constraints: tuple[Constraint, ...]
    uniques: tuple[Unique, ...]
    publications: tuple[str, ...]
    #: Those that publish deletes, and whose row filter or column list leaves a part of the replica
    #: identity out: the server refuses every delete.
    filtered_publications: tuple[str, ...]
    listed_publications: tuple[str, ...]
    publishes_deletes: bool
    can_delete_published: bool
    row_security: bool
    forced: bool
    filtered: bool
    encoding: str
    read_only: bool
    standby: bool

    @property
    def sql(self) -> str:
        """The quoted, qualified name."""
        return qualified(self.schema, self.name)

    def column(self, name: str) -> Column | None:
        """The column of that name."""
        return next((each for each in self.columns if each.name == name), None)
