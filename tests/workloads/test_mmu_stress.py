"""mmu-stress is clean, says what the selftest says, and its checks can fail."""

import re
from pathlib import Path

import pytest

from harness.cli.main import main
from mmu.host.frames import NOBODY, VALUE_ONE
from mmu.machine import layout as at
from mmu.vm import GFN_BASE, Vm, VmConfig
from tests.workloads.runs import plan_of, run_workload
from workloads.errors import RunFailed, UsageError
from workloads.mmu_stress import check_dropped, check_mapped, check_refused, check_writes

GIB_PAGES = 1 << 18


@pytest.mark.slow
def test_lines_of_the_selftest_in_their_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    words = ["stress", "mmu-stress", "-c", "2", "-m", "2", "-s", "1", "-H"]
    assert main([*words, "--results", str(tmp_path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "Running with 2gb of guest memory and 2 vCPUs"
    stages = ("run 1", "reset", "run 2", "mprotect RO", "mprotect RW")
    for i, stage in enumerate(stages):
        assert lines[1 + 2 * i] == f"Waiting for vCPUs to finish {stage}..."
        assert lines[2 + 2 * i] == f"All vCPUs finished {stage}, releasing..."
    time = r"\d+\.\d{9}s"
    last = ", ".join(f"{name} = {time}" for name in ("run1", "reset", "run2", "ro", "rw"))
    assert re.fullmatch(last, lines[11])


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("-H",), ("--root-life=owned",), ("--zap-by=caller",)])
def test_every_page_is_reached_refused_and_reached_again(more):
    result = run_workload("mmu-stress", "-c", "2", "-m", "3", "-s", "1", *more)
    assert result.outcome == "clean", (result.error, result.violations)
    counters = result.counters
    # Three whole runs, and what was written until the refusal.
    assert counters["writes"] >= 3 * 3 * GIB_PAGES - 3
    assert counters["memory_faults"] == 2
    assert counters["pages_dropped"] == GIB_PAGES // 2
    assert counters["slots_changed"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-s", "3"), "give a power of two"),
        (("-m", "1", "-s", "2"), "makes 0 memslots"),
        (("-m", "60000", "-s", "1"), "makes 60000 memslots"),
        (("-m", "0"), "GiB of memory is 1 to"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said):
    with pytest.raises(UsageError, match=said) as caught:
        plan_of("mmu-stress", *words)
    assert "\n" not in str(caught.value)


def test_the_defaults_are_the_selftests(capsys):
    plan = plan_of("mmu-stress")
    assert (plan.vm.slots, plan.vm.pages) == (64, 2 * GIB_PAGES)
    assert plan.vm.gfns == 128 * GIB_PAGES
    assert main(["stress", "mmu-stress", "--dry-run"]) == 0
    assert re.search(r"guest memory +128.0 GiB", capsys.readouterr().out)


def test_slots_show_one_memory_side_by_side():
    config = VmConfig(vcpus=1, pages=8, slots=3, aliases=True)
    assert config.memslots() == ((GFN_BASE, 8),) * 3
    assert config.gfns == 24
    assert VmConfig(vcpus=1, pages=6, slots=3, aliases=True).gfns == 8 + 8 + 6


def test_what_is_missing_is_named():
    vm = Vm(VmConfig(vcpus=2, pages=8, slots=2, aliases=True, spare_frames=1))
    vm.words[at.STAT_PAGES_4K] = 16
    check_mapped(vm, 1)
    vm.words[at.STAT_PAGES_4K] = 15
    with pytest.raises(RunFailed, match="15 pages are mapped, the vCPUs have written 16"):
        check_mapped(vm, 1)
    vm.actor_words(0)[at.N_MEMORY_FAULTS] = 1
    with pytest.raises(RunFailed, match="vcpu 1 went on writing"):
        check_refused(vm)
    vm.actor_words(1)[at.N_MEMORY_FAULTS] = 3
    check_refused(vm)
    check_writes(vm)
    vm.frames[3] += 2 * VALUE_ONE
    with pytest.raises(RunFailed, match="hold 2 writes, the guest has made 0"):
        check_writes(vm)
    with pytest.raises(RunFailed, match="4 of 4 pages are not free"):
        check_dropped(vm, 4)
    vm.frames[:4] = [NOBODY ^ page for page in range(4)]
    check_dropped(vm, 4)
    vm.close()
