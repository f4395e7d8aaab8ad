"""What an execution broke: the first fault is kept, with the depth at which it showed."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from harness.explore import block as at
from harness.watch.words import get, put
from mmu.machine.conditions import CONDITIONS
from mmu.machine.cpu import Words
from mmu.machine.events import WARN
from mmu.machine.kernel import array_kernel, inlined_array_kernel

SLOT_WARN = 16  # faults of the engine's own below, the model's conditions from here on


SLOTS_A_WORD = 62  # two words hold a bit for each kind
SLOT_WORDS = 2
SLOTS = SLOTS_A_WORD * SLOT_WORDS


@inlined_array_kernel
def slot_of(fault: int) -> int:
    """A bit number for each kind of fault."""
    return fault - WARN + SLOT_WARN if fault >= WARN else fault


@inlined_array_kernel
def is_among(ctx: int, word: int, fault: int) -> int:
    """Whether the fault's bit is set in the words from `word` on."""
    slot = slot_of(fault)
    return get(ctx, word + slot // SLOTS_A_WORD) >> slot % SLOTS_A_WORD & 1


@array_kernel
def note_fault(ctx: int, fault: int, actor: int, a: int, b: int, c: int) -> None:
    """Keep what an execution breaks first, of what is looked for."""
    if get(ctx, at.H_FAULT) == at.FAULT_NONE and is_among(ctx, at.H_IGNORED, fault) == 0:
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


def fault_bits(*faults: int) -> Words:
    """The words with the bits of these faults: what Python has seen is not reported to it again."""
    words = np.zeros(SLOT_WORDS, np.int64)
    for fault in faults:
        slot = fault - WARN + SLOT_WARN if fault >= WARN else fault
        words[slot // SLOTS_A_WORD] |= 1 << slot % SLOTS_A_WORD
    return words


def ignored_but(oracles: Collection[str]) -> Words:
    """Bits of the faults that an execution survives and that belong to other oracles (H_IGNORED).

    Without oracles everything is looked for.  What ends an execution is never ignored.
    """
    if not oracles:
        return fault_bits()
    chain = () if "transitions" in oracles else (at.FAULT_CHAIN,)
    others = (number for number, (oracle, _) in CONDITIONS.items() if oracle not in oracles)
    return fault_bits(*chain, *(WARN + number for number in others))
