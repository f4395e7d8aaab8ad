"""Compiled code and its interpreted twin do the same, step for step, also when they are stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.watch.recorder import Recorder
from mmu import host_changes as host
from mmu.dirty_log import disable_dirty_log, enable_dirty_log, get_dirty_log
from mmu.entry import enter_guest
from mmu.guest import guest_access, quiet_point, vcpu_load, vcpu_put
from mmu.hw.vcpu import count_exit, flush_remote_tlbs, leave_guest
from mmu.machine import blocking, events, primitives
from mmu.machine.cpu import Cpu
from mmu.machine.twin import interpreted
from mmu.policy import ROOT_LIFE, ZAP_STEPS
from mmu.reload import switch_root
from mmu.slot_changes import create_memslot, delete_memslot
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from mmu.vm import Vm, VmConfig
from mmu.zap_all import destroy_vm
from workloads.actors.memstress import memstress_batch

VMM = -1  # the actor behind the vCPUs
READ, WRITE, EXECUTE = ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE

Op = tuple[int, Callable[..., Any], tuple[int, ...]]  # actor, kernel, arguments
Substitutes = Mapping[Callable[..., Any], Callable[..., Any]]


class Machine:
    """One VM whose actors take turns in this process, all of them recorded."""

    def __init__(self, vm: Vm, twin: bool, substitutes: Substitutes | None = None) -> None:
        self.vm = vm
        self.recorder = Recorder(vm.words)
        self.twin = twin
        self.substitutes = substitutes
        self.inside: int | None = None  # the vCPU in guest mode: it would block every flush
        self.cpus = [self._cpu(actor) for actor in range(vm.config.actors)]

    def _cpu(self, actor: int) -> Cpu:
        if self.twin:
            return self.vm.cpu(actor, observer=self.recorder.observer(actor))
        return self.vm.cpu(actor, hook=self.recorder.hook, ctx=self.recorder.ctx)

    def call(self, kernel: Callable[..., Any], actor: int, *arguments: int) -> int:
        function = interpreted(kernel, self.substitutes) if self.twin else kernel
        return int(function(self.cpus[actor], *arguments) or 0)

    def load(self) -> None:
        for vcpu in range(self.vm.config.vcpus):
            self.call(vcpu_load, vcpu)
            self.call(leave_guest, vcpu, 0)

    def turn(self, op: Op) -> int:
        actor, kernel, arguments = op
        number = self.vm.config.vcpus if actor == VMM else actor
        if self.inside not in (None, number):
            self.call(leave_guest, self.inside, 0)
            self.inside = None
        if actor != VMM and self.inside is None:
            self.call(enter_guest, number)
            self.inside = number
        if kernel is vcpu_put:
            self.inside = None
        return self.call(kernel, number, *arguments)


@contextmanager
def both(
    config: VmConfig, substitutes: Substitutes | None = None
) -> Iterator[tuple[Machine, Machine]]:
    vms = [Vm(config), Vm(config)]
    try:
        yield Machine(vms[0], twin=False), Machine(vms[1], twin=True, substitutes=substitutes)
    finally:
        for vm in vms:
            # A failed assertion's traceback keeps views; the mapping goes with it.
            with suppress(BufferError):
                vm.close()


def check_equal(compiled: Machine, twin: Machine) -> None:
    rows, rows_twin = compiled.recorder.rows(), twin.recorder.rows()
    for number, (one, other) in enumerate(zip(rows, rows_twin, strict=False)):
        assert one.tolist() == other.tolist(), f"call {number}: actor, kind, a, b, c, value"
    assert len(rows) == len(rows_twin)
    different = np.flatnonzero(compiled.vm.words != twin.vm.words)
    assert different.tolist() == []
    assert compiled.recorder.wild == 0


def check_sequence(
    config: VmConfig,
    ops: Sequence[Op],
    substitutes: Substitutes | None = None,
    stop_at: int = 0,
) -> None:
    with both(config, substitutes) as (compiled, twin):
        for machine in (compiled, twin):
            machine.recorder.restart(stop_at=stop_at)
            machine.load()
        for op in ops:
            assert compiled.turn(op) == twin.turn(op), op
        check_equal(compiled, twin)


@st.composite
def configs(draw: st.DrawFn) -> VmConfig:
    bits, levels = draw(st.sampled_from([(1, 3), (2, 3), (3, 3), (1, 4), (2, 4)]))
    span = 1 << bits * levels
    pages = draw(st.sampled_from([span, span // 2, span - 1, min(span, 11)]))
    return VmConfig(
        vcpus=draw(st.integers(1, 2)),
        pages=pages,
        slots=draw(st.integers(1, 2)),
        backing_level=draw(st.integers(1, 3)),
        huge_split=draw(st.sampled_from(["zap", "fault", "eager"])),
        pml=draw(st.booleans()),
        nx_huge_pages=draw(st.booleans()),
        flush=draw(st.sampled_from(["range", "all"])),
        tick_ms=draw(st.sampled_from([4.0, 0.0])),  # 0: every walk yields wherever it may
        quiet_us=draw(st.sampled_from([100.0, 0.0])),
        sample=draw(st.sampled_from([0, 2])),
        spare_frames=3,
        roots=3,
        root_life=draw(st.sampled_from(sorted(ROOT_LIFE))),
        zap_steps=draw(st.sampled_from(sorted(ZAP_STEPS))),
        rcu_batch=draw(st.sampled_from([1, 20])),
        gfn_base=0,
        bits=bits,
        levels=levels,
        tlb_bits=(2, 1, 1, 1),
        pml_size=draw(st.integers(2, 4)),
    )


def host_operations(config: VmConfig) -> st.SearchStrategy[Op]:
    """Of pages of slots only: the last ones may belong to none."""
    pages = st.integers(0, sum(size for _, size in config.memslots()) - 1)
    of_one = [host.move_page, host.swap_out, host.write_protect_page]
    of_one += [host.split_huge_mapping, host.collapse_huge_mapping]
    return st.one_of(
        st.tuples(st.just(VMM), st.sampled_from(of_one), st.tuples(pages)),
        st.tuples(st.just(VMM), st.just(host.discard_pages), st.tuples(pages, pages)),
    )


@st.composite
def sequences(draw: st.DrawFn) -> tuple[VmConfig, list[Op]]:
    config = draw(configs())
    gfns = st.integers(0, (1 << config.bits * config.levels) - 1)
    vcpus = st.integers(0, config.vcpus - 1)
    slots = st.tuples(st.integers(0, config.slots - 1))
    places = [(slot, base) for slot, (base, _) in enumerate(config.memslots())]
    access = st.tuples(gfns, st.sampled_from([READ, WRITE, WRITE, EXECUTE]))
    batch = st.tuples(
        st.just(0),
        st.integers(1, config.pages),
        st.sampled_from([0, 30, 100]),
        st.integers(0, 1),
        st.just(READ),
        st.integers(1, 2),
        st.integers(1, 40),
    )
    accesses = st.tuples(vcpus, st.just(guest_access), access)
    ops = st.one_of(
        accesses,
        accesses,
        accesses,
        st.tuples(vcpus, st.just(memstress_batch), batch),
        host_operations(config),
        st.tuples(vcpus, st.just(switch_root), st.tuples(st.sampled_from([0, 8 | config.levels]))),
        st.tuples(st.just(VMM), st.just(delete_memslot), slots),
        st.tuples(st.just(VMM), st.just(create_memslot), st.sampled_from(places)),
        st.tuples(vcpus, st.sampled_from([quiet_point, vcpu_put]), st.just(())),
        st.tuples(
            st.just(VMM),
            st.sampled_from([enable_dirty_log, get_dirty_log, get_dirty_log, disable_dirty_log]),
            slots,
        ),
        st.tuples(
            st.just(VMM),
            st.just(flush_remote_tlbs),
            st.tuples(gfns, st.sampled_from([0, 1, 3, 62, 63])),
        ),
    )
    return config, draw(st.lists(ops, min_size=1, max_size=14))


TINY = VmConfig(
    vcpus=2,
    pages=8,
    backing_level=2,
    sample=2,
    gfn_base=0,
    bits=1,
    levels=3,
    tlb_bits=(2, 1, 1, 1),
    pml_size=2,
)


def tiny(**changes: Any) -> VmConfig:
    return VmConfig(**{**vars(TINY), **changes})


# What the properties below must not depend on luck to reach.
WALK_THROUGH: list[Op] = [
    (0, guest_access, (3, READ)),
    (1, guest_access, (2, WRITE)),
    (0, guest_access, (3, EXECUTE)),
    (VMM, enable_dirty_log, (0,)),
    (0, guest_access, (3, WRITE)),
    (0, guest_access, (4, WRITE)),
    (0, guest_access, (5, WRITE)),
    (1, guest_access, (6, WRITE)),
    (1, vcpu_put, ()),
    (VMM, get_dirty_log, (0,)),
    (1, guest_access, (3, WRITE)),
    (0, memstress_batch, (0, 8, 50, 1, READ, 1, 20)),
    (0, quiet_point, ()),
    (VMM, get_dirty_log, (0,)),
    (VMM, disable_dirty_log, (0,)),
]


@settings(max_examples=250)
@given(sequences())
@example((tiny(huge_split="zap"), WALK_THROUGH))
@example((tiny(huge_split="fault", pml=False), WALK_THROUGH))
@example((tiny(huge_split="eager", tick_ms=0.0), WALK_THROUGH))
@example((tiny(huge_split="fault", backing_level=3, levels=4, pages=16), WALK_THROUGH))
def test_the_twin_takes_the_same_steps(case: tuple[VmConfig, list[Op]]) -> None:
    check_sequence(*case)


def _fetch_or_forgets(cpu: Cpu, addr: int, bits: int) -> int:
    return 0 if primitives.observe(cpu, events.FETCH_OR, addr, bits) else int(cpu.words[addr])


def _fetch_add_returns_new(cpu: Cpu, addr: int, amount: int) -> int:
    return primitives.fetch_add(cpu, addr, amount) + amount


def _silent_tally(cpu: Cpu, offset: int, amount: int) -> None:
    pass


def _silent_emit(cpu: Cpu, tracepoint: int, a: int, b: int, c: int) -> None:
    pass


def _lock_without_a_step(cpu: Cpu, addr: int, mask: int, value: int, amount: int) -> None:
    cpu.words[addr] += amount


@pytest.mark.parametrize(
    ("original", "other"),
    [
        (primitives.fetch_or, _fetch_or_forgets),
        (primitives.fetch_add, _fetch_add_returns_new),
        (primitives.tally, _silent_tally),
        (primitives.emit, _silent_emit),
        (blocking.acquire_when, _lock_without_a_step),
        (count_exit, lambda cpu: None),
    ],
)
def test_a_twin_that_differs_is_noticed(
    original: Callable[..., Any], other: Callable[..., Any]
) -> None:
    config = tiny(huge_split="fault")
    check_sequence(config, WALK_THROUGH, {})
    with pytest.raises(AssertionError):
        check_sequence(config, WALK_THROUGH, {original: other})


LOGGED: list[Op] = [
    (0, guest_access, (3, WRITE)),
    (1, guest_access, (2, READ)),
    (VMM, enable_dirty_log, (0,)),
]
WRITTEN: list[Op] = [*LOGGED, (0, guest_access, (3, WRITE)), (1, guest_access, (5, WRITE))]
STOP_CASES: dict[str, tuple[VmConfig, list[Op], Op]] = {
    "map": (tiny(backing_level=1), [], (0, guest_access, (3, READ))),
    "split": (tiny(huge_split="fault"), LOGGED, (0, guest_access, (3, WRITE))),
    "split for NX": (
        tiny(huge_split="fault"),
        [(0, guest_access, (3, READ))],
        (0, guest_access, (3, EXECUTE)),
    ),
    "zap": (tiny(huge_split="zap"), LOGGED, (0, guest_access, (3, WRITE))),
    "fast fault": (tiny(pml=False), WRITTEN[:3], (0, guest_access, (3, WRITE))),
    "enable, eager": (
        tiny(huge_split="eager"),
        [(0, guest_access, (3, WRITE)), (0, guest_access, (5, READ))],
        (VMM, enable_dirty_log, (0,)),
    ),
    "enable, yielding": (
        tiny(huge_split="eager", tick_ms=0.0),
        [(0, guest_access, (3, WRITE)), (0, guest_access, (5, READ))],
        (VMM, enable_dirty_log, (0,)),
    ),
    "harvest": (tiny(), WRITTEN, (VMM, get_dirty_log, (0,))),
    "harvest without PML": (tiny(pml=False), WRITTEN, (VMM, get_dirty_log, (0,))),
    "disable": (tiny(), WRITTEN, (VMM, disable_dirty_log, (0,))),
    "flush": (tiny(), WRITTEN, (VMM, flush_remote_tlbs, (2, 1))),
    "move page": (tiny(backing_level=1, spare_frames=1), WRITTEN, (VMM, host.move_page, (3,))),
    "swap out": (tiny(backing_level=1, spare_frames=1), WRITTEN, (VMM, host.swap_out, (3,))),
    "split in the host": (tiny(spare_frames=1), WRITTEN, (VMM, host.split_huge_mapping, (3,))),
    "last put": (tiny(roots=2, rcu_batch=1), WRITTEN[:1], (0, switch_root, (8 | 3,))),
    "last put, yielding": (
        tiny(roots=2, rcu_batch=1, tick_ms=0.0, zap_steps="4k-2m-1g"),
        WRITTEN[:1],
        (0, switch_root, (8 | 3,)),
    ),
    "delete slot": (tiny(), WRITTEN, (VMM, delete_memslot, (0,))),
    "destroy": (tiny(rcu_batch=1), WRITTEN, (VMM, destroy_vm, ())),
    "quiet point": (tiny(), WRITTEN, (1, quiet_point, ())),
    "workload": (
        tiny(quiet_us=0.0),
        WRITTEN,
        (1, memstress_batch, (0, 8, 50, 1, READ, 1, 8)),
    ),
}


def stop_everywhere(config: VmConfig, before: Sequence[Op], op: Op) -> int:
    """The operation stopped at each of its calls in turn; how many those are."""
    with both(config) as (compiled, twin):
        compiled.load()
        for each in before:
            compiled.turn(each)
        if compiled.inside is not None:
            compiled.call(leave_guest, compiled.inside, 0)
        start = compiled.vm.words.copy()
        calls, stop_at = 0, 0
        while stop_at <= calls:
            for machine in (compiled, twin):
                machine.vm.words[:] = start
                machine.inside = None
                machine.recorder.restart(stop_at=stop_at)
            assert compiled.turn(op) == twin.turn(op)
            check_equal(compiled, twin)
            calls = calls or compiled.recorder.count
            stop_at += 1
        return calls


@pytest.mark.parametrize("name", STOP_CASES)
def test_every_operation_ends_wherever_it_is_stopped(
    name: str, run_processes: Callable[..., list[int | None]]
) -> None:
    def body() -> None:
        assert stop_everywhere(*STOP_CASES[name]) > 5

    # In a child: compiled code that does not end cannot be interrupted, only killed.
    assert run_processes([body], 60.0) == [0]


def test_every_sequence_ends_wherever_it_is_stopped(
    run_processes: Callable[..., list[int | None]],
) -> None:
    @settings(max_examples=150)
    @given(sequences(), st.integers(1, 1500))
    def body(case: tuple[VmConfig, list[Op]], stop_at: int) -> None:
        check_sequence(*case, stop_at=stop_at)

    assert run_processes([body], 90.0) == [0]


def test_a_wait_that_cannot_end_is_stopped(
    run_processes: Callable[..., list[int | None]],
) -> None:
    def flush(stop_at: int) -> list[int]:
        with both(TINY) as (compiled, _):
            compiled.load()
            compiled.turn((0, guest_access, (3, READ)))
            compiled.recorder.restart(stop_at=stop_at)
            compiled.call(flush_remote_tlbs, TINY.vcpus, 3, 0)
            return [int(kind) for kind in compiled.recorder.rows()[:, 1]]

    def body() -> None:
        # vCPU 0 stays in guest mode, and nobody runs it: unstopped, the flush would sleep.
        for stop_at in range(1, 40):
            kinds = flush(stop_at)
            if kinds[stop_at - 1] == events.BLOCK:
                break
        assert kinds[stop_at - 2 : stop_at] == [events.WAIT_WHILE, events.BLOCK]

    assert run_processes([body], 20.0) == [0]
