"""What the words of a VM are called, in stories and in reproducers."""

from __future__ import annotations

from mmu.vm import Vm


def vm_word_name(vm: Vm, word: int) -> str:
    """A name that a kernel engineer understands and that survives a change of the layout."""
    for region in vm.layout.regions.values():
        if region.start <= word < region.end:
            return f"{region.name}[{word - region.start}]"
    return f"header[{word}]"
