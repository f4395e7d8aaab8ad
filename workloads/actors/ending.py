"""The end of a VM as a part of the monitor: everything goes, and nothing may be left."""

from __future__ import annotations

from mmu.machine.futex import raw_load
from mmu.machine.layout import (
    ROOTS,
    STAT_PAGES_1G,
    STAT_PAGES_2M,
    STAT_PAGES_4K,
    STAT_TABLES,
    ZAP_FINISHED,
    ZAP_QUEUED,
)
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
    cpu = actor.cpu
    destroy_vm(cpu)
    # The last roots to be invalidated are the worker's too, if it was faster than we were.
    by_worker = actor.vm.config.zap_by == "worker"
    if by_worker and not actor.wait_until(
        lambda: raw_load(cpu, ZAP_FINISHED) >= raw_load(cpu, ZAP_QUEUED), ZAP_FINISHED
    ):
        return
    if not actor.stopping():
        check_nothing_left(actor.vm)
