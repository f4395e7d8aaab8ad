"""The recorder writes the same rows compiled and interpreted, and stops what it says it stops."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.watch.recorder import ROW_A, ROW_KIND, ROW_VALUE, Recorder, load_word, store_word
from mmu.machine.events import (
    CLOCK,
    DRAW,
    EMIT,
    FETCH_ADD,
    GO,
    PROBE,
    READ_ONCE,
    STEP_LAST,
    STOP,
    STOPPED,
    XCHG,
)

HOOK = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 6)
WORDS = 16

numbers = st.integers(-(1 << 63), (1 << 63) - 1)
calls = st.tuples(
    st.integers(0, 4095),
    st.one_of(st.integers(1, STEP_LAST), st.sampled_from([CLOCK, DRAW, PROBE, EMIT + 3])),
    st.one_of(st.integers(0, WORDS - 1), st.integers(-2, WORDS + 2), numbers),
    numbers,
    numbers,
)


def pair(**options: int) -> tuple[Recorder, Recorder]:
    words = np.arange(100, 100 + WORDS, dtype=np.int64)
    return Recorder(words, **options), Recorder(words, **options)


@given(st.lists(calls, max_size=12), st.integers(0, 12), st.integers(1, 12))
def test_both_write_the_same(
    sequence: list[tuple[int, int, int, int, int]], stop_at: int, capacity: int
) -> None:
    compiled, interpreted = pair(stop_at=stop_at, capacity=capacity)
    hook = HOOK(compiled.hook)
    for actor, *call in sequence:
        assert hook(compiled.ctx, actor, *call) == interpreted.observer(actor)(*call)
    assert compiled.block.tolist() == interpreted.block.tolist()
    assert compiled.count == len(sequence)


def test_a_row_holds_the_word_before_the_step() -> None:
    recorder, _ = pair()
    assert recorder.observer(2)(XCHG, 5, 77, 0) == GO
    assert recorder.observer(3)(EMIT + 1, 5, 6, 7) == GO
    assert recorder.rows().tolist() == [[2, XCHG, 5, 77, 0, 105], [3, EMIT + 1, 5, 6, 7, 0]]


def test_it_stops_for_ever() -> None:
    recorder, _ = pair(stop_at=2)
    observe = recorder.observer(0)
    assert observe(READ_ONCE, 1, 0, 0) == GO
    assert [observe(kind, 1, 0, 0) for kind in (READ_ONCE, STOPPED, CLOCK, DRAW)] == [STOP] * 4
    recorder.restart()
    assert observe(STOPPED, 0, 0, 0) == GO


def test_time_is_told_by_counting() -> None:
    recorder, _ = pair(clock=7)
    observe = recorder.observer(0)
    assert [observe(kind, 2, 0, 0) for kind in (CLOCK, DRAW, CLOCK, PROBE)] == [7, 0, 8, 0]


@pytest.mark.parametrize("place", [-1, WORDS, 1 << 62])
def test_a_wild_step_is_noted_and_stopped(place: int) -> None:
    recorder, _ = pair()
    observe = recorder.observer(0)
    assert observe(READ_ONCE, WORDS - 1, 0, 0) == GO
    assert observe(EMIT, place, 0, 0) == GO  # no step: any number may be told
    assert recorder.wild == 0
    assert observe(FETCH_ADD, place, 1, 0) == STOP
    assert observe(READ_ONCE, 0, 0, 0) == STOP
    assert recorder.wild == 3
    assert recorder.rows()[2, [ROW_KIND, ROW_A, ROW_VALUE]].tolist() == [FETCH_ADD, place, 0]


def test_more_calls_than_rows_are_no_silent_loss() -> None:
    recorder, _ = pair(capacity=2)
    for _ in range(3):
        recorder.observer(0)(READ_ONCE, 1, 0, 0)
    with pytest.raises(OverflowError, match="3 calls, 2 rows"):
        recorder.rows()
    recorder.restart()
    assert recorder.rows().tolist() == []


def test_words_by_address() -> None:
    words = np.zeros(4, np.int64)
    store_word(words.ctypes.data, 2, -5)
    assert words.tolist() == [0, 0, -5, 0]
    assert load_word(words.ctypes.data + 8, 1) == -5
