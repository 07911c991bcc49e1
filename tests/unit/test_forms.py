"""How a type's values are made up, and in what two types of one name differ."""

from __future__ import annotations

import pytest

from eventsource.catalog import forms, values
from eventsource.catalog.model import Type
from eventsource.dataplane import DataPlaneError, blanked


def plain(name: str) -> Type:
    return Type("pg_catalog", name, "b")


def own(name: str, kind: str, *parts: Type) -> Type:
    named = tuple((f"p{n}", part, -1) for n, part in enumerate(parts))
    return Type("public", name, kind, named, has_fixed_oid=False)


def array(element: Type) -> Type:
    parts = (("element", element, -1),)
    return Type(
        element.home, f"{element.name}[]", "array", parts, has_fixed_oid=element.has_fixed_oid
    )


TEXT, MOOD = plain("text"), own("mood", "e")
PAIR = own("pair", "c", plain("int4"), TEXT)
FELT = own("felt", "c", MOOD, TEXT, array(TEXT))


@pytest.mark.parametrize(
    ("type_", "form"),
    [
        (TEXT, "."),
        (MOOD, "."),
        (array(TEXT), "."),
        (PAIR, "."),
        (own("moods", "r", MOOD), "."),
        (own("short", "d", TEXT), "."),
        (array(MOOD), "[."),
        (array(own("short", "d", TEXT)), "[."),
        (array(PAIR), "[."),
        (FELT, "(...)"),
        (own("felts", "d", FELT), "(...)"),
        (own("felts", "d", array(own("felt_too", "d", FELT))), "[(...)"),
        (own("heard", "c", array(FELT), array(TEXT)), "([(...).)"),
        (own("spans", "r", array(MOOD)), "<[."),
        (own("many", "m", FELT), "{(...)"),
        (array(own("spans", "r", MOOD)), "[."),
        (own("nothing", "c"), "."),
    ],
)
def test_a_form_says_where_numbers_of_types_stand(type_: Type, form: str) -> None:
    assert forms.of_type(type_) == form


@pytest.mark.parametrize(
    ("here", "there", "made_of"),
    [
        (
            array(PAIR),
            array(own("pair", "c", plain("int8"), TEXT)),
            (["p0 int4", "p1 text"], ["p0 int8", "p1 text"]),
        ),
        (
            own("heard", "c", FELT, TEXT),
            own("heard", "c", own("felt", "c", MOOD), TEXT),
            (["p0 mood", "p1 text", "p2 text[]"], ["p0 mood"]),
        ),
    ],
)
def test_the_innermost_difference_is_named(
    here: Type, there: Type, made_of: tuple[list[str], list[str]]
) -> None:
    one, other = values.first_difference(here, there)
    assert (values.described(one), values.described(other)) == made_of


def test_without_forms_a_copy_is_the_same_object_and_with_them_it_has_to_be_one() -> None:
    copy = bytes(3)
    assert blanked(copy, ["a"], ()) is copy
    with pytest.raises(DataPlaneError, match="signature") as refused:
        blanked(copy, ["a"], ["[."])
    assert refused.value.kind == "protocol"
