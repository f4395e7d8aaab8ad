"""What an execution broke: the first fault is kept, with the depth at which it showed."""

from __future__ import annotations

from harness.explore import block as at
from harness.watch.words import get, put
from mmu.machine.events import WARN
from mmu.machine.kernel import array_kernel, inlined_array_kernel

SLOT_WARN = 16  # faults of the engine's own below, the model's conditions from here on


@array_kernel
def note_fault(ctx: int, fault: int, actor: int, a: int, b: int, c: int) -> None:
    """Keep what an execution breaks first."""
    if get(ctx, at.H_FAULT) == at.FAULT_NONE:
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


@inlined_array_kernel
def fault_slot(fault: int) -> int:
    """A bit number for each kind of fault: what Python has seen is not reported to it again."""
    return fault - WARN + SLOT_WARN if fault >= WARN else fault
