"""The end of a VM as a part of the monitor: everything goes, and nothing may be left."""

from __future__ import annotations

from mmu.machine.layout import ROOTS, STAT_PAGES_1G, STAT_PAGES_2M, STAT_PAGES_4K, STAT_TABLES
from mmu.vm import Vm
from mmu.zap_all import destroy_vm
from workloads.errors import RunFailed
from workloads.plan import Actor

_MUST_BE_GONE = {
    "4K mappings": STAT_PAGES_4K,
    "2M mappings": STAT_PAGES_2M,
    "1G mappings": STAT_PAGES_1G,
    "linked tables": STAT_TABLES,
}


def check_nothing_left(vm: Vm) -> None:
    """Raise RunFailed unless a VM that was destroyed maps nothing and has no root."""
    left = [f"{int(vm.words[word])} {what}" for what, word in _MUST_BE_GONE.items()]
    wrong = [text for text in left if not text.startswith("0 ")]
    if int(vm.words[ROOTS]):
        wrong.append("a root on the list")
    if wrong:
        raise RunFailed(f"the VM was destroyed, but it still has {', '.join(wrong)}")


def destroy(actor: Actor) -> None:
    """Destroy the VM, every vCPU being at rest; a leak shows here and in the audits that follow."""
    destroy_vm(actor.cpu)
    if not actor.stopping():
        check_nothing_left(actor.vm)
