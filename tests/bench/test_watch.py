"""A watched actor does what an unwatched one does: the same turns leave the same memory."""

import numpy as np
import pytest

from harness.watch.inject import parse_injection
from harness.watch.stress import Watching
from mmu.machine import layout as at
from tests.bench.watch import UNWATCHED, Turns

ROUNDS = 12
REGIONS = ("tables", "records", "pool", "frames", "mapping", "newest", "slots", "free frames")
# Injected once in a thousand million times: the probes are asked, nothing comes of it.
SELDOM = parse_injection("retry=1e-12,cmpxchg=1e-12,contention=1e-12,delay=1e-12:1")


def left(watching: Watching) -> dict[str, list[int]]:
    turns = Turns(watching)
    turns.play(ROUNDS)
    vm = turns.vm
    words = {
        name: vm.words[vm.layout.regions[name].start : vm.layout.regions[name].end].tolist()
        for name in REGIONS
    }
    names = [name for name in at.COUNTER_NAMES if "ticks" not in name]
    offsets = [at.COUNTERS + at.COUNTER_NAMES.index(name) for name in names]
    for actor in range(vm.config.actors):
        words[f"actor {actor}"] = np.asarray(vm.actor_words(actor))[offsets].tolist()
    turns.close()
    return words


@pytest.mark.parametrize(
    "watching",
    [
        Watching(ring=100),
        Watching(bounds=True),
        Watching(inject=SELDOM),
        Watching(bounds=True, inject=SELDOM, ring=4000),
    ],
)
def test_the_same_turns_leave_the_same_memory(watching: Watching) -> None:
    expected = left(UNWATCHED)
    assert expected["actor 0"][0] > 1000
    assert left(watching) == expected
