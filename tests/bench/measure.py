"""The measurements: each runs one configuration once and returns plain numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmu.guest import vcpu_load, vcpu_put
from mmu.hw.vcpu import flush_remote_tlbs
from mmu.machine import layout as at
from mmu.machine.clock import ticks_per_ns
from mmu.machine.cpu import Cpu, Words
from mmu.machine.histogram import bucket_low, quantile
from mmu.spte import ACCESS_READ
from mmu.vm import GFN_BASE, Vm, VmConfig
from tests.bench.kernels import cas_loop, fault_pages, use_pages, write_lock_once
from tests.bench.twin import Twin
from tests.bench.workers import Start, together
from workloads.actors.memstress import memstress_batch
from workloads.errors import RunFailed

CAS_BATCH = 20_000
POPULATE_BATCH = 1 << 16
WORDS_PER_HOST_PAGE = 512
WAIT_PAGES = 1024  # 4 MiB a vCPU
WAIT_PASSES = 64
WAIT_EVERY_S = 0.002

CasLoop = Callable[[Cpu, int, int], None]
Load = Callable[[Cpu], None]
Batch = Callable[[Cpu, int, int, int, int, int, int, int], int]


@dataclass(frozen=True)
class Contestant:
    """One implementation of the same functions."""

    name: str
    cas_loop: CasLoop
    vcpu_load: Load
    memstress_batch: Batch
    hook: int = 0


def model(name: str = "model", hook: int = 0) -> Contestant:
    """The model's own kernels, watched by `hook` (an address) if there is one."""
    return Contestant(name, cas_loop, vcpu_load, memstress_batch, hook)


def in_c(twin: Twin) -> Contestant:
    """The C twin."""
    return Contestant("C", twin.cas_loop, twin.vcpu_load, twin.memstress_batch)


def cas_rate(contestant: Contestant, processes: int, seconds: float) -> float:
    """Successful compare-and-swaps of one word by all processes, in millions a second of CPU time.

    CPU time, here and below, since this machine may have other things to do.
    """
    vm = Vm(VmConfig(vcpus=processes, pages=1))

    def job_of(actor: int) -> Callable[[Start], tuple[int, ...]]:
        def job(start: Start) -> tuple[int, ...]:
            _to_core(actor)
            cpu = vm.cpu(actor)
            contestant.cas_loop(cpu, at.HEADER_BENCH, CAS_BATCH)
            start()
            done = 0
            began = time.thread_time_ns()
            while vm.words[at.STOP_WORD] == 0:
                contestant.cas_loop(cpu, at.HEADER_BENCH, CAS_BATCH)
                done += CAS_BATCH
            return done, time.thread_time_ns() - began

        return job

    results = together([job_of(i) for i in range(processes)], _stopper(vm), seconds)
    vm.close()
    return sum(1e3 * done / max(ns, 1) for done, ns, *_ in results)


def populate_ns(contestant: Contestant, processes: int, pages: int) -> float:
    """ns of CPU time per page, mean over the processes; each writes `pages` 4K pages in order."""
    vm = Vm(VmConfig(vcpus=processes, pages=processes * pages))

    def job_of(actor: int) -> Callable[[Start], tuple[int, ...]]:
        def job(start: Start) -> tuple[int, ...]:
            _to_core(actor)
            cpu = vm.cpu(actor, hook=contestant.hook)
            # What the host's own page faults cost is not the question: every page of the block
            # is mapped before the clock starts.
            int(vm.words[::WORDS_PER_HOST_PAGE].sum())
            contestant.vcpu_load(cpu)
            batch = contestant.memstress_batch
            first = GFN_BASE + actor * pages
            batch(cpu, first, 0, 100, 0, ACCESS_READ, 1, 0)
            start()
            began = time.thread_time_ns()
            while batch(cpu, first, pages, 100, 0, ACCESS_READ, 1, POPULATE_BATCH):
                if vm.words[at.STOP_WORD] != 0:
                    break
            return (time.thread_time_ns() - began,)

        return job

    results = together([job_of(i) for i in range(processes)], _stopper(vm))
    _must_be(vm, processes * pages)
    vm.close()
    return float(np.mean([ns for ns, *_ in results])) / pages


def _to_core(actor: int) -> None:
    """A core for each, as far as there are: two processes on one core contend for nothing."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[actor % len(cores)]})


def _must_be(vm: Vm, mapped: int) -> None:
    """A figure of a run that went wrong is no figure."""
    found = int(vm.words[at.STAT_PAGES_4K])
    if found != mapped:
        raise RunFailed(f"{found} pages are mapped after the run, not {mapped}")
    for actor in range(vm.config.actors):
        if vm.actor_words(actor)[at.VIOLATIONS] != 0:
            raise RunFailed(f"actor {actor} reported a violation")


@dataclass(frozen=True)
class Waits:
    """How long one actor waited for others, in microseconds."""

    count: int
    p50: float
    p99: float
    longest: float


def flush_waits(vcpus: int, seconds: float) -> Waits:
    """Remote flushes of one page, about every 2 ms, while all vCPUs read and write."""
    return _waits(vcpus, seconds, use_pages, _flush, at.H_FLUSH)


def writer_waits(vcpus: int, seconds: float) -> Waits:
    """mmu_lock taken for write, about every 2 ms, while all vCPUs fault."""
    return _waits(vcpus, seconds, fault_pages, _write_lock, at.H_WRITE_LOCK)


def _flush(cpu: Cpu, turn: int, vcpus: int) -> None:
    flush_remote_tlbs(cpu, GFN_BASE + turn % vcpus * WAIT_PAGES, 0)


def _write_lock(cpu: Cpu, turn: int, vcpus: int) -> None:
    write_lock_once(cpu)


def _waits(
    vcpus: int,
    seconds: float,
    guest: Callable[[Cpu, int, int, int], None],
    disturb: Callable[[Cpu, int, int], None],
    histogram: int,
) -> Waits:
    vm = Vm(VmConfig(vcpus=vcpus, pages=vcpus * WAIT_PAGES))

    def vcpu_of(actor: int) -> Callable[[Start], tuple[int, ...]]:
        def job(start: Start) -> tuple[int, ...]:
            cpu = vm.cpu(actor)
            first = GFN_BASE + actor * WAIT_PAGES
            vcpu_load(cpu)
            guest(cpu, first, WAIT_PAGES, 1)
            vcpu_put(cpu)
            start()
            vcpu_load(cpu)
            while vm.words[at.STOP_WORD] == 0:
                guest(cpu, first, WAIT_PAGES, WAIT_PASSES)
            # Nobody waits for a vCPU that is outside the guest.
            vcpu_put(cpu)
            return ()

        return job

    def boss(start: Start) -> tuple[int, ...]:
        cpu = vm.cpu(vcpus)
        start()
        turn = 0
        while vm.words[at.STOP_WORD] == 0:
            disturb(cpu, turn, vcpus)
            turn += 1
            time.sleep(WAIT_EVERY_S)
        return (turn,)

    together([*(vcpu_of(i) for i in range(vcpus)), boss], _stopper(vm), seconds)
    words = vm.actor_words(vcpus)
    offset = int(vm.words[at.C_HISTOGRAMS]) + histogram * at.HISTOGRAM_WORDS
    waits = _summary(words[offset : offset + at.HISTOGRAM_WORDS])
    vm.close()
    return waits


def _summary(buckets: Words) -> Waits:
    if not buckets.any():
        raise RunFailed("nobody waited at all")
    ticks_per_us = ticks_per_ns() * 1e3
    return Waits(
        count=int(buckets.sum()),
        p50=quantile(buckets, 0.5) / ticks_per_us,
        p99=quantile(buckets, 0.99) / ticks_per_us,
        longest=bucket_low(int(np.flatnonzero(buckets)[-1]) + 1) / ticks_per_us,
    )


def _stopper(vm: Vm) -> Callable[[], None]:
    def stop() -> None:
        vm.words[at.STOP_WORD] = 1

    return stop
