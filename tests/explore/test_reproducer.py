"""Reproducers by meaning: written, read, refused, followed, told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness.explore.chrome import chrome_trace
from harness.explore.explain import explain
from harness.explore.explorer import Explorer
from harness.explore.replay import Player
from harness.explore.reproducer import Reproducer, read
from harness.explore.story import Teller
from harness.explore.trace import Step
from harness.explore.world import World
from harness.run.warm import needed_by
from mmu.machine.cpu import Cpu
from mmu.machine.dispatch import KernelFunction
from mmu.machine.kernel import kernel
from mmu.machine.primitives import draw, read_once, stopped, write_once
from workloads.errors import RunFailed, UsageError
from workloads.litmus.lock_free_stack import ABA
from workloads.scenario import FORBIDDEN, Actor, Outcome, Scenario
from workloads.scenarios.registry import SCENARIOS, load

STRATEGIES = ("dpor", "pos")


@kernel
def increment(cpu: Cpu) -> None:
    write_once(cpu, 0, read_once(cpu, 0) + 1)


@kernel
def increment_with_a_new_step(cpu: Cpu) -> None:
    read_once(cpu, 2)
    write_once(cpu, 0, read_once(cpu, 0) + 1)


@kernel
def decrement(cpu: Cpu) -> None:
    write_once(cpu, 0, read_once(cpu, 0) - 1)


@kernel
def drawn(cpu: Cpu) -> None:
    write_once(cpu, 0, draw(cpu, 4))


@kernel
def wait_for_nobody(cpu: Cpu) -> None:
    while read_once(cpu, 1) == 0 and not stopped(cpu):
        retry(cpu)


@kernel
def retry(cpu: Cpu) -> None:
    write_once(cpu, 3, 1)


def lost_update(first=increment, second=increment, names=("one", "other")) -> Scenario:
    return Scenario(
        "lost-update",
        "two increments by load and store",
        (Actor(names[0], first), Actor(names[1], second)),
        words=("x", "y", "z", "w"),
        outcome=("x",),
        outcomes=(Outcome((1,), FORBIDDEN, "an increment is lost"),),
    )


def reproducer_of(scenario: Scenario, strategy: str = "dpor") -> tuple[World, Reproducer]:
    explorer = Explorer(scenario, strategy)
    found = explorer.run().findings[0]
    explorer.close()
    world = World(scenario)
    made = Reproducer.of(
        world, found, reference="here", model="m", patch=None, strategy=strategy, seed=1
    )
    return world, made


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_written_read_and_followed(tmp_path, strategy):
    world, made = reproducer_of(lost_update(), strategy)
    path = tmp_path / "r.json"
    path.write_text(made.dump())
    again = read(path)
    assert again == made
    assert [(s.do, s.word) for s in made.steps].count(("write", "x")) == 2
    for _ in range(100):
        replay = Player(world).play(again.script(world))
        assert replay.finding is not None
        assert replay.finding.message == made.violation.message
    story = Teller(world).tell(again.script(world), compare=True)
    assert (story.oracle, story.message) == ("outcome", made.violation.message)


def test_draws_are_recorded():
    scenario = Scenario(
        "drawn",
        "",
        (Actor("a", drawn),),
        words=("x",),
        outcome=("x",),
        outcomes=(Outcome((3,), FORBIDDEN, "three"),),
    )
    world, made = reproducer_of(scenario)
    assert [(s.do, s.saw, s.stored) for s in made.steps] == [("draw", 4, 3), ("write", 0, 3)]
    assert Teller(world).tell(made.script(world), compare=True).oracle == "outcome"
    assert Player(world).play(made.script(world)).finding is not None


def test_a_model_with_a_new_step_is_still_followed():
    _, made = reproducer_of(lost_update())
    edited = World(lost_update(increment_with_a_new_step))
    replay = Player(edited).play(made.script(edited))
    assert replay.finding is not None
    assert replay.new_steps == 1
    story = Teller(edited).tell(made.script(edited), compare=False)
    assert (story.oracle, story.new_steps) == ("outcome", 1)


def test_another_model_diverges_with_a_place():
    _, made = reproducer_of(lost_update())
    edited = World(lost_update(second=decrement))
    with pytest.raises(RunFailed, match=r"diverged at step \d: other .* seen now"):
        Teller(edited).tell(made.script(edited), compare=True)


def test_a_corrupted_value_is_a_divergence():
    world, made = reproducer_of(lost_update())
    script = made.script(world)
    last = script[-1]
    script[-1] = Step(last.actor, last.kind, last.word, last.old, last.new + 1)
    with pytest.raises(RunFailed, match=f"step {len(script)}: .*recorded"):
        Teller(world).tell(script, compare=True)


def test_names_that_are_gone_are_said():
    _, made = reproducer_of(lost_update())
    renamed = World(lost_update(names=("one", "another")))
    with pytest.raises(UsageError, match="no actor 'other' now"):
        made.script(renamed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "is the file complete"),
        (lambda text: "[]", "no reproducer"),
        (lambda text: text.replace('"tdprace_reproducer": 1', '"tdprace_reproducer": 7'), "7"),
        (lambda text: text.replace('"do": "write"', '"do": "scribble"'), "'scribble'"),
        (lambda text: text.replace('"saw": 0', '"saw": "0"'), "not of type int"),
        (lambda text: text.replace('"occurrence"', '"occurence"'), "'occurrence' is missing"),
        (lambda text: text.replace('"violation"', '"violations"'), "'violation' is missing"),
        (lambda text: "", "line 1"),
    ],
)
def test_what_is_no_reproducer_is_refused(tmp_path, change, said):
    _, made = reproducer_of(lost_update())
    path = tmp_path / "r.json"
    path.write_text(change(made.dump()))
    with pytest.raises(UsageError) as refused:
        read(path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_story_stands_in_columns():
    world, made = reproducer_of(lost_update())
    story = Teller(world).tell(made.script(world), compare=True)
    lines = explain(world, story, width=100).splitlines()
    assert lines[0].split() == ["one", "other"]
    column = lines[0].index("other")
    text = "\n".join(lines)
    assert text.count("increment (test_reproducer.py:") == 4
    assert "read x: 0" in text
    assert "write x: 0 -> 1" in text
    assert any(line[column:].startswith("increment") for line in lines)
    assert "OOPS outcome: x=1 is forbidden: an increment" in text


def test_private_steps_are_folded_unless_wanted():
    explorer = Explorer(ABA, "dpor")
    found = explorer.run().findings[0]
    world = explorer.world
    world.reset()
    story = Teller(world).tell(found.steps, compare=True)
    assert len(explain(world, story, everything=True)) >= len(explain(world, story))
    assert "OOPS check" in explain(world, story)


def test_the_chrome_trace_has_a_track_an_actor():
    world, made = reproducer_of(lost_update())
    story = Teller(world).tell(made.script(world), compare=True)
    events = json.loads(chrome_trace(world, story))["traceEvents"]
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"one", "other"}
    assert len([e for e in events if e["ph"] == "X"]) == len(made.steps)
    assert [e["name"] for e in events if e["ph"] == "i"] == ["OOPS outcome"]


def scenarios() -> Iterator[Any]:
    """All of them; those that show no kernel of the model for the first time are `thorough`."""
    known: set[KernelFunction] = set()
    for name in SCENARIOS:
        # A setup is none: it runs compiled in either case.
        called = [each for each in load(name).functions if isinstance(each, KernelFunction)]
        new = needed_by(called, known)
        known.update(new)
        is_new = any(each.__module__.startswith("mmu.") for each in new)
        yield pytest.param(name, marks=() if is_new else pytest.mark.thorough)


@pytest.mark.parametrize("name", list(scenarios()))
def test_the_twin_takes_the_same_steps(name):
    """Compiled and interpreted, step for step with all values, on random schedules."""
    world = World(load(name))
    player = Player(world)
    for seed in range(1, 4):
        steps = player.sample(seed)
        story = Teller(world).tell(steps, compare=True)
        assert story.oracle == ""
        real = [(s.actor, s.kind, s.word, s.old, s.new) for s in steps if s.word >= 0]
        assert [(s.actor, s.kind, s.word, s.old, s.new) for s in story.trace] == real
    world.close()


def test_names_are_unique():
    world = World(load("huge-logged-write"))
    assert len(world.words_by_name()) == len(world.words)
    names = world.words_by_name()
    assert "table 1 entry 0" in names
    assert "vcpu 0: request" in names
    assert "mmu_lock" in names
    world.close()
