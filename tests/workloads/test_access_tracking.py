"""access-tracking prints the selftest's lines, notices every access, and its checks can fail."""

import json
import re
from pathlib import Path

import pytest

from harness.cli.main import main
from mmu.vm import VmConfig
from tests.command import tdprace
from tests.workloads.runs import plan_of, run_clean
from workloads.access_tracking import check_found, hidden_max
from workloads.errors import RunFailed, UsageError

SMALL = ("access-tracking", "-v", "2", "-b", "64M")
PAGES = 2 * (64 << 20) // 4096
LINES = [
    "Populating memory",
    "Writing to populated memory",
    "Reading from populated memory",
    "Mark memory idle",
    "Writing to idle memory",
    "Mark memory idle",
    "Reading from idle memory",
]
# What the second marking must notice: half of the pages are never aged, or no access sets A.
HALF_SKIPPED = """\
--- a/mmu/tdp/age.py
+++ b/mmu/tdp/age.py
@@ -37,2 +37,2 @@
     warn(cpu, is_poison(old), LIFETIME_WALK, gfn, sptep, level)
-    return is_present(old) and is_leaf(old, level) and is_accessed(old)
+    return is_present(old) and is_leaf(old, level) and is_accessed(old) and gfn & 1
"""
WALKER_FORGETS_A = """\
--- a/mmu/hw/walker.py
+++ b/mmu/hw/walker.py
@@ -48,2 +48,2 @@
         return spte | ACCESSED | DIRTY
-    wanted = ACCESSED | DIRTY if access & ACCESS_WRITE != 0 else ACCESSED
+    wanted = DIRTY if access & ACCESS_WRITE != 0 else 0
"""


@pytest.mark.slow
def test_lines_of_the_selftest_in_their_order(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["stress", *SMALL, "--results", str(tmp_path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == ["Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages", ""]
    printed = [re.fullmatch(r"(.{30}): \d+\.\d{9}s", line) for line in lines[2:9]]
    assert [each[1].rstrip() for each in printed if each] == LINES
    assert lines[9] == ""


@pytest.mark.slow
@pytest.mark.parametrize("backing", [(), ("-s", "2m", "-b", "1G")])
@pytest.mark.parametrize("ad", [(), ("--no-ad",)], ids=["ad", "no-ad"])
def test_every_access_of_idle_memory_is_noticed(ad, backing):
    result = run_clean(*SMALL, *ad, *backing)
    counted = {phase.name: phase.counters for phase in result.phases}
    pages = 2 * 512 if backing else PAGES
    hidden = hidden_max(plan_of(*SMALL, *ad, *backing).vm)
    assert counted["mark 1"]["sptes_aged"] == pages
    assert result.counters["still_idle_1"] == 0
    still_idle = result.counters["still_idle_2"]
    assert still_idle <= hidden
    assert counted["mark 2"]["sptes_aged"] == pages - still_idle
    for name in ("write idle", "read idle"):
        # Without A bits each access that is noticed is a fault without a lock; with them, a walk.
        fast = counted[name]["pf_fast"]
        assert pages - hidden <= fast <= pages if ad else fast == 0, name
        assert counted[name]["pf_taken"] == fast


@pytest.mark.slow
def test_overlapping_vcpus_and_all_options():
    run_clean("access-tracking", "-v", "2", "-b", "32M", "-o", "-m", "0", "-s", "4k", "--no-ad")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("diff", "more"),
    [
        (HALF_SKIPPED, ("--no-ad",)),
        pytest.param(WALKER_FORGETS_A, (), marks=pytest.mark.thorough),
    ],
    ids=["half-skipped", "walker-forgets-a"],
)
def test_accesses_that_are_not_noticed_fail_the_run(tmp_path, diff, more):
    patch = tmp_path / "p.diff"
    patch.write_text(diff)
    words = ("stress", *SMALL, *more, "--patch", patch, "--results", tmp_path)
    done = tdprace(*words, "--quiet", "--json", "-")
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["outcome"] == "failed"
    assert "too many pages are still idle" in done.stderr


def test_the_two_shares_of_the_selftest():
    check_found(no_pfn=0, still_idle=0, pages=1000, hidden=0)
    check_found(no_pfn=9, still_idle=99, pages=1000, hidden=0)
    check_found(no_pfn=9, still_idle=149, pages=1000, hidden=50)
    with pytest.raises(RunFailed, match="no PFN for 10 of 1000 pages"):
        check_found(no_pfn=10, still_idle=0, pages=1000, hidden=0)
    with pytest.raises(RunFailed, match="still idle, 100 of 1000"):
        check_found(no_pfn=0, still_idle=100, pages=1000, hidden=0)
    with pytest.raises(RunFailed, match="TLBs hide 50 at most"):
        check_found(no_pfn=0, still_idle=150, pages=1000, hidden=50)
    assert hidden_max(VmConfig(vcpus=3, pages=8, tlb_bits=(10, 8, 4, 6))) == 3 * 1024
    assert hidden_max(VmConfig(vcpus=1, pages=512, backing_level=2)) == 256


def test_dry_run_says_what_the_default_needs(capsys):
    assert main(["stress", "access-tracking", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "mark 1, write idle, mark 2, read idle" in " ".join(out.split())


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="no multiple of the backing page"):
        plan_of("access-tracking", "-b", "3M", "-s", "2m")
