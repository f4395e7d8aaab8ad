"""A failed assertion is told with the names of what it is about."""

from __future__ import annotations

import pytest

from harness.oracles.sentences import tell
from mmu.host.frames import NOBODY
from mmu.machine import conditions as on
from mmu.machine.events import CMPXCHG
from mmu.machine.lock import HELD_MMU_READ, HELD_PAGES, HELD_RCU


@pytest.mark.parametrize("condition", on.CONDITIONS)
def test_every_condition_has_a_sentence(condition: int) -> None:
    oracle, said = tell(condition, 1, 2, 3)
    assert (oracle, "{" in said) == (on.CONDITIONS[condition][0], False)


@pytest.mark.parametrize(
    ("condition", "values", "said"),
    [
        (on.FRAME_MARKED, (4, 5, 6), "it belongs to host page 0x6"),
        (on.FRAME_MARKED, (4, 5, NOBODY), "it belongs to nobody"),
        (on.LIFETIME_FREED, (7, CMPXCHG, 9), "a step (cmpxchg) touched word 7 of table page 9"),
        (on.LOCK_ORDER, (HELD_PAGES, 0, 0), "tdp_mmu_pages_lock was taken while nothing was held"),
        (
            on.LOCK_SLEEP,
            (0, HELD_MMU_READ | HELD_RCU, 0),
            "ran while mmu_lock (read), RCU read section was held",
        ),
    ],
)
def test_values_have_names(condition: int, values: tuple[int, int, int], said: str) -> None:
    assert said in tell(condition, *values)[1]


def test_what_a_broken_run_left_behind_is_told_as_it_is() -> None:
    assert tell(10**6, 1, 2, 3) == ("?", "a condition that nobody knows failed: 1 2 3")
