"""The stress of adding and deleting a memslot is clean; its two checks at the end can fail."""

import re
from pathlib import Path

import numpy as np
import pytest

from harness.cli.main import build_parser, main
from harness.run.session import Result, Session, SignalFlag
from harness.run.status import Status
from mmu.host.frames import VALUE_ONE
from mmu.machine import layout as at
from mmu.vm import Vm, VmConfig
from workloads.actors.ending import check_nothing_left
from workloads.errors import RunFailed, UsageError
from workloads.memslot_modification import check_writes
from workloads.registry import load

SMALL = ("-v", "2", "-b", "4M")


def run(*words: str) -> Result:
    line = ["stress", "memslot-modification", *words, "--quiet"]
    args = build_parser(line).parse_args(line)
    with SignalFlag() as flag:
        plan = load(args.workload).plan(args)
        result = Session(plan, Status(quiet=True)).run(flag, lambda phase, each: None)
    assert result.outcome == "clean", (result.error, result.violations)
    return result


@pytest.mark.slow
def test_lines_of_the_selftest_in_their_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    words = ["stress", "memslot-modification", *SMALL, "-m", "0", "--results", str(tmp_path)]
    assert main(words) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:4] == [
        "Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",
        "Finished creating vCPUs",
        "Started all vCPUs",
        "All vCPU threads joined",
    ]
    assert re.match("10 times added and deleted a memslot: ", lines[4])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["--zap-by=caller", "--zap-by=worker"])
@pytest.mark.parametrize("life", ["--root-life=put", "--root-life=owned"])
@pytest.mark.parametrize("more", [("-o",), ("-s", "2m"), ("--zap-steps", "4k-2m-1g")])
def test_it_is_clean_whoever_zaps_and_however_long_roots_live(policy, life, more):
    counters = run(*SMALL, "-i", "30", policy, life, *more).counters
    assert counters["memslot_modifications"] == 30
    assert counters["slots_changed"] == 60
    # The vCPUs begin on one root; a deletion finds the root of before, or one that came since.
    assert 1 <= counters["roots_invalidated"] <= 30 + 1
    assert counters["roots_created"] == counters["roots_freed"] >= 2
    mapped = 4 if "2m" in more else 2048
    assert counters["sptes_zapped"] >= mapped
    assert counters["memslot_passes"] >= 4
    assert counters["writes"] == counters["memslot_passes"] * 1024 * (2 if "-o" in more else 1)


@pytest.mark.slow
def test_the_delay_comes_before_each_iteration_and_seconds_replace_them():
    slow = run(*SMALL, "-i", "20", "-d", "5000")
    assert slow.phases[1].seconds > 0.1
    timed = run(*SMALL, "-i", "1", "--seconds", "0.2")
    assert timed.counters["memslot_modifications"] > 1
    assert 0.2 <= timed.phases[1].seconds < 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-i", "0"), "iterations is 1 to"),
        (("-d", "-1"), "the delay is 0 to"),
        (("-m", "1"), "the guest mode is 0 to 0"),
        (("-b", "5000"), "no multiple of the backing page"),
        (("--seconds", "soon"), "is not a duration"),
        (("-c", "0,0,0,0,0", "-v", "2"), "-c has 5 cores for 2 vCPUs"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said):
    line = ["stress", "memslot-modification", *words]
    with pytest.raises(UsageError, match=said) as caught:
        load("memslot-modification").plan(build_parser(line).parse_args(line))
    assert "\n" not in str(caught.value)


def test_dry_run_and_help_say_what_it_does(capsys):
    assert main(["stress", "memslot-modification", "--seconds", "90s", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "phases            start, modify, destroy" in out
    assert float(re.search(r"time, roughly +([\d.]+) s", out)[1]) >= 90
    with pytest.raises(SystemExit):
        main(["stress", "memslot-modification", "--help"])
    assert "-i is ignored then" in " ".join(capsys.readouterr().out.split())


def test_every_write_is_looked_for():
    vm = Vm(VmConfig(vcpus=2, pages=9, slots=2, absent_slots=1, slot_pages=(8, 1)))
    vm.frames[:8] += np.repeat([3, 5], 4) * VALUE_ONE
    check_writes(vm, [3, 5], overlap=False)
    with pytest.raises(RunFailed, match=r"8 pages .* gfn 0x100000, holds 3 writes, not 8"):
        check_writes(vm, [3, 5], overlap=True)
    vm.frames[6] -= VALUE_ONE
    with pytest.raises(RunFailed, match=r"1 pages .* gfn 0x100006, holds 4 writes, not 5"):
        check_writes(vm, [3, 5], overlap=False)
    vm.frames[:8] = 7 * VALUE_ONE
    check_writes(vm, [3, 4], overlap=True)
    vm.close()


def test_what_a_destroyed_vm_still_has_is_named():
    vm = Vm(VmConfig(vcpus=1, pages=8))
    check_nothing_left(vm)
    vm.words[at.STAT_PAGES_4K] = 10
    with pytest.raises(RunFailed, match=r"it still has 10 4K mappings$"):
        check_nothing_left(vm)
    vm.words[at.STAT_PAGES_4K] = 0
    vm.words[at.ROOTS] = 12
    with pytest.raises(RunFailed, match="a root on the list"):
        check_nothing_left(vm)
    vm.close()
