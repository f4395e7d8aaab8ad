"""Where other actors' blocks are."""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_ACTOR_BASE, C_ACTOR_STRIDE
from mmu.machine.primitives import config


@kernel
def actor_block(cpu: Cpu, actor: int) -> int:
    """Word index of another actor's block."""
    return config(cpu, C_ACTOR_BASE) + actor * config(cpu, C_ACTOR_STRIDE)
