"""locks: asserted modes, one order, one writer, nothing that may sleep under a spinning lock.

Assertions in the model report while the run goes on; at rest nobody may hold or wait for anything.
"""

from __future__ import annotations

from harness.oracles.sentences import held_text
from harness.oracles.snapshot import Snapshot
from mmu.hw.vcpu import MODE_MASK, OUTSIDE_GUEST_MODE
from mmu.machine import layout as at

NAME = "locks"
PROPERTY = "modes, order, one writer; nothing that may sleep under RCU; nothing held at rest"
IN_STRESS = "always; audit"

_WORDS = {
    "mmu_lock": at.MMU_LOCK,
    "tdp_mmu_pages_lock": at.PAGES_LOCK,
    "slots_lock": at.SLOTS_LOCK,
    "the page allocator's lock": at.POOL_LOCK,
    "mmap_lock": at.HOST_LOCK,
}


def audit(snapshot: Snapshot) -> list[str]:
    """Locks and sections that outlived their users."""
    vm = snapshot.vm
    problems = []
    for name, word in _WORDS.items():
        if int(vm.words[word]) or int(vm.words[word + at.OWNER]):
            problems.append(f"{name} is held at rest (word {int(vm.words[word]):#x})")
        if int(vm.words[word + at.SLEEPERS]):
            problems.append(f"{int(vm.words[word + at.SLEEPERS])} actors sleep for {name} at rest")
    if int(vm.words[at.WAITERS]):
        problems.append(f"the drain hint counts {int(vm.words[at.WAITERS])} waiters at rest")
    for actor in range(vm.config.actors):
        words = vm.actor_words(actor)
        if int(words[at.HELD]):
            problems.append(f"actor {actor} holds {held_text(int(words[at.HELD]))} at rest")
        if int(words[at.RCU_SECTION]) & 1:
            problems.append(f"actor {actor} announces an RCU section at rest")
        if int(words[at.VCPU_STATE]) & MODE_MASK != OUTSIDE_GUEST_MODE:
            problems.append(f"actor {actor} is in guest mode at rest")
    return problems
