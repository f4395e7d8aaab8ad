"""Random programs: exact strategies find exactly the traces that the naive enumerator finds."""

from __future__ import annotations

import pytest

from tests.explore.check_program import complaints
from tests.explore.naive import enumerate_traces
from tests.explore.programs import generate

PROGRAMS = 320  # `make fuzz` looks at 50,000
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_random_programs(part):
    checked = 0
    for seed in range(part, PROGRAMS, PARTS):
        program = generate(seed)
        traces = enumerate_traces(program)
        if traces is None:
            continue
        checked += 1
        for strategy in ("dpor", "optimal"):
            assert complaints(program, strategy, traces) == [], f"seed {seed}"
    assert checked >= 0.98 * PROGRAMS / PARTS


def test_there_is_something_to_find():
    """Generated programs deadlock, and have more than one trace, often enough."""
    found = [traces for seed in range(300) if (traces := enumerate_traces(generate(seed)))]
    assert sum(bool(each.deadlocked) for each in found) > 50
    assert sum(len(each.complete) > 1 for each in found) > 150
    assert max(len(each.complete) for each in found) > 200


def test_a_missing_trace_would_be_noticed():
    for seed in range(20):
        program = generate(seed)
        traces = enumerate_traces(program)
        if len(traces.complete) > 1:
            traces.complete.popitem()
            assert complaints(program, "dpor", traces) != []
            return
    pytest.fail("no program with two traces")
