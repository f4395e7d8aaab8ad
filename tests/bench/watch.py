"""What watching costs in torture: the same turns of the same actors, with one watch or another.

In a real torture run the machine decides how often vCPUs fault between two invalidations, so two
runs never do the same work.  Here one process plays all actors in turn, from fixed seeds: the work
is equal to the last step, and nobody waits for anybody.
"""

from __future__ import annotations

import argparse
import time

from harness.watch.stress import StressWatch, Watching
from harness.watch.words import compiled_hook, ticks
from mmu.guest import vcpu_load, vcpu_put
from mmu.machine import layout as at
from mmu.machine.events import CLOCK, GO
from mmu.vm import Vm
from workloads import torture
from workloads.actors.memstress import random_seed
from workloads.actors.turmoil import guest_turn, host_turn, slots_turn
from workloads.errors import RunFailed

OPTIONS = ("-v", "2", "--zap-by", "caller")
# As in a run of 2 vCPUs on 2 cores: so many accesses between two changes of memslots.
GUEST_TURNS = 8
EMPTY = "empty hook"
UNWATCHED = Watching()


def say_go(ctx: int, actor: int, kind: int, a: int, b: int, c: int) -> int:
    """The least that a hook can do."""
    return ticks() if kind == CLOCK else GO


def turns_ns(watching: Watching | str, rounds: int) -> float:
    """ns of CPU time for a round of turns of all actors."""
    parser = argparse.ArgumentParser()
    torture.add_arguments(parser)
    args = parser.parse_args(OPTIONS)
    plan = torture.plan(args)
    vm = Vm(plan.vm)
    # Its memory must live as long as addresses in it are in use.
    watch = StressWatch(vm, watching) if isinstance(watching, Watching) and watching else None
    hook = compiled_hook(say_go) if watching == EMPTY else 0
    cpus = [
        vm.cpu(actor, hook=watch.hook, ctx=watch.ctx(actor)) if watch else vm.cpu(actor, hook=hook)
        for actor in range(vm.config.actors)
    ]
    for actor, cpu in enumerate(cpus):
        cpu.words[cpu.own + at.RANDOM] = random_seed(1000 * actor + 1)
    config = vm.config
    pages, window = config.pages, 1 << (config.pages - 1).bit_length()
    (_, (main, _), (spare, _)) = config.memslots()
    *vcpus, vmm, host = cpus
    began = 0
    for number in range(rounds + 1):
        if number == 1:  # the first one pays for what is touched for the first time
            began = time.thread_time_ns()
        for cpu in vcpus:
            vcpu_load(cpu)
            for _ in range(GUEST_TURNS):
                guest_turn(cpu, config.gfn_base, pages, config.levels, args.root_switches)
            vcpu_put(cpu)
        host_turn(host, pages)
        slots_turn(vmm, 1, main, window, 2, spare)
    spent = time.thread_time_ns() - began
    if any(vm.actor_words(actor)[at.VIOLATIONS] for actor in range(config.actors)):
        raise RunFailed("an actor reported a violation")
    del cpus, watch
    vm.close()
    return spent / rounds
