"""page-table is clean at every page size, says what the selftest says, and its checks can fail."""

import re
from pathlib import Path

import pytest

from harness.cli.main import main
from mmu.host.frames import VALUE_ONE
from mmu.machine import layout as at
from mmu.vm import Vm, VmConfig
from tests.workloads.runs import plan_of, run_workload
from workloads.errors import RunFailed, UsageError
from workloads.page_table import check_mapped, check_split, check_writes

PHASES = ("KVM_CREATE_MAPPINGS", "KVM_UPDATE_MAPPINGS", "KVM_ADJUST_MAPPINGS")


@pytest.mark.slow
def test_lines_of_the_selftest_in_their_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["stress", "page-table", "-b", "5M", "-v", "2", "--results", str(tmp_path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:8] == [
        "Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",
        "Testing memory backing src type: 4k",
        "Testing memory backing src granularity: 0x1000",
        "Testing memory size(aligned): 0x500000",
        "Guest physical test memory offset: 0x100000000",
        "Guest virtual test memory offset: 0xc0000000",
        "Number of testing vCPUs: 2",
        "Started all vCPUs successfully",
    ]
    for i, phase in enumerate(PHASES):
        assert re.fullmatch(rf"{phase}: total execution time: \d+\.\d{{9}}s", lines[8 + 2 * i])
        assert lines[9 + 2 * i] == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--no-pml",),
        ("-s", "2m"),
        ("-s", "2m", "--huge-split", "fault"),
        ("-s", "2m", "--huge-split", "zap"),
        ("-s", "2m", "--no-pml", "-p", "6M"),
        ("-s", "1g", "-b", "1G"),
    ],
)
def test_mappings_come_split_and_become_whole_again(more):
    result = run_workload("page-table", "-v", "3", "-b", "8M", *more)
    assert result.outcome == "clean", (result.error, result.violations)
    unit = {"2m": 512, "1g": 512 * 512}.get(more[1] if more else "", 1)
    # vCPUs 0 and 2 write at first, all three while logging is on.
    assert result.counters["writes"] == 5 * (1 << 18 if unit > 512 else 2048) // unit


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-p", "5000"), "no multiple of the backing page"),
        (("-p", "64T"), "leaves no room"),
        (("-m", "1"), "the guest mode is 0 to 0"),
        (("-c", "0,0,0,0", "-v", "2"), "-c has 4 cores for 2 vCPUs"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said):
    with pytest.raises(UsageError, match=said) as caught:
        plan_of("page-table", *words)
    assert "\n" not in str(caught.value)


def test_the_size_is_rounded_up_to_whole_host_pages():
    assert plan_of("page-table", "-b", "5000").vm.pages == 2
    assert plan_of("page-table", "-b", "3M", "-s", "2m").vm.pages == 1024


def test_what_is_mapped_otherwise_is_named():
    vm = Vm(VmConfig(vcpus=1, pages=1024, backing_level=2))
    vm.words[at.STAT_PAGES_2M] = 2
    check_mapped(vm, 2, "A")
    with pytest.raises(RunFailed, match="2 2m mappings outlived writes that are logged"):
        check_split(vm, 2)
    vm.words[at.STAT_PAGES_4K] = 512
    vm.words[at.STAT_PAGES_2M] = 1
    with pytest.raises(RunFailed, match=r"after A there are 512 4k, 1 2m, .* only 2 2m ones"):
        check_mapped(vm, 2, "A")
    vm.words[at.STAT_PAGES_2M] = 0
    check_split(vm, 2)
    vm.close()


def test_every_write_is_looked_for():
    vm = Vm(VmConfig(vcpus=3, pages=8))
    vm.frames[:8:4] += 5 * VALUE_ONE
    check_writes(vm, 4)
    with pytest.raises(RunFailed, match=r"2 pages .* gfn 0x100002, holds 0 writes, not 5"):
        check_writes(vm, 2)
    vm.frames[4] -= VALUE_ONE
    with pytest.raises(RunFailed, match=r"1 pages .* gfn 0x100004, holds 4 writes, not 5"):
        check_writes(vm, 4)
    vm.close()
