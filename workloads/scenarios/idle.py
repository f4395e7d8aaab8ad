"""An actor that is not needed."""

from __future__ import annotations

from typing import Final

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel

NOTHING: Final = "nothing"  # its name in reproducers


@kernel
def nothing(cpu: Cpu) -> None:
    """What an actor does that is not needed."""
