"""progress: nobody works, or waits, for ever: limits are counts, in `limits`.

Explored runs know more: who waits for ever (deadlock), or would try again for ever although
nothing that he read can change (livelock).
"""

from __future__ import annotations

from harness.oracles import limits
from harness.oracles.snapshot import Snapshot
from mmu.machine import layout as at
from mmu.vm import VmConfig

NAME = "progress"
PROPERTY = "bounded work between yield checks, bounded retries, no deadlock"
IN_STRESS = "counts (audit); watchdog"


def _regions(config: VmConfig) -> int:
    """Level-4 entries that a five-level root may need: a memslot can move by one gfn window."""
    window = 1 << (config.pages - 1).bit_length()
    last = config.gfn_base + window + config.pages - 1
    return (last >> 3 * config.bits) - (config.gfn_base >> 3 * config.bits) + 1


def audit(snapshot: Snapshot) -> list[str]:
    """Actors that did more at a stretch than is promised."""
    vm = snapshot.vm
    problems = []
    config = vm.config
    entries = limits.entries_between_checks_max(
        config.zap_steps, 1 << config.bits, _regions(config)
    )
    for actor in range(config.actors):
        words = vm.actor_words(actor)
        handled, retries = int(words[at.N_BETWEEN_CHECKS_MAX]), int(words[at.N_FAULT_RETRIES_MAX])
        if entries and handled > entries:
            problems.append(
                f"actor {actor} handled {handled} entries between two yield checks; zap-steps"
                f" {config.zap_steps} promises {entries}"
            )
        if retries > limits.FAULT_RETRIES_MAX:
            problems.append(f"a fault of actor {actor} was sent back {retries} times in a row")
    return problems
