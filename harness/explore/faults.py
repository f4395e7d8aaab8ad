"""What an execution broke: the first fault is kept, with the depth at which it showed."""

from __future__ import annotations

from collections.abc import Collection

from harness.explore import block as at
from harness.watch.words import get, put
from mmu.machine.conditions import CONDITIONS
from mmu.machine.events import WARN
from mmu.machine.kernel import array_kernel, inlined_array_kernel

SLOT_WARN = 16  # faults of the engine's own below, the model's conditions from here on


@inlined_array_kernel
def fault_slot(fault: int) -> int:
    """A bit number for each kind of fault: what Python has seen is not reported to it again."""
    return fault - WARN + SLOT_WARN if fault >= WARN else fault


@array_kernel
def note_fault(ctx: int, fault: int, actor: int, a: int, b: int, c: int) -> None:
    """Keep what an execution breaks first, of what is looked for."""
    ignored = get(ctx, at.H_IGNORED) >> fault_slot(fault) & 1
    if get(ctx, at.H_FAULT) == at.FAULT_NONE and ignored == 0:
        put(ctx, at.H_FAULT, fault)
        put(ctx, at.H_FAULT_ACTOR, actor)
        put(ctx, at.H_FAULT_DEPTH, get(ctx, at.H_DEPTH))
        put(ctx, at.H_FAULT_A, a)
        put(ctx, at.H_FAULT_B, b)
        put(ctx, at.H_FAULT_C, c)


@array_kernel
def break_off(ctx: int, fault: int, actor: int, a: int, b: int) -> None:
    """The execution cannot go on."""
    note_fault(ctx, fault, actor, a, b, 0)
    put(ctx, at.H_STATUS, at.STATUS_BROKEN)


def ignored_but(oracles: Collection[str]) -> int:
    """Bits of the faults that an execution survives and that belong to other oracles (H_IGNORED).

    Without oracles everything is looked for.  What ends an execution is never ignored.
    """
    if not oracles:
        return 0
    bits = 0 if "transitions" in oracles else 1 << at.FAULT_CHAIN
    for condition, (oracle, _) in CONDITIONS.items():
        if oracle not in oracles:
            bits |= 1 << condition + SLOT_WARN
    return bits
