"""progress: nobody works, or waits, for ever: limits are counts, in `limits`.

The counts that grow while nobody gets on are looked at while a run goes on, too: whoever exceeds
them may never come to rest.  Explored runs know more: who waits for ever (deadlock), or would try
again for ever although nothing that he read can change (livelock).
"""

from __future__ import annotations

from harness.oracles import limits
from harness.oracles.snapshot import Snapshot
from mmu.machine import layout as at
from mmu.vm import Vm

NAME = "progress"
PROPERTY = "bounded work between yield checks, bounded retries, no deadlock"
IN_STRESS = "assertions; counts (while it runs, and by audit); watchdog"

# (counter of each actor, what is too much, what happened that often)
ROWS = (
    (at.N_FAULT_RETRIES_MAX, limits.FAULT_RETRIES_MAX, "was sent back {} times in a row"),
    (
        at.N_OBSOLETE_MAX,
        limits.OBSOLETE_FAULTS_MAX,
        "was sent back {} times by one invalid root, which it did not reload",
    ),
    (
        at.N_ELSEWHERE_MAX,
        limits.ELSEWHERE_RETRIES_MAX,
        "was sent back {} times by an invalidation of other gfns",
    ),
    (
        at.N_SPURIOUS_MAX,
        limits.SPURIOUS_FAULTS_MAX,
        "found its page mapped {} times in a row, and the access was not done",
    ),
)


def audit(snapshot: Snapshot) -> list[str]:
    """Actors that did more at a stretch than is promised."""
    vm = snapshot.vm
    problems = []
    levels = max(vm.config.levels, vm.config.levels_max)
    entries = limits.entries_between_checks_max(vm.config.zap_steps, 1 << vm.config.bits, levels)
    for actor in range(vm.config.actors):
        handled = int(vm.actor_words(actor)[at.N_BETWEEN_CHECKS_MAX])
        if entries and handled > entries:
            problems.append(
                f"actor {actor} handled {handled} entries between two yield checks; zap-steps"
                f" {vm.config.zap_steps} promises {entries}"
            )
    return problems + [message for message, _ in exceeded(vm)]


def exceeded(vm: Vm) -> list[tuple[str, int]]:
    """(message, actor) of each count of the same fault tried again that is too high by now."""
    found = []
    for actor in range(vm.config.actors):
        words = vm.actor_words(actor)
        for counter, limit, text in ROWS:
            if int(words[counter]) > limit:
                many = text.format(int(words[counter]))
                found.append((f"a fault of actor {actor} {many}; {limit} is the limit", actor))
    return found
