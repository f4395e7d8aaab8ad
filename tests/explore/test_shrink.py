"""Shrinking: each pass keeps what it must, and the whole never slides to another failure."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.explore.explorer import Explorer
from harness.explore.replay import Player
from harness.explore.reproducer import Reproducer, read
from harness.explore.shrink import apart as apart_module
from harness.explore.shrink import merge, preemptions
from harness.explore.shrink.apart import apart
from harness.explore.shrink.case import Case
from harness.explore.shrink.failure import Failure
from harness.explore.shrink.order import Order, order_of, past_of
from harness.explore.shrink.shrinker import shrink
from harness.explore.shrink.turns import Schedule, turns_of
from harness.explore.story import Teller
from harness.explore.trace import Finding, Step
from harness.explore.world import World
from mmu.machine import events
from mmu.machine.conditions import BALANCE_USERS, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import read_once, write_once
from workloads.errors import UsageError
from workloads.litmus.lock_free_stack import ABA
from workloads.scenario import FORBIDDEN, Actor, Outcome, Scenario
from workloads.scenarios.generated import Part, Program
from workloads.scenarios.idle import NOTHING
from workloads.scenarios.reduced import Reduction, read_reduction
from workloads.scenarios.registry import load
from workloads.scenarios.shorter import BY_NAME, SETUPS, SHORTER


@kernel
def increment(cpu: Cpu) -> None:
    write_once(cpu, 0, read_once(cpu, 0) + 1)


@kernel
def bystander(cpu: Cpu) -> None:
    for _ in range(5):
        write_once(cpu, 1, read_once(cpu, 1) + 1)


@kernel
def broken_at_once(cpu: Cpu) -> None:
    warn(cpu, 1, BALANCE_USERS, 0, 2, 0)
    write_once(cpu, 0, 1)


def lost_update(*outcomes: Outcome) -> Scenario:
    return Scenario(
        "lost-update",
        "two increments by load and store, and somebody who has nothing to do with it",
        (Actor("one", increment), Actor("idler", bystander), Actor("other", increment)),
        words=("x", "y"),
        outcome=("x", "y"),
        outcomes=outcomes or tuple(Outcome((1, y), FORBIDDEN, "lost") for y in (0, 5)),
    )


def first_finding(scenario: Scenario, strategy: str = "random") -> Finding:
    explorer = Explorer(scenario, strategy)
    found = explorer.run().findings[0]
    explorer.close()
    return found


# --- The whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["random", "pos"])
def test_a_lost_update_is_two_reads_and_two_writes(strategy):
    scenario = lost_update()
    shrunk = shrink(Case(base=scenario), first_finding(scenario, strategy))
    assert shrunk is not None
    assert shrunk.case.reduction.actors == {"idler": NOTHING}
    assert (shrunk.schedule.length, shrunk.schedule.preemptions) == (4, 1)
    assert shrunk.steps_before == 14
    assert next(each.about for each in shrunk.passes if each.taken) == "actors dropped"


def test_it_is_deterministic():
    found = first_finding(ABA)
    one, other = (shrink(Case(base=ABA), found) for _ in range(2))
    assert one is not None
    assert one == other
    assert one.schedule.length <= len(found.steps)


def test_it_does_not_slide_to_an_easier_failure():
    """x=2, y=4 needs the idler; x=1 would be shorter, and is another sentence."""
    outcomes = (Outcome((2, 5), FORBIDDEN, "all is well"), Outcome((1, 0), FORBIDDEN, "lost"))
    scenario = lost_update(*outcomes)
    explorer = Explorer(scenario, "dpor", stop_at_finding=False)
    found = next(each for each in explorer.run().findings if "all is well" in each.message)
    explorer.close()
    shrunk = shrink(Case(base=scenario), found)
    assert shrunk is not None
    assert "all is well" in shrunk.finding.message
    assert not shrunk.case.reduction


def test_what_is_broken_before_the_first_step_cannot_become_shorter():
    scenario = Scenario("broken", "before any step", (Actor("one", broken_at_once),), words=("x",))
    shrunk = shrink(Case(base=scenario), first_finding(scenario))
    assert shrunk is not None
    assert shrunk.schedule.length == 0
    tried = {each.about: each.tried for each in shrunk.passes}
    assert tried["shorter executions"] == 0


def test_what_does_not_show_again_is_left_alone():
    scenario = lost_update()
    found = first_finding(scenario)
    assert shrink(Case(base=scenario), replace(found, message="something else")) is None
    assert shrink(Case(base=scenario), replace(found, steps=())) is None


def test_an_interrupted_one_keeps_what_it_has():
    scenario = lost_update()
    looks = iter([True] * 2)
    shrunk = shrink(Case(base=scenario), first_finding(scenario), lambda _: next(looks, False))
    assert shrunk is None or (shrunk.interrupted and shrunk.finding.oracle == "outcome")


def test_a_reduced_reproducer_is_read_replayed_and_told(tmp_path):
    scenario = lost_update()
    shrunk = shrink(Case(base=scenario), first_finding(scenario))
    assert shrunk is not None
    world = World(shrunk.case.scenario())
    made = Reproducer.of(
        world,
        shrunk.finding,
        reference="here",
        model="m",
        patch=None,
        strategy="random",
        seed=1,
        reduction=shrunk.case.reduction.document(),
    )
    file = tmp_path / "r.json"
    file.write_text(made.dump())
    again = read(file)
    assert again == made
    smaller = read_reduction(again.reduction, "r").of(scenario)
    script = again.script(World(smaller))
    assert Player(World(smaller)).play(script).finding is not None
    assert Teller(World(smaller)).tell(script, compare=True).oracle == "outcome"


def test_a_program_loses_operations(monkeypatch):
    """Of a program every operation can go by itself."""
    program = Program(
        (
            Part("vcpu 0", (("write", 0), ("read", 1), ("write", 0))),
            Part("vcpu 1", (("read", 2),)),
            Part("host", (("move", 0),)),
        ),
        before=(("vcpu 0", ("read", 3)),),
    )
    from harness.explore.shrink import actors, operations

    fewer = list(operations.candidates(Case(program=program)))
    assert len(fewer) == 1 + 3
    assert all(each.program.scenario().actors for each in fewer)
    without = [each.program.parts for each in actors.candidates(Case(program=program))]
    assert [[bool(part.operations) for part in parts] for parts in without] == [
        [True, True, False],
        [True, False, True],
        [False, True, True],
    ]


def test_the_last_actor_stays():
    from harness.explore.shrink import actors

    scenario = lost_update()
    case = Case(base=scenario, reduction=Reduction({"one": NOTHING, "other": NOTHING}))
    assert list(actors.candidates(case)) == []


# --- What is the same failure --------------------------------------------------------------------


def failure(message: str, actor: int = 0) -> Failure:
    return Failure.of(load("map-map-same"), Finding("leaks", message, actor, ()))


def test_numbers_may_differ_names_and_words_not():
    same = failure("table 39 entry 0x1f was freed by vcpu 0, -1 left")
    assert same == failure("table 7 entry 0 was freed by vcpu 0, 3 left")
    assert same != failure("table 39 entry 0x1f was freed by vcpu 1, -1 left")
    assert same != failure("table 39 entry 0x1f was lost by vcpu 0, -1 left")
    assert same != failure("table 39 entry 0x1f was freed by vcpu 0, -1 left", actor=1)


# --- Traces --------------------------------------------------------------------------------------

KINDS = (events.READ_ONCE, events.WRITE_ONCE, events.COUNT)
rows = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(KINDS), st.integers(0, 2)), min_size=1, max_size=9
)


def steps_of(trace) -> list[Step]:
    return [Step(actor, kind, word, 0, 0) for actor, kind, word in trace]


def conflict(one: Step, other: Step) -> bool:
    if one.actor == other.actor:
        return True
    reads = (one.kind, other.kind) == (events.READ_ONCE, events.READ_ONCE)
    counts = (one.kind, other.kind) == (events.COUNT, events.COUNT)
    return one.word == other.word and not reads and not counts


def keeps_order(steps: list[Step], rows_now: list[int]) -> bool:
    place = {row: number for number, row in enumerate(rows_now)}
    return all(
        place[i] < place[j]
        for j in range(len(steps))
        for i in range(j)
        if conflict(steps[i], steps[j])
    )


@settings(deadline=None)
@given(rows)
def test_the_past_is_closed_and_small(trace):
    """All that a conflict leads to from the last row, and nothing else."""
    steps = steps_of(trace)
    last = len(steps) - 1
    wanted = {last}
    for row in reversed(range(last)):
        if any(conflict(steps[row], steps[other]) for other in wanted if other > row):
            wanted.add(row)
    assert past_of(order_of(steps), last) == wanted


def switches(steps: list[Step], rows_now: list[int]) -> int:
    """Leaving an actor that has steps left: none of these steps ever waits."""
    left = [0, 0, 0]
    for step in steps:
        left[step.actor] += 1
    count = 0
    for one, other in pairwise([*rows_now]):
        left[steps[one].actor] -= 1
        count += steps[one].actor != steps[other].actor and left[steps[one].actor] > 0
    return count


def linearisations(steps: list[Step]):
    """All orders of the trace in which the last row stays last, one row after the other."""
    before = [{i for i in range(j) if conflict(steps[i], steps[j])} for j in range(len(steps))]

    def extend(done: list[int]):
        if len(done) == len(steps):
            yield done
            return
        for row in range(len(steps)):
            late = row == len(steps) - 1 and len(done) < len(steps) - 1
            if row not in done and not late and before[row] <= set(done):
                yield from extend([*done, row])

    yield from extend([])


@settings(deadline=None, max_examples=60)
@given(rows.filter(lambda trace: len(trace) <= 7))
def test_no_order_of_the_trace_has_fewer_preemptions(trace):
    steps = steps_of(trace)
    best = preemptions._Search(order_of(steps)).best()
    assert best is not None
    assert sorted(best) == list(range(len(steps)))
    assert keeps_order(steps, best)
    assert best[-1] == len(steps) - 1
    fewest = min(switches(steps, each) for each in linearisations(steps))
    assert switches(steps, best) == fewest


def test_a_search_that_is_too_large_gives_up(monkeypatch):
    monkeypatch.setattr(preemptions, "STATES_MAX", 1)
    trace = [(number % 3, events.WRITE_ONCE, number % 2) for number in range(9)]
    assert preemptions._Search(order_of(steps_of(trace))).best() is None


@given(st.lists(st.integers(0, 2), min_size=1, max_size=20))
def test_merging_moves_steps_and_loses_none_but_whole_turns(actors):
    steps = tuple(Step(actor, events.READ_ONCE, 0, 0, 0) for actor in actors)
    schedule = Schedule(Finding("o", "m", -1, steps), 0)
    total = turns_total(turns_of(actors))
    for turns in merge.candidates(schedule):
        assert all(one[0] != other[0] for one, other in pairwise(turns))
        now = turns_total(turns)
        assert now == total or any(
            {**total, actor: total[actor] - size} == {**dict.fromkeys(total, 0), **now}
            for actor, size in schedule.turns
        )


def turns_total(turns) -> dict[int, int]:
    total: dict[int, int] = {}
    for actor, size in turns:
        total[actor] = total.get(actor, 0) + size
    return total


def test_the_order_knows_both_directions():
    steps = steps_of(
        [(0, events.WRITE_ONCE, 0), (1, events.READ_ONCE, 0), (1, events.READ_ONCE, 1)]
    )
    assert order_of(steps) == Order(tuple(steps), ((), (0,), (1,)))


# --- In a child ----------------------------------------------------------------------------------


def crash() -> int:
    signal.raise_signal(signal.SIGKILL)
    return 0


def test_a_crash_is_a_failed_try():
    assert apart(crash, lambda: True) is None
    assert apart(lambda: 7, lambda: True) == 7
    assert apart(partial(int, "no number"), lambda: True) is None


def test_who_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(apart_module, "HANG_S", 0.2)
    reading, _writing = os.pipe()
    assert apart(lambda: os.read(reading, 1), lambda: True) is None


def test_who_wants_no_more_gets_nothing():
    reading, _writing = os.pipe()
    assert apart(lambda: os.read(reading, 1), lambda: False) is None


# --- What may be left out ------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_the_model_is_not_accused_of_a_shorter_thing(name):
    """Each alone, beside a move of the page that it is about."""
    base = load("notifier-write")
    reduction = Reduction({base.actors[0].name: name}, {"pages": 4})
    explorer = Explorer(reduction.of(base), "surw", bounds_of(300))
    result = explorer.run()
    explorer.close()
    assert result.findings == []
    assert result.steps > 300


def bounds_of(executions: int):
    from harness.explore.explorer import Bounds

    return Bounds(executions=executions)


def test_every_shorter_thing_has_its_name():
    assert sum(map(len, SHORTER.values())) == len(BY_NAME)
    assert NOTHING not in BY_NAME


@pytest.mark.parametrize(
    "document",
    [
        None,
        {},
        {"actors": {}},
        {"actors": {"vcpu 0": "dance"}, "vm": {}},
        {"actors": {}, "vm": {"levels": 0}},
        {"actors": {}, "vm": {"vcpus": 1}},
        {"actors": {}, "vm": {}, "setup": "tidy"},
    ],
)
def test_what_is_no_reduction_is_refused(document):
    with pytest.raises(UsageError, match=r"^file: "):
        read_reduction(document, "file")


@pytest.mark.parametrize("setup", SETUPS)
def test_reductions_come_back_from_json(setup):
    reduction = Reduction({"vcpu 0": NOTHING, "vcpu 1": "fault read 0"}, {"levels": 2}, setup)
    assert read_reduction(reduction.document(), "file") == reduction
