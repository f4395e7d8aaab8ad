"""How many executions a second exploration does, and whether its memory stays flat.

The programs are 2 and 3 actors with 20 fetch-adds each over four words.  The reference beside
them is the same steps without any scheduler: the actors' kernels called one after the other.
"""

from __future__ import annotations

import time

import numpy as np
import psutil

from harness.explore.explorer import Bounds, Explorer
from harness.explore.world import World
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import fetch_add
from workloads.scenario import Actor, Scenario

STRATEGIES = ("dpor", "random", "optimal", "pos", "urw", "surw")
ADDS = 20
WORDS = 4


@kernel
def add_to_words(cpu: Cpu) -> None:
    """20 fetch-adds over four words."""
    for i in range(ADDS):
        fetch_add(cpu, (i + cpu.id) % WORDS, 1)


@kernel
def repeat_adds(cpu: Cpu, times: int) -> None:
    """The same steps, nobody watching."""
    for _ in range(times):
        add_to_words(cpu)


def scenario(actors: int) -> Scenario:
    """So many actors that add."""
    bodies = tuple(Actor(f"actor {i}", add_to_words) for i in range(actors))
    return Scenario("adds", "fetch-adds over four words", bodies, words=(f"word[{WORDS}]",))


def rate(strategy: str, actors: int, seconds: float) -> float:
    """Complete executions per second of CPU time, on one core."""
    explorer = Explorer(scenario(actors), strategy, Bounds(seconds=seconds))
    began = time.process_time()
    result = explorer.run()
    used = time.process_time() - began
    explorer.close()
    return result.complete / used


def plain_rate(actors: int, times: int = 100_000) -> float:
    """The reference: as many executions without a scheduler."""
    world = World(scenario(actors))
    cpu = world.cpu(0)
    began = time.process_time()
    repeat_adds(cpu, times * actors)
    return times / (time.process_time() - began)


def memory_growth(executions: int) -> tuple[int, int]:
    """Resident bytes before and after so many executions of three actors under dpor."""
    explorer = Explorer(scenario(3), "dpor", Bounds(executions=executions))
    explorer.engine.run(0)
    process = psutil.Process()
    sizes = [process.memory_info().rss]

    def look(_: object) -> bool:
        sizes.append(process.memory_info().rss)
        return True

    result = explorer.run(look)
    assert result.executions >= executions
    sizes.append(process.memory_info().rss)
    explorer.close()
    tenth = max(len(sizes) // 10, 1)
    return int(np.median(sizes[:tenth])), int(np.median(sizes[-tenth:]))
