"""Features of a torture run, each switched on or off by its seed (swarm testing).

A run that does everything does each thing seldom, and some bugs show only while another feature is
quiet.  So a seed switches about half of the features off.  Each feature has a sequence of its own:
a new feature changes none of the others' choices.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from hashlib import blake2b

# What a run can do besides reading and writing; a sentence each.
FEATURES = {
    "execute": "vCPUs execute pages too, which splits huge pages (NX)",
    "mmio": "vCPUs access gfns that no memslot shows",
    "prefault": "vCPUs map pages ahead of their accesses",
    "roots": "vCPUs load other roots: another level, another address space",
    "slots": "memslots in use are deleted, created, moved: all roots are invalidated",
    "reclaim": "the host swaps out or moves pages that were touched a moment ago",
    "ksm": "the host write-protects pages",
    "thp": "the host splits and collapses huge pages",
    "ageing": "the host looks which pages are old",
    "nx-recovery": "huge pages that an execution split may come back",
    "tracking": "somebody wants to see the writes of single gfns for a while",
    "migration": "the memory is copied again and again with the help of the dirty log",
    "rebirth": "the VM dies and is made anew on the same memory, several times",
    "ad": "the hardware keeps A and D bits",
    "pml": "... and logs pages that become dirty",
}
# What makes no sense without another feature, or without huge pages.
NEEDS = {"nx-recovery": "execute", "pml": "ad"}
HUGE_ONLY = ("thp", "nx-recovery")


def switched_on(seed: int, feature: str) -> bool:
    """Whether the seed has the feature on: a fair coin, the same wherever it is asked."""
    return bool(blake2b(f"{seed} {feature}".encode(), digest_size=1).digest()[0] & 1)


def choose(
    seed: int, on: Collection[str], off: Collection[str], huge_pages: bool
) -> Mapping[str, bool]:
    """{feature: on?}: as the seed says, but for those that the user has named."""
    chosen: dict[str, bool] = {}
    for feature in FEATURES:
        wanted = feature in on or (feature not in off and switched_on(seed, feature))
        possible = huge_pages or feature not in HUGE_ONLY
        needed = chosen.get(NEEDS.get(feature, ""), True)
        chosen[feature] = wanted and possible and needed
    return chosen


def pick(seed: int, name: str, values: tuple[str, ...]) -> str:
    """One of the values, by the seed and the name."""
    return values[blake2b(f"{seed} {name}".encode(), digest_size=2).digest()[1] % len(values)]
