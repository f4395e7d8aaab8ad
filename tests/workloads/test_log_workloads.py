"""The selftests of dirty logging: what they print, and that they fail where logging is broken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bugs.tree import apply
from harness.cli.main import main
from mmu.machine.kernel import SOURCE_ROOT
from tests.command import tdprace
from tests.workloads.runs import plan_of, run_clean
from workloads.dirty_log_verify import PAGES, _bits
from workloads.errors import RunFailed, UsageError
from workloads.page_splitting import MODES, Counts

BUGS = Path(__file__).parents[1] / "explore" / "bugs"
VERIFY = ("dirty-log-verify", "-i", "8")
SPLITTING = ("page-splitting", "-b", "64M")
MASKS = 64  # pages of one

# Changes that no exploration needs: the workload must see them.
PATCHES = {
    "harvest-leaves-d": """--- a/mmu/dirty_log.py
+++ b/mmu/dirty_log.py
@@ -1,3 +1,3 @@
             if shown:
-                clear_in_roots(cpu, base + word * BITMAP_BITS, mask, bits)
+                clear_in_roots(cpu, base + word * BITMAP_BITS, 0, bits)
             pages += _pages_in(mask)
""",
    "clear-leaves-d": """--- a/mmu/dirty_clear.py
+++ b/mmu/dirty_clear.py
@@ -1,3 +1,3 @@
     bits = DIRTY if config(cpu, C_USE_PML) else SPTE_W
-    clear_in_roots(cpu, base, low, bits)
+    clear_in_roots(cpu, base, 0, bits)
     clear_in_roots(cpu, base + BITMAP_BITS, high, bits)
""",
    "second-half-of-a-mask-forgotten": """--- a/mmu/dirty_clear.py
+++ b/mmu/dirty_clear.py
@@ -1,2 +1,1 @@
     clear_in_roots(cpu, base, low, bits)
-    clear_in_roots(cpu, base + BITMAP_BITS, high, bits)
""",
    "recovery-left-out": """--- a/mmu/dirty_log.py
+++ b/mmu/dirty_log.py
@@ -1,3 +1,2 @@
         synchronize_srcu(cpu)
-        _recover_slot(cpu, slot)
     slots_unlock(cpu)
""",
    "split-left-out": """--- a/mmu/dirty_log.py
+++ b/mmu/dirty_log.py
@@ -1,3 +1,3 @@
     result = 0
-    if config(cpu, C_HUGE_SPLIT) == SPLIT_EAGER:
+    if config(cpu, C_HUGE_SPLIT) < 0:
         base = slot_base(cpu, slot)
""",
    "split-at-clear-left-out": """--- a/mmu/dirty_clear.py
+++ b/mmu/dirty_clear.py
@@ -1,2 +1,2 @@
-    if config(cpu, C_HUGE_SPLIT) == SPLIT_EAGER:
+    if config(cpu, C_HUGE_SPLIT) < 0:
         split_range(cpu, first, last + 1)
""",
}
NO_PML = (*VERIFY, "--no-pml")
LOST = "dirty"
CAUGHT = {
    "harvest-leaves-d": ((*VERIFY, "-M", "dirty-log"), LOST),
    "clear-leaves-d": ((*VERIFY, "-M", "clear-log"), LOST),
    "second-half-of-a-mask-forgotten": ((*VERIFY, "-M", "clear-log"), LOST),
    "fast-fault-marks-nothing": (NO_PML, LOST),
    "recovery-left-out": (SPLITTING, "get: repopulated"),
    "split-left-out": (SPLITTING, "get: enabled"),
    "split-at-clear-left-out": (SPLITTING, "manual protect: cleared 1"),
}


def stress(tmp_path: Path, *words: str) -> tuple[int, dict, str]:
    done = tdprace("stress", *words, "--quiet", "--json", "-", "--results", tmp_path)
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("name", PATCHES)
def test_the_patches_apply(name):
    assert apply(PATCHES[name], lambda path: (SOURCE_ROOT / path).read_text(), name)


THOROUGH = (
    *("clear-leaves-d", "second-half-of-a-mask-forgotten", "fast-fault-marks-nothing"),
    *("recovery-left-out", "split-at-clear-left-out"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=pytest.mark.thorough) if each in THOROUGH else each
        for each in CAUGHT
    ],
)
def test_a_broken_log_is_caught(name, tmp_path):
    patch = BUGS / f"{name}.diff"
    if name in PATCHES:
        patch = tmp_path / f"{name}.diff"
        patch.write_text(PATCHES[name])
    words, sign = CAUGHT[name]
    status, document, errors = stress(tmp_path, *words, "--patch", str(patch))
    if sign == LOST:
        assert (status, document["outcome"]) == (1, "violation"), errors
        assert {found["oracle"] for found in document["violations"]} == {LOST}
        assert "iteration" in document["violations"][0]["message"]
    else:
        assert (status, document["outcome"]) == (4, "failed")
        assert sign in errors


# --- dirty_log_test ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--no-pml",), ("--flush", "all")])
def test_every_bit_is_looked_at_in_every_iteration(more):
    counters = run_clean(*VERIFY, *more).counters
    for mode in ("dirty_log", "clear_log"):
        assert counters[f"{mode}_dirty"] + counters[f"{mode}_clear"] == 7 * PAGES
        assert counters[f"{mode}_track_next"] <= counters[f"{mode}_dirty"]
    assert counters["clear_log_dirty"] >= 2 * PAGES - 1024  # all set at first, then all written
    assert counters["writes"] >= 2 * PAGES


@pytest.mark.slow
def test_lines_of_dirty_log_test(tmp_path, capfd):
    assert main(["stress", *VERIFY, "-I", "3", "--results", str(tmp_path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "Test iterations: 8, interval: 3 (ms)"
    for i, mode in enumerate(("dirty-log", "clear-log")):
        said = lines[1 + 4 * i : 5 + 4 * i]
        assert said[:3] == [
            f"Testing Log Mode '{mode}'",
            "Testing guest mode: PA-bits:ANY, VA-bits:48,  4K pages",
            "guest physical test memory offset: 0x100000000",
        ]
        total = r"Total bits checked: dirty \((\d+)\), clear \((\d+)\), track_next \((\d+)\)"
        assert re.fullmatch(total, said[3])


def test_it_has_the_defaults_of_dirty_log_test():
    plan = plan_of("dirty-log-verify")
    assert plan.header == ("Test iterations: 32, interval: 10 (ms)",)
    assert (plan.vm.vcpus, plan.vm.pages) == (1, (1 << 18) + 3)
    assert [phase.lasts for phase in plan.phases] == [0, 0.32, 0] * 2
    one = plan_of("dirty-log-verify", "-M", "clear-log", "-p", "16G")
    assert [phase.name for phase in one.phases] == [
        "clear-log: begin",
        "clear-log",
        "clear-log: end",
    ]
    assert one.vm.gfn_base == 4 << 20


@pytest.mark.parametrize("words", [("-M", "dirty-ring"), ("-c", "1024"), ("-p", "1k")])
def test_what_is_not_modelled_is_refused(words):
    with pytest.raises(UsageError) as refused:
        plan_of("dirty-log-verify", *words)
    assert "not modelled" in str(refused.value) or "4K" in str(refused.value)


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1, max_size=4), st.integers(0, 31))
@settings(deadline=None)
def test_bits_lie_where_the_log_sets_them(words, short):
    pages = 32 * len(words) - short
    bits = _bits(np.array(words, np.int64), pages)
    assert bits.tolist() == [bool(words[i // 32] >> i % 32 & 1) for i in range(pages)]


# --- dirty_log_page_splitting_test ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--no-pml",), ("-s", "1g", "-b", "1G")])
def test_huge_pages_are_split_and_come_back(more):
    words = (*SPLITTING, *more)
    plan = plan_of(*words)
    pages, backing = plan.vm.pages, plan.vm.backing_level
    counters = run_clean(*words).counters

    def counted(title: str, moment: str) -> tuple[int, ...]:
        counts = Counts(title, pages)
        return tuple(counters[counts.key(moment, size)] for size in ("4k", "2m", "1g"))

    whole = {2: (0, pages // 512, 0), 3: (0, 0, pages // 512**2)}[backing]
    small = (pages, 0, 0)
    for title, mode in MODES:
        manual = mode != "get"
        assert counted(title, "populated") == whole
        assert counted(title, "enabled") == (whole if manual else small)
        assert counted(title, "dirtied 1") == (whole if manual else small)
        if manual:
            assert counted(title, "cleared 1") == counted(title, "cleared 2") == small
        assert counted(title, "dirtied 2") == small
        assert counted(title, "disabled") == counted(title, "repopulated") == whole
    # A whole 1G page comes back at once: its 2M tables need not become pages first.
    assert counters["huge_recovered"] == 2 * sum(whole)


def test_it_has_the_defaults_of_the_page_splitting_test():
    plan = plan_of("page-splitting")
    assert (plan.vm.vcpus, plan.vm.slots, plan.vm.pages) == (2, 2, 1 << 19)
    assert (plan.vm.backing_level, plan.vm.huge_split) == (2, "eager")
    with pytest.raises(UsageError):
        plan_of("page-splitting", "-s", "4k")


@pytest.mark.parametrize(
    ("moment", "value"),
    [
        ("populated", (512, 1, 0)),
        ("populated", (0, 3, 0)),
        ("enabled", (1024, 1, 0)),
        ("enabled", (1023, 0, 0)),
        ("repopulated", (512, 1, 0)),
        ("repopulated", (0, 0, 1)),
    ],
)
def test_each_wrong_count_fails(moment, value):
    good = {"populated": (0, 2, 0), "enabled": (1024, 0, 0), "repopulated": (0, 2, 0)}
    counts = Counts("get", 1024, dict(good))
    counts.check()
    counts.at[moment] = value
    with pytest.raises(RunFailed):
        counts.check()


@pytest.mark.parametrize(
    ("moment", "value"),
    [("enabled", (512, 1, 0)), ("cleared 1", (512, 1, 0)), ("cleared 1", (9, 0, 0))],
)
def test_each_wrong_count_fails_with_manual_protection(moment, value):
    whole = (0, 2, 0)
    good = {"populated": whole, "enabled": whole, "cleared 1": (1024, 0, 0), "repopulated": whole}
    counts = Counts("manual protect", 1024, dict(good))
    counts.check()
    counts.at[moment] = value
    with pytest.raises(RunFailed):
        counts.check()


# --- dirty_log_perf_test -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["get", "manual", "initially-set"])
@pytest.mark.parametrize("pml", [(), ("--no-pml",)])
def test_exact_counts_of_each_mode(mode, pml):
    """8,192 pages in 16 huge ones, all written: who protects what, and when."""
    pages, huge = 8192, 16
    words = ("-b", "32M", "-s", "2m", "--dirty-log-mode", mode, *pml)
    result = run_clean("dirty-log", *words)
    phase = {each.name: each.counters for each in result.phases}
    at_once = mode != "initially-set"
    assert phase["enable"]["splits_2m"] == (huge if at_once else 0)
    # With PML all entries had D; write protection takes W of each.
    assert phase["enable"]["remote_tlb_flush"] == int(at_once)
    first, second = (phase[f"iteration {i} dirty memory"] for i in (1, 2))
    taken = 0 if pml == () else pages
    assert first["pf_taken"] == (taken if at_once else 0)
    assert first["pml_entries"] == (pages - taken if at_once else 0)
    assert second["pf_taken"] == second["pf_fast"] == taken
    assert second["pml_entries"] == pages - taken
    for i in (1, 2):
        get = phase[f"iteration {i} get dirty log"]
        assert get["dirty_harvested"] == pages
        assert get["dirty_cleared"] == (pages if mode == "get" else 0)
        assert get["remote_tlb_flush"] == int(mode == "get")
        if mode == "get":
            assert f"iteration {i} clear dirty log" not in phase
            continue
        clear = phase[f"iteration {i} clear dirty log"]
        assert clear["dirty_cleared"] == pages
        assert clear["remote_tlb_flush"] == 1
        assert clear["splits_2m"] == (huge if not at_once and i == 1 else 0)
    assert phase["disable"]["huge_recovered"] == huge
    assert result.counters["pages_2m"] == huge


@pytest.mark.slow
def test_lines_of_dirty_log_perf_test_with_manual_protection(tmp_path, capfd):
    words = ["dirty-log", "-b", "4M", "--dirty-log-mode", "manual", "-i", "2"]
    assert main(["stress", *words, "--results", str(tmp_path)]) == 0
    said = capfd.readouterr().out
    seconds = r"\d+\.\d{9}s"
    for i in (1, 2):
        assert re.search(rf"^Iteration {i} clear dirty log time: {seconds}$", said, re.MULTILINE)
    for what in ("Get", "Clear"):
        summary = (
            rf"^{what} dirty log over 2 iterations took {seconds}. \(Avg {seconds}/iteration\)$"
        )
        assert re.search(summary, said, re.MULTILINE)


def test_fetching_clears_unless_asked_otherwise():
    assert plan_of("dirty-log").vm.dirty_log_mode == "get"
    assert plan_of("dirty-log", "-g").vm.dirty_log_mode == "get"
