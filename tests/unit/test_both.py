"""Two things at the same time: nothing is left under way, and the first one's error comes first."""

from __future__ import annotations

import asyncio

import pytest

from eventsource.connections import both


async def _after(ended: list[str], name: str, seconds: float, *, fails: bool = False) -> str:
    await asyncio.sleep(seconds)
    ended.append(name)
    if fails:
        raise ValueError(name)
    return name


async def test_they_run_at_the_same_time_and_answer_in_their_order() -> None:
    ended: list[str] = []
    assert await both(_after(ended, "a", 0.1), _after(ended, "b", 0)) == ("a", "b")
    assert ended == ["b", "a"]


@pytest.mark.parametrize(
    ("fails", "said"), [((True, False), "a"), ((False, True), "b"), ((True, True), "a")]
)
async def test_an_error_is_raised_once_both_have_ended(fails: tuple[bool, bool], said: str) -> None:
    ended: list[str] = []
    one = _after(ended, "a", 0.1, fails=fails[0])
    with pytest.raises(ValueError, match=said):
        await both(one, _after(ended, "b", 0, fails=fails[1]))
    assert ended == ["b", "a"]
