"""Ids of tenants: UUIDs come back as UUIDs, every other text as it was given."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsource.tenant_ids import LONGEST, as_uuid, checked, restored, stored

HOSTILE = ["o'brien", 'a"b', "back\\slash", "$guard$", "%1$I", "two\nlines", "*DEFAULT*", "тенант"]


@given(st.uuids())
def test_a_uuid_comes_back_as_a_uuid(tenant: UUID) -> None:
    assert restored(stored(tenant)) == tenant
    assert isinstance(restored(stored(tenant)), UUID)


@given(st.text(min_size=1, max_size=60).filter(lambda text: "\x00" not in text))
def test_whatever_an_id_is_its_text_stays_the_same(text: str) -> None:
    assert stored(restored(text)) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_comes_back_as_it_was_given(text: str) -> None:
    assert restored(stored(checked(text))) == text


@pytest.mark.parametrize(
    "spelling", [str.upper, lambda text: text.replace("-", ""), lambda text: f"{{{text}}}"]
)
def test_another_spelling_of_a_uuid_is_another_text_where_ids_are_texts(spelling: object) -> None:
    text = spelling(str(UUID("abcdefab-0000-4000-8000-00000000000a")))  # type: ignore[operator]
    assert checked(text) == text
    assert as_uuid(text) == UUID("abcdefab-0000-4000-8000-00000000000a")


def test_what_is_no_uuid_is_refused_where_ids_are_uuids() -> None:
    assert as_uuid(tenant := uuid4()) is tenant
    with pytest.raises(ValueError, match=r"'acme' is no UUID.*such as"):
        as_uuid("acme")


@pytest.mark.parametrize("text", ["", "a\x00b", "x" * (LONGEST + 1), "é" * (LONGEST // 2 + 1)])
def test_an_id_that_no_table_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a tenant id"):
        checked(text)
