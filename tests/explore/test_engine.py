"""How executions end, what is said about it, and that only the schedule decides."""

from __future__ import annotations

from math import comb

import pytest

from harness.explore import block as at
from harness.explore.explorer import Bounds, Explorer, Result
from harness.explore.replay import Player, check_determinism
from harness.explore.world import World
from mmu.machine import events
from mmu.machine.blocking import EXCLUSIVE, SHARED_MASK, acquire_when, again, release, wait_while
from mmu.machine.cpu import Cpu
from mmu.machine.events import PROBE_RETRY
from mmu.machine.kernel import kernel
from mmu.machine.primitives import (
    count,
    draw,
    fetch_add,
    own,
    probe,
    read_once,
    set_own,
    stopped,
    write_once,
)
from workloads.errors import RunFailed, UsageError
from workloads.scenario import FORBIDDEN, Actor, Outcome, Scenario

EVERYBODY = EXCLUSIVE | SHARED_MASK
EXACT = ("dpor", "optimal")
ALL = (*EXACT, "auto", "random", "pct", "pos", "urw", "surw")


@kernel
def add_three(cpu: Cpu) -> None:
    for _ in range(3):
        fetch_add(cpu, 0, 1)


@kernel
def draw_and_add(cpu: Cpu) -> None:
    fetch_add(cpu, 0, draw(cpu, 3))
    fetch_add(cpu, 0, 10 * draw(cpu, 3))


@kernel
def probe_and_add(cpu: Cpu) -> None:
    fetch_add(cpu, 0, 1 + probe(cpu, PROBE_RETRY))


@kernel
def retry_until_two(cpu: Cpu) -> None:
    while read_once(cpu, 0) != 2 and not stopped(cpu):
        again(cpu)


@kernel
def one_then_two(cpu: Cpu) -> None:
    write_once(cpu, 0, 1)
    write_once(cpu, 0, 2)


@kernel
def write_one(cpu: Cpu) -> None:
    write_once(cpu, 0, 1)


@kernel
def write_wild(cpu: Cpu) -> None:
    write_once(cpu, 0, 2)
    write_once(cpu, 1 << 40, 2)


@kernel
def raise_at_two(cpu: Cpu) -> None:
    write_once(cpu, 0, 2)
    if read_once(cpu, 0) == 2:
        raise ValueError("two")


@kernel
def write_forever(cpu: Cpu) -> None:
    while not stopped(cpu):
        write_once(cpu, 0, 2)


@kernel
def write_forever_and_ignore_stop(cpu: Cpu) -> None:
    while True:
        write_once(cpu, 0, 2)


@kernel
def lock_both(cpu: Cpu) -> None:
    """Word 0 and word 8 are locks; actor 1 takes them in the other order."""
    first = 8 * cpu.id
    acquire_when(cpu, first, EVERYBODY, 0, EXCLUSIVE)
    acquire_when(cpu, 8 - first, EVERYBODY, 0, EXCLUSIVE)
    release(cpu, 8 - first, -EXCLUSIVE)
    release(cpu, first, -EXCLUSIVE)


@kernel
def wait_for_one(cpu: Cpu) -> None:
    wait_while(cpu, 0, 0)


@kernel
def count_once(cpu: Cpu) -> None:
    count(cpu, 0, 1)


@kernel
def wait_while_one(cpu: Cpu) -> None:
    wait_while(cpu, 0, 1)


@kernel
def remember_between_executions(cpu: Cpu) -> None:
    """Own words are reset too: this must not make a difference."""
    set_own(cpu, 60, own(cpu, 60) + 1)
    fetch_add(cpu, 0, own(cpu, 60))


@kernel
def does_nothing(cpu: Cpu) -> None:
    pass


@kernel
def is_three(cpu: Cpu) -> int:
    return int(read_once(cpu, 0) == 3)


@kernel
def waits_for_ever(cpu: Cpu) -> int:
    wait_while(cpu, 0, read_once(cpu, 0))
    return 0


def scenario(*bodies, **options) -> Scenario:
    actors = tuple(Actor(f"actor {i}", body) for i, body in enumerate(bodies))
    return Scenario("small", "a test", actors, words=("word[16]",), **options)


def explore(strategy: str, *bodies, bounds: Bounds | None = None, **options) -> Result:
    explorer = Explorer(
        scenario(*bodies, **options),
        strategy,
        bounds or Bounds(executions=20_000),
        stop_at_finding=False,
    )
    try:
        return explorer.run()
    finally:
        explorer.close()


def oracles(result: Result) -> list[str]:
    return sorted({found.oracle for found in result.findings})


@pytest.mark.parametrize("strategy", EXACT)
def test_exhausted_is_said_when_it_is_true(strategy):
    result = explore(strategy, add_three, add_three)
    assert (result.executions, result.blocked, result.exhausted) == (comb(6, 3), 0, True)
    cut_short = explore(strategy, add_three, add_three, bounds=Bounds(executions=5))
    assert (cut_short.exhausted, cut_short.bound) == (False, "5 executions")


@pytest.mark.parametrize("strategy", ["random", "pct", "pos", "urw", "surw"])
def test_samplers_never_say_exhausted(strategy):
    result = explore(strategy, add_three, add_three, bounds=Bounds(executions=1000))
    assert (result.executions, result.complete, result.exhausted) == (1000, 1000, False)
    assert result.bound == "1000 executions"


def test_seconds_are_a_bound():
    result = explore("random", add_three, add_three, bounds=Bounds(seconds=0.3))
    assert result.bound == "0.3 s"
    assert 0.3 <= result.seconds < 2.0


@pytest.mark.parametrize("strategy", EXACT)
def test_bounded_preemptions_are_not_exhaustive(strategy):
    everything = explore(strategy, add_three, add_three)
    bounded = explore(strategy, add_three, add_three, bounds=Bounds(preemptions=1))
    assert 0 < bounded.complete < everything.complete
    assert (bounded.exhausted, bounded.bound) == (False, "1 preemptions")
    enough = explore(strategy, add_three, add_three, bounds=Bounds(preemptions=6))
    assert (enough.complete, enough.exhausted) == (everything.complete, True)


def test_draws_are_enumerated():
    result = explore("dpor", draw_and_add, draw_and_add, outcome=("word[0]",))
    assert result.complete == comb(4, 2) * 3**4
    assert set(result.outcomes) == {(a + 10 * b,) for a in range(5) for b in range(5)}
    sampled = explore("random", draw_and_add, draw_and_add, outcome=("word[0]",))
    assert set(sampled.outcomes) == set(result.outcomes)


def test_optimal_refuses_draws():
    with pytest.raises(UsageError, match="use dpor"):
        explore("optimal", draw_and_add, draw_and_add)


@pytest.mark.parametrize(
    ("probes", "values"), [(0, {(2,)}), (1 << PROBE_RETRY, {(2,), (3,), (4,)})]
)
def test_probes_answer_only_where_the_scenario_asks(probes, values):
    result = explore("dpor", probe_and_add, probe_and_add, outcome=("word[0]",), probes=probes)
    assert set(result.outcomes) == values


@pytest.mark.parametrize("strategy", ALL)
def test_an_attempt_that_somebody_helps_ends(strategy):
    result = explore(strategy, retry_until_two, one_then_two)
    assert result.deadlocked == 0
    assert result.findings == []


@pytest.mark.parametrize("strategy", ALL)
def test_an_attempt_that_nobody_helps_is_a_livelock(strategy):
    result = explore(strategy, retry_until_two, write_one)
    assert result.complete == 0
    assert oracles(result) == ["progress"]
    assert "actor 0" in result.findings[0].message


@pytest.mark.parametrize("strategy", ALL)
def test_locks_in_different_orders_deadlock(strategy):
    result = explore(strategy, lock_both, lock_both)
    assert oracles(result) == ["progress"]
    assert 0 < result.complete < result.executions
    found = result.findings[0]
    assert sorted((step.actor, step.word) for step in found.steps) == [(0, 0), (1, 8)]


@pytest.mark.parametrize("strategy", ALL)
def test_deadlock_before_the_first_step(strategy):
    result = explore(strategy, wait_for_one)
    assert oracles(result) == ["progress"]
    assert result.findings[0].steps == ()


@pytest.mark.parametrize("strategy", EXACT)
def test_two_counts_let_a_waiter_through_only_together(strategy):
    """Before both or after both: neither alone is in the way, so no single race shows it."""
    result = explore(strategy, count_once, count_once, wait_while_one)
    assert (result.complete, result.deadlocked, result.exhausted) == (2, 0, True)


@pytest.mark.parametrize("strategy", ALL)
def test_wild_and_raising_actors_are_findings(strategy):
    wild = explore(strategy, write_wild, write_one)
    assert oracles(wild) == ["lifetime"]
    assert not wild.exhausted
    raising = explore(strategy, raise_at_two, write_one)
    assert oracles(raising) == ["raised"]


@pytest.mark.parametrize("strategy", ALL)
def test_an_actor_may_do_nothing(strategy):
    result = explore(strategy, does_nothing, write_one, bounds=Bounds(executions=10))
    assert result.complete == result.executions > 0
    assert explore(strategy, does_nothing, bounds=Bounds(executions=10)).complete > 0


@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("body", [write_forever, write_forever_and_ignore_stop])
def test_what_never_ends_is_refused(strategy, body):
    with pytest.raises(RunFailed, match=r"none of .* ended within 100 steps"):
        explore(strategy, body, write_one, bounds=Bounds(executions=50, steps=100))


@pytest.mark.parametrize("strategy", ALL)
def test_forbidden_outcomes_and_checks(strategy):
    outcomes = (Outcome((4,), FORBIDDEN, "lost"),)
    result = (
        explore(strategy, draw_and_add, draw_and_add, outcome=("word[0]",), outcomes=outcomes)
        if strategy != "optimal"
        else None
    )
    if result is not None:
        assert [found.message for found in result.findings] == ["word[0]=4 is forbidden: lost"]
    checked = explore(strategy, add_three, check=is_three, check_text="three is {0}")
    assert [found.message for found in checked.findings] == ["three is 1"]
    fine = explore(strategy, add_three, add_three, check=is_three)
    assert fine.findings == []


def test_a_check_that_waits_for_ever_is_reported():
    result = explore("dpor", write_one, check=waits_for_ever)
    assert "cannot go on" in result.findings[0].message


@pytest.mark.parametrize("body", [write_forever, retry_until_two, lock_both, add_three])
def test_stop_ends_every_actor_at_every_step(body):
    for depth in range(1, 8):
        explorer = Explorer(scenario(body, body), "random", Bounds(executions=1))
        explorer.engine.block[at.H_STOP_AT] = depth
        explorer.run()
        assert explorer.engine.block[at.H_LIVE] == 0
        explorer.close()


@pytest.mark.parametrize("bodies", [(add_three, add_three), (draw_and_add,) * 2, (lock_both,) * 2])
def test_a_schedule_alone_decides(bodies):
    check_determinism(scenario(*bodies), schedules=50)
    check_determinism(scenario(remember_between_executions, write_one), schedules=50)


def test_what_reads_outside_its_words_is_not_deterministic():
    kept = scenario(remember_between_executions, write_one)
    world = World(kept)
    player = Player(world)
    first = player.sample(1)
    world.initial[world.own(0) + 60] = 7  # as if something outside the block had changed
    assert player.play(first).steps != first
    world.close()


@pytest.mark.parametrize("strategy", ["dpor", "pos"])
def test_findings_are_replayed(strategy):
    found = explore(strategy, lock_both, lock_both).findings[0]
    player = Player(World(scenario(lock_both, lock_both)))
    for _ in range(100):
        replay = player.play(found.steps)
        assert replay.finding == found
        assert (replay.followed, replay.new_steps, replay.diverged) == (2, 0, -1)


def test_a_schedule_that_does_not_fit_diverges():
    found = explore("dpor", lock_both, lock_both).findings[0]
    player = Player(World(scenario(add_three, lock_both)))
    replay = player.play(found.steps)
    assert (replay.finding, replay.diverged, replay.followed) == (None, 0, 0)


def test_progress_is_asked_and_may_end_it():
    asked = []

    def look(result: Result) -> bool:
        asked.append(result.executions)
        return len(asked) < 3

    explorer = Explorer(scenario(add_three, add_three), "random")
    result = explorer.run(look)
    assert result.interrupted
    assert len(asked) == 3
    assert asked == sorted(asked)
    assert asked[0] > 0


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (Scenario("s", "", ()), "0 actors"),
        (Scenario("s", "", tuple(Actor(str(i), write_one) for i in range(17))), "17 actors"),
        (Scenario("s", "", (Actor("a", write_one), Actor("a", write_one))), "same name"),
        (Scenario("s", "", (Actor("a", write_one.py_func),), words=("x",)), "@kernel"),
        (Scenario("s", "", (Actor("a", write_one),)), "shared words"),
        (scenario(write_one, outcome=("nothing",)), "no word is called 'nothing'"),
        (scenario(write_one, outcomes=(Outcome((1,), FORBIDDEN, ""),)), "needs 0 values"),
    ],
)
def test_broken_scenarios_are_refused(broken, text):
    with pytest.raises(UsageError, match=text):
        Explorer(broken, "dpor")


def test_kinds_of_questions_stay_above_steps():
    assert min(events.DRAW, events.PROBE) > events.AGAIN


@kernel
def read_one(cpu: Cpu) -> None:
    read_once(cpu, 0)


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize("readers", range(1, 15))
def test_one_writer_and_many_readers(strategy, readers):
    result = explore(strategy, write_one, *[read_one] * readers, bounds=Bounds())
    assert (result.complete, result.blocked, result.exhausted) == (2**readers, 0, True)
