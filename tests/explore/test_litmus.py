"""Litmus tests: exactly the outcomes of sequential consistency, by the naive enumerator."""

from __future__ import annotations

import pytest

from harness.explore.explorer import Bounds, Explorer
from tests.explore import programs as p
from tests.explore.naive import enumerate_traces
from tests.explore.programs import Instruction, Program, scenario_of


def store(word: int, value: int = 1) -> Instruction:
    return (p.STORE, word, value, 0)


def load(word: int) -> Instruction:
    return (p.LOAD, word, 0, 0)


def keep(word: int) -> Instruction:
    """What was read last, where the end can see it."""
    return (p.STORE_LAST, word, 0, 0)


X, Y, R, S = range(4)
PROGRAMS: dict[str, Program] = {
    "SB": ((store(X), load(Y)), (store(Y), load(X))),
    "MP": ((store(X), store(Y)), (load(Y), keep(R), load(X))),
    "LB": ((load(X), keep(R), store(Y)), (load(Y), keep(S), store(X))),
    "IRIW": (
        (store(X),),
        (store(Y),),
        (load(X), keep(R), load(Y)),
        (load(Y), keep(S), load(X)),
    ),
    "2+2W": ((store(X, 1), store(Y, 2)), (store(Y, 1), store(X, 2))),
    "R": ((store(X, 1), store(Y, 1)), (store(Y, 2), load(X))),
    "S": ((store(X, 2), store(Y, 1)), (load(Y), keep(R), store(X, 1))),
    "WRC": (
        (store(X),),
        (load(X), keep(R), store(Y)),
        (load(Y), keep(S), load(X)),
    ),
}
EXACT = ("dpor", "optimal")
SAMPLERS = ("random", "pct", "pos", "urw", "surw")


def outcomes(name: str, strategy: str, executions: int = 0) -> set[tuple[int, ...]]:
    explorer = Explorer(scenario_of(PROGRAMS[name]), strategy, Bounds(executions=executions))
    result = explorer.run()
    explorer.close()
    assert result.deadlocked == 0
    return set(result.outcomes)


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize("name", PROGRAMS)
def test_exactly_sequential_consistency(name, strategy):
    assert outcomes(name, strategy) == set(enumerate_traces(PROGRAMS[name]).outcomes())


@pytest.mark.parametrize("strategy", SAMPLERS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_samplers_see_all_of_it(name, strategy):
    assert outcomes(name, strategy, 20_000) == set(enumerate_traces(PROGRAMS[name]).outcomes())


def test_the_relaxed_outcome_of_store_buffering_is_not_among_them():
    seen = {values[-2:] for values in enumerate_traces(PROGRAMS["SB"]).outcomes()}
    assert seen == {(0, 1), (1, 0), (1, 1)}
