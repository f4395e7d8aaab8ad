"""The zap worker's part: a process of its own that zaps what others have scheduled."""

from __future__ import annotations

from collections.abc import Mapping

from mmu.machine.futex import raw_load
from mmu.machine.layout import ZAP_QUEUED
from mmu.zap_worker import zap_worker_turn
from workloads.plan import ZAP_WORKER, Actor, Part


def zap_worker(actor: Actor) -> None:
    """Zap whatever is queued, sleep, until the run stops."""
    while True:
        done = zap_worker_turn(actor.cpu)
        if not actor.wait_until(lambda: raw_load(actor.cpu, ZAP_QUEUED) != done, ZAP_QUEUED):  # noqa: B023 - asked before `done` changes
            return


def worker_service(zap_by: str) -> Mapping[str, Part]:
    """The services of a plan whose policy says who zaps."""
    return {ZAP_WORKER: zap_worker} if zap_by == "worker" else {}
