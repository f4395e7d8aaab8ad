"""userfaultfd: host pages that are not there until a handler in user space installs them.

A vCPU's thread that needs one sleeps in its host fault (`mmu.host.mapping.ask_user`), its request
in a word of its own.  Whoever serves it fills the page, or finds it filled already, maps it and
wakes the vCPU.  What was not mapped before was in nobody's tables, so no notifier has to know.
Pages are host pages in the frames that they had at boot; they come in units of the backing page.
"""

from __future__ import annotations

from mmu.host.frames import (
    MAPPED,
    MAPPING_LEVEL_SHIFT,
    MAPPING_USERFAULT,
    MARK_DIRTY,
    VALUE_SHIFT,
    boot_mapping,
)
from mmu.host.mapping import mapping_of, set_mapping
from mmu.machine.actors import actor_block
from mmu.machine.blocking import wake
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import C_BACKING_LEVEL, C_FRAMES, C_MARKS, USERFAULT
from mmu.machine.lock import host_lock, host_unlock
from mmu.machine.primitives import config, fetch_add, fetch_or, read_once, store_release
from mmu.tdp_iter import pages_of


@kernel
def register_userfault(cpu: Cpu, first: int, end: int) -> None:
    """UFFDIO_REGISTER for host pages [first, end), before anybody has touched them."""
    level = config(cpu, C_BACKING_LEVEL)
    host_lock(cpu)
    for page in range(first, end):
        set_mapping(cpu, page, MAPPED | MAPPING_USERFAULT | level << MAPPING_LEVEL_SHIFT)
    host_unlock(cpu)


@kernel
def install_userfault(cpu: Cpu, page: int, value: int) -> int:
    """UFFDIO_COPY of pages that hold `value`, with 0 UFFDIO_CONTINUE; 0: it is there (EEXIST).

    The whole backing page that holds `page` comes at once.
    """
    pages = pages_of(cpu, config(cpu, C_BACKING_LEVEL))
    first = page & ~(pages - 1)
    host_lock(cpu)
    missing = int(mapping_of(cpu, page) & MAPPING_USERFAULT != 0)
    if missing:
        # User space has written it: reclaim must not drop it.
        fetch_or(cpu, config(cpu, C_MARKS) + first, MARK_DIRTY)
        for each in range(first, first + pages):
            fetch_add(cpu, config(cpu, C_FRAMES) + each, value << VALUE_SHIFT)
            set_mapping(cpu, each, boot_mapping(cpu, each))
    host_unlock(cpu)
    return missing


@kernel
def answer_userfault(cpu: Cpu, vcpu: int) -> None:
    """The page that the vCPU asked for is there: its thread goes on (UFFDIO_WAKE)."""
    word = actor_block(cpu, vcpu) + USERFAULT
    store_release(cpu, word, 0)
    wake(cpu, word)


@kernel
def serve_userfault(cpu: Cpu, vcpu: int, value: int) -> int:
    """Install what the vCPU has asked for; whether it was missing still.  The vCPU sleeps on."""
    word = actor_block(cpu, vcpu) + USERFAULT
    return install_userfault(cpu, read_once(cpu, word) - 1, value)
