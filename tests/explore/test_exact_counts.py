"""Numbers of traces that are known by counting on paper."""

from __future__ import annotations

from math import comb

import pytest

from harness.explore.explorer import Explorer, Result
from tests.explore import programs as p
from tests.explore.naive import enumerate_traces
from tests.explore.programs import Instruction, Program, scenario_of

EXACT = ("dpor", "optimal")


def explore(strategy: str, *actors: list[Instruction]) -> Result:
    program: Program = tuple(tuple(actor) for actor in actors)
    explorer = Explorer(scenario_of(program), strategy, stop_at_finding=False)
    result = explorer.run()
    explorer.close()
    assert result.exhausted
    assert strategy != "optimal" or result.blocked == 0
    return result


def adds(count: int) -> list[Instruction]:
    return [(p.FETCH_ADD, 0, 1, 0)] * count


def locked(*inside: Instruction, shared: bool = False) -> list[Instruction]:
    lock = p.LOCKS[0]
    if shared:
        return [(p.LOCK_SHARED, lock, 0, 0), *inside, (p.UNLOCK_SHARED, lock, 0, 0)]
    return [(p.LOCK, lock, 0, 0), *inside, (p.UNLOCK, lock, 0, 0)]


def lock(word: int) -> Instruction:
    return (p.LOCK, word, 0, 0)


def unlock(word: int) -> Instruction:
    return (p.UNLOCK, word, 0, 0)


LOAD: Instruction = (p.LOAD, 0, 0, 0)
STORE: Instruction = (p.STORE, 0, 1, 0)


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize("count", range(1, 8))
def test_two_actors_add_to_one_word(strategy, count):
    assert explore(strategy, adds(count), adds(count)).complete == comb(2 * count, count)


@pytest.mark.parametrize("strategy", EXACT)
def test_three_actors_add_three_times_each(strategy):
    assert explore(strategy, adds(3), adds(3), adds(3)).complete == 1680


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize("readers", range(1, 4))
def test_one_writer_and_readers(strategy, readers):
    assert explore(strategy, [STORE], *[[LOAD]] * readers).complete == 2**readers


@pytest.mark.parametrize("strategy", EXACT)
def test_writers_to_different_words_do_not_meet(strategy):
    actors = [[(p.STORE, word, 1, 0)] * 3 for word in range(4)]
    assert explore(strategy, *actors).complete == 1


@pytest.mark.parametrize("strategy", EXACT)
def test_what_commutes_has_one_order(strategy):
    assert explore(strategy, *[[(p.COUNT, 0, 1, 0)] * 3] * 3).complete == 1
    assert explore(strategy, *[locked(LOAD, shared=True)] * 3).complete == 1


@pytest.mark.parametrize("strategy", EXACT)
def test_locks_order_critical_sections(strategy):
    assert explore(strategy, locked(STORE), locked(STORE)).complete == 2
    assert explore(strategy, *[locked(STORE)] * 3).complete == 6
    # Each reader is before or after the writer, for itself.
    readers = [locked(LOAD, shared=True)] * 3
    assert explore(strategy, locked(STORE), *readers).complete == 2**3


@pytest.mark.parametrize("strategy", EXACT)
def test_opposite_lock_orders_deadlock_once(strategy):
    one, other = p.LOCKS
    forth = [lock(one), lock(other), unlock(other), unlock(one)]
    back = [lock(other), lock(one), unlock(one), unlock(other)]
    result = explore(strategy, forth, back)
    assert (result.complete, result.deadlocked) == (2, 1)


@pytest.mark.parametrize("strategy", EXACT)
def test_a_waiter_comes_after_what_it_waits_for(strategy):
    wait: Instruction = (p.WAIT_WHILE, 0, 0, 0)
    assert explore(strategy, [STORE], [wait]).complete == 1
    result = explore(strategy, [STORE, (p.STORE, 0, 0, 0)], [wait])
    assert (result.complete, result.deadlocked) == (1, 1)


def test_the_naive_enumerator_agrees_with_paper():
    traces = enumerate_traces((tuple(adds(4)), tuple(adds(4))))
    assert len(traces.complete) == comb(8, 4)
    traces = enumerate_traces((tuple(locked(STORE)), tuple(locked(LOAD, shared=True))))
    assert (len(traces.complete), len(traces.deadlocked)) == (2, 0)
