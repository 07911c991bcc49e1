"""Floors travel as 32 bits; the head tells which position they meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsource.stores.feed import unwrap_floor


@given(head=st.integers(0, 2**62), behind=st.integers(0, 2**32 - 2**28))
def test_a_floor_behind_the_head_is_found_again(head: int, behind: int) -> None:
    floor = max(head - behind, 0)
    assert unwrap_floor(floor % 2**32, head) == floor


@given(head=st.integers(0, 2**62), ahead=st.integers(0, 2**28 - 1))
def test_a_floor_announced_after_the_head_was_read_is_found_again(head: int, ahead: int) -> None:
    assert unwrap_floor((head + ahead) % 2**32, head) == head + ahead


@pytest.mark.parametrize(("low", "head", "floor"), [(0, 0, 0), (2**32 - 1, 2**32, 2**32 - 1)])
def test_floors_at_the_wrap(low: int, head: int, floor: int) -> None:
    assert unwrap_floor(low, head) == floor
