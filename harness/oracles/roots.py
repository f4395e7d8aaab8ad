"""roots: references equal holders, none comes back from 0, nobody works on a dying root.

The model asserts what can be seen at each get and put; at rest the references of each listed root
are compared with those who can hold one: none has nobody.  Of each role there is one valid root:
whoever makes one has looked again under the lock that guards the list (tdp_mmu_alloc_root, 6.9).
"""

from __future__ import annotations

from harness.oracles.snapshot import Root, Snapshot
from mmu.machine import layout as at

NAME = "roots"
PROPERTY = "references equal holders; zapped once, freed once; only zappers use an invalid root"
IN_STRESS = "assertions in get and put; audit"


def audit(snapshot: Snapshot) -> list[str]:
    """References that nobody holds, roots with none, two of a role, holders of what is no root."""
    vm = snapshot.vm
    used = [int(vm.actor_words(vcpu)[at.VCPU_ROOT]) for vcpu in range(vm.config.vcpus)]
    problems = [
        f"root page {root.page} has {root.references} references, {text} hold one"
        for root in snapshot.roots
        for count, text in [_holders(snapshot, root, used)]
        if root.references != count
    ]
    problems += [
        f"root page {root.page} is on the list, and nobody is left to zap or to free it"
        for root in snapshot.roots
        if root.references == 0
    ]
    valid = [root.role for root in snapshot.roots if not root.invalid]
    problems += [
        f"{valid.count(role)} valid roots have the role {role:#x}: who made the last did not look"
        for role in sorted(set(valid))
        if valid.count(role) > 1
    ]
    listed = {root.handle for root in snapshot.roots}
    problems += [
        f"vCPU {vcpu} uses root page {handle >> 3}, which is not on the list"
        for vcpu, handle in enumerate(used)
        if handle and handle not in listed
    ]
    return problems


def _holders(snapshot: Snapshot, root: Root, used: list[int]) -> tuple[int, str]:
    """How many references there should be, and who holds them."""
    vcpus = used.count(root.handle)
    owned = snapshot.vm.config.root_life == "owned" and not root.invalid
    parts = [f"{vcpus} vCPUs"]
    parts += ["the TDP MMU"] * owned + ["the zapper"] * root.scheduled
    return vcpus + owned + root.scheduled, ", ".join(parts)
