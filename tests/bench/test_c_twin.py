"""The C twin leaves the shared block as the model does, word for word: it is the same algorithm.

Two words depend on the clock: `QUIET_BEGAN` and `TICK_BEGAN`, set at quiet points, whose number
does too.  So quiet points are as good as forbidden here (31 years apart), faults are not timed,
and nothing else may differ.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.run.warm import warm
from mmu.guest import vcpu_load
from mmu.machine import layout as at
from mmu.spte import ACCESS_READ
from mmu.vm import GFN_BASE, Vm, VmConfig
from tests.bench.twin import Twin, compiler, constants, differences
from tests.bench.workers import Start, together
from workloads.actors.memstress import memstress_batch, random_seed
from workloads.errors import RunFailed

pytestmark = pytest.mark.skipif(compiler() is None, reason="no gcc: the C twin cannot be built")

NEVER_US = 1e15
BATCH = 1 << 16
SHARED_PAGES = 200_000  # no multiple of 512: neighbours share a table


@pytest.fixture(scope="module")
def twin() -> Twin:
    warm()
    return Twin()


@pytest.fixture
def new_vm() -> Iterator[Callable[[int, int], Vm]]:
    vms: list[Vm] = []

    def create(vcpus: int, pages: int) -> Vm:
        options: dict[str, Any] = {"sample": 0, "quiet_us": NEVER_US, "tick_ms": NEVER_US / 1e3}
        vms.append(Vm(VmConfig(vcpus=vcpus, pages=vcpus * pages, **options)))
        return vms[-1]

    yield create
    for vm in vms:
        vm.close()


def populate(vm: Vm, actor: int, pages: int, c: Twin | None) -> None:
    cpu = vm.cpu(actor)
    load, batch = (c.vcpu_load, c.memstress_batch) if c else (vcpu_load, memstress_batch)
    load(cpu)
    while batch(cpu, GFN_BASE + actor * pages, pages, 100, 0, ACCESS_READ, 1, BATCH):
        pass


def read_some(vm: Vm, actor: int, pages: int, c: Twin | None) -> None:
    words = vm.actor_words(actor)
    words[at.WORK_DONE] = 0
    words[at.RANDOM] = random_seed(7)
    batch = c.memstress_batch if c else memstress_batch
    while batch(vm.cpu(actor), GFN_BASE + actor * pages, pages, 30, 1, ACCESS_READ, 2, BATCH):
        pass


@pytest.mark.parametrize("pages", [1, 3 * 512 + 17, 8192])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_c_and_model_leave_the_same_words(
    twin: Twin, new_vm: Callable[[int, int], Vm], vcpus: int, pages: int
) -> None:
    model, c = new_vm(vcpus, pages), new_vm(vcpus, pages)
    for actor in range(vcpus):
        populate(model, actor, pages, None)
        populate(c, actor, pages, twin)
    assert differences(model, c) == []
    assert model.words[at.STAT_PAGES_4K] == vcpus * pages
    assert model.actor_words(0)[at.N_PF_FIXED] == pages
    for actor in range(vcpus):
        read_some(model, actor, pages, None)
        read_some(c, actor, pages, twin)
    assert differences(model, c) == []


@pytest.mark.parametrize(
    ("name", "other", "place"),
    [
        pytest.param("ACCESSED", None, "tables word", id="no-A-bit"),
        pytest.param("HOST_WRITABLE", "MMU_WRITABLE", "tables word", id="wrong-software-bit"),
        pytest.param("SP_PARENT", "SP_GFN", "records word", id="record-without-parent"),
        pytest.param("SP_LINKED", "SP_REMOVED", "records word", id="wrong-state-of-a-table"),
        pytest.param("N_EXITS", "N_QUIET_POINTS", "actor 0 word", id="wrong-counter"),
        pytest.param("STAT_TABLES", "STAT_NX_SPLITS", "header word", id="wrong-statistic"),
        pytest.param("VALUE_ONE", None, "frames word", id="writes-that-write-nothing"),
    ],
)
def test_a_wrong_twin_is_caught_where_it_is_wrong(
    new_vm: Callable[[int, int], Vm], name: str, other: str | None, place: str
) -> None:
    wrong = Twin({name: 0 if other is None else constants()[other]})
    pages = 600
    model, c = new_vm(1, pages), new_vm(1, pages)
    populate(model, 0, pages, None)
    populate(c, 0, pages, wrong)
    assert any(each.startswith(place) for each in differences(model, c))


@pytest.mark.slow
def test_c_and_model_share_one_vm(twin: Twin, new_vm: Callable[[int, int], Vm]) -> None:
    """Contended: one process runs C, the other the model, on the same locks and tables."""
    vm = new_vm(2, SHARED_PAGES)

    def job_of(actor: int, c: Twin | None) -> Callable[[Start], tuple[int, ...]]:
        def job(start: Start) -> tuple[int, ...]:
            start()
            populate(vm, actor, SHARED_PAGES, c)
            return ()

        return job

    together([job_of(0, twin), job_of(1, None)], lambda: None)
    assert vm.words[at.STAT_PAGES_4K] == 2 * SHARED_PAGES
    assert vm.words[at.MMU_LOCK] == vm.words[at.POOL_LOCK] == 0
    assert vm.words[at.MMU_LOCK + at.SLEEPERS] == 0
    for actor in (0, 1):
        assert vm.actor_words(actor)[at.VIOLATIONS] == 0
        assert vm.actor_words(actor)[at.N_WRITES] == SHARED_PAGES
    leafs = (vm.tables & (1 << 9) != 0).sum()  # D: every page was written, tables have none
    assert leafs == 2 * SHARED_PAGES


@pytest.mark.slow
def test_a_failing_worker_is_reported_and_nobody_stays() -> None:
    def fails(start: Start) -> tuple[int, ...]:
        start()
        raise SystemExit(3)

    def never_ends(start: Start) -> tuple[int, ...]:
        start()
        while True:
            pass

    with pytest.raises(RunFailed, match="exit code 3"):
        together([fails, never_ends], lambda: None)
