"""demand-paging is clean in every mode, says what the selftest says, and its checks can fail."""

import re
from pathlib import Path

import pytest

from harness.cli.main import main
from mmu.host.frames import MAPPED, VALUE_ONE
from mmu.machine import layout as at
from mmu.vm import Vm, VmConfig
from tests.workloads.runs import plan_of, run_workload
from workloads.demand_paging import check_pages, check_requests
from workloads.errors import RunFailed, UsageError

SMALL = ("demand-paging", "-v", "2", "-b", "4M")


@pytest.mark.slow
def test_lines_of_the_selftest_in_their_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    words = ["stress", *SMALL, "-u", "MISSING", "-m", "0", "--results", str(tmp_path)]
    assert main(words) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:4] == [
        "Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",
        "Finished creating vCPUs and starting uffd threads",
        "Started all vCPUs",
        "All vCPU threads joined",
    ]
    assert re.fullmatch(r"Total guest execution time:\t\d+\.\d{9}s", lines[4])
    assert re.fullmatch(r"Overall demand paging rate:\t\d+\.\d{6} pgs/sec", lines[5])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["MISSING", "MINOR"])
@pytest.mark.parametrize("more", [(), ("-o",), ("-s", "2m"), ("-s", "2m", "-o"), ("--no-ad",)])
def test_every_page_is_installed_once(mode, more):
    result = run_workload(*SMALL, "-u", mode, *more)
    assert result.outcome == "clean", (result.error, result.violations)
    counters = result.counters
    installed = 4 if "2m" in more else 2048
    assert counters["userfaults_installed"] == installed
    assert installed <= counters["userfaults"] <= installed * (2 if "-o" in more else 1)
    assert counters["writes"] == 2048 * (2 if "-o" in more else 1)


@pytest.mark.slow
def test_the_handlers_delay_is_waited_for():
    result = run_workload("demand-paging", "-b", "400k", "-u", "MINOR", "-d", "2000")
    assert result.outcome == "clean", (result.error, result.violations)
    assert result.phases[1].seconds > 0.2


@pytest.mark.slow
def test_without_userfaultfd_nobody_is_asked():
    counters = run_workload(*SMALL).counters
    assert (counters["userfaults"], counters["host_faults"], counters["pf_fixed"]) == (0, 0, 2048)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-d", "5"), "give -u MISSING or -u MINOR too"),
        (("-u", "MISSING", "-d", "-1"), "the delay is 0 to"),
        (("-b", "5000"), "no multiple of the backing page"),
        (("-c", "0,0,0,0,0,0", "-v", "2"), "-c has 6 cores for 2 vCPUs"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said):
    with pytest.raises(UsageError, match=said) as caught:
        plan_of("demand-paging", *words)
    assert "\n" not in str(caught.value)


def test_every_page_is_looked_at():
    vm = Vm(VmConfig(vcpus=1, pages=8, spare_frames=1))
    with pytest.raises(RunFailed, match="0 of 8 pages are mapped"):
        check_pages(vm, 0, 0)
    vm.words[at.STAT_PAGES_4K] = 8
    check_pages(vm, 0, 0)
    with pytest.raises(RunFailed, match=r"8 pages .* gfn 0x100000, holds 0, not 2"):
        check_pages(vm, 0, 2)
    vm.frames[:8] += 5 * VALUE_ONE
    check_pages(vm, 3, 2)
    vm.frames[6] += VALUE_ONE
    with pytest.raises(RunFailed, match=r"1 pages .* gfn 0x100006, holds 6, not 5"):
        check_pages(vm, 3, 2)
    vm.region("mapping")[3] = MAPPED
    with pytest.raises(RunFailed, match="1 pages were never installed"):
        check_pages(vm, 3, 2)
    vm.close()


@pytest.mark.parametrize(("served", "installed"), [(7, 7), (9, 7), (8, 9), (7, 8)])
def test_requests_are_counted(served, installed):
    check_requests(9, 8, 8)
    with pytest.raises(RunFailed, match="8 pages had to be installed"):
        check_requests(served, installed, 8)
