"""What the policies cost, counted: every figure follows from the options.

W = pages that a vCPU writes in iteration 1, F = pages before its first write, both recomputed here
from the random seed without the model.
"""

import argparse

import pytest

from harness.cli.main import build_parser
from harness.run.session import Session, SignalFlag
from harness.run.status import Status
from workloads.registry import load

GIB_PAGES = 262_144
REGION = 512


def writes_of_vcpu(seed: int, pages: int, percent: int, passes_before: int) -> list[int]:
    """Pages that the vCPU writes in one pass, after `passes_before` passes at 100 %."""
    state = (seed << 16) + 0x330E

    def step() -> int:
        nonlocal state
        state = (state * 0x5DEECE66D + 11) % (1 << 48)
        return state >> 17

    if percent == 0:
        return []
    for _ in range(passes_before * pages):
        step()
    return [page for page in range(pages) if step() % 100 < percent]


def run(*words: str) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """({phase: its counters}, counters of the whole run) of a clean run."""
    line = ["stress", *words, "--quiet"]
    args: argparse.Namespace = build_parser(line).parse_args(line)
    plan = load(args.workload).plan(args)
    with SignalFlag() as flag:
        result = Session(plan, Status(quiet=True)).run(flag, lambda phase, result: None)
    assert result.error is None
    assert result.outcome == "clean", result.violations
    return {phase.name: phase.counters for phase in result.phases}, result.counters


def dirty_log(policy: str, *words: str, vcpus: int = 1, percent: int = 5, seed: int = 1) -> tuple:
    phases, _ = run(
        *("dirty-log", "-g", "-s", "1g", "-b", "1G", "-i", "1", "--huge-split", policy),
        *("-v", str(vcpus), "-w", str(percent), "--seed", str(seed), *words),
    )
    written = [writes_of_vcpu(seed + i, GIB_PAGES, percent, 1) for i in range(vcpus)]
    dirty = phases["iteration 1 dirty memory"]
    return phases["enable"], dirty, phases["iteration 1 get dirty log"], written


@pytest.mark.slow
@pytest.mark.parametrize(("vcpus", "percent", "seed"), [(1, 5, 1), (2, 5, 77), (1, 100, 3)])
@pytest.mark.parametrize("pml", [(), ("--no-pml",)])
def test_zap_faults_every_page_again_from_the_first_write_on(vcpus, percent, seed, pml):
    _, dirty, get, written = dirty_log("zap", *pml, vcpus=vcpus, percent=percent, seed=seed)
    expected = sum(GIB_PAGES - pages[0] for pages in written)
    assert dirty["pf_taken"] == expected
    assert dirty["pf_fast"] == 0
    assert dirty["huge_zapped"] == vcpus
    assert dirty["remote_tlb_flush"] == vcpus
    assert dirty["tables_linked"] == 513 * vcpus
    assert get["dirty_harvested"] == expected


@pytest.mark.slow
@pytest.mark.parametrize(("vcpus", "percent", "seed"), [(1, 5, 1), (2, 5, 77), (1, 100, 3)])
@pytest.mark.parametrize("pml", [(), ("--no-pml",)])
def test_fault_splits_where_a_region_is_written_first(vcpus, percent, seed, pml):
    _, dirty, get, written = dirty_log("fault", *pml, vcpus=vcpus, percent=percent, seed=seed)
    pages = sum(len(each) for each in written)
    regions = sum(len({page // REGION for page in each}) for each in written)
    assert regions == 512 * vcpus  # with these seeds every region is written
    assert dirty["pf_taken"] - dirty["pf_fast"] == regions
    assert dirty["pf_fast"] == pages - regions
    assert (dirty["splits_1g"], dirty["splits_2m"]) == (vcpus, regions)
    assert dirty["tables_linked"] == 513 * vcpus
    assert dirty["huge_zapped"] == 0
    assert get["dirty_harvested"] == pages


@pytest.mark.slow
@pytest.mark.parametrize(("vcpus", "percent", "seed"), [(1, 5, 1), (2, 5, 77), (1, 100, 3)])
def test_eager_takes_no_fault_with_pml(vcpus, percent, seed):
    enable, dirty, get, written = dirty_log("eager", vcpus=vcpus, percent=percent, seed=seed)
    assert dirty["pf_taken"] == 0
    assert enable["tables_linked"] == 513 * vcpus
    assert dirty["pml_entries"] == sum(len(each) for each in written)
    assert dirty["pml_full"] == sum(len(each) // 512 for each in written)
    assert get["dirty_harvested"] == sum(len(each) for each in written)


@pytest.mark.slow
def test_eager_without_pml_takes_one_fast_fault_a_page():
    enable, dirty, get, (written,) = dirty_log("eager", "--no-pml")
    assert enable["tables_linked"] == 513
    assert dirty["pf_taken"] == dirty["pf_fast"] == len(written)
    assert dirty["pml_entries"] == 0
    assert get["dirty_harvested"] == len(written)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "faults", "splits"), [("zap", GIB_PAGES, 0), ("fault", 512, 513)]
)
def test_execute(policy, faults, splits):
    phases, _ = run("execute", "-s", "1g", "-b", "1G", "--huge-split", policy)
    execute = phases["execute"]
    assert execute["pf_execute"] == execute["pf_taken"] == faults
    assert execute["splits_1g"] + execute["splits_2m"] == splits


@pytest.mark.slow
def test_executing_needs_no_split_where_huge_pages_may_be_executed():
    phases, _ = run("execute", "-s", "1g", "-b", "1G", "--no-nx-huge-pages")
    assert phases["execute"]["pf_taken"] == 0
    assert phases["execute"]["splits_1g"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "tables"), [("zap", 2), ("fault", 2), ("eager", 2 + 513)])
def test_without_writes_only_eager_splitting_pays(policy, tables):
    """Two tables hold a 1G page: the root, and one below it."""
    phases, whole = run(
        *("dirty-log", "-g", "-s", "1g", "-b", "1G", "-i", "1", "-w", "0"),
        *("--huge-split", policy),
    )
    assert whole["tables_allocated"] == tables
    dirty = phases["iteration 1 dirty memory"]
    assert dirty["tlb_misses_4k"] == (GIB_PAGES if policy == "eager" else 0)
    assert dirty["tlb_misses_1g"] == (0 if policy == "eager" else 1)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "tables"), [("zap", 8), ("fault", 8), ("eager", 128)])
def test_late_splitting_allocates_for_written_regions_only(policy, tables):
    phases, _ = run(
        *("dirty-log", "-g", "-s", "2m", "-b", "256M", "-i", "1", "-w", "100"),
        *("--write-regions", "16", "--huge-split", policy),
    )
    split = phases["enable"]["tables_linked"] + phases["iteration 1 dirty memory"]["tables_linked"]
    assert split == tables
    dirty = phases["iteration 1 dirty memory"]
    assert dirty["tlb_misses_4k"] >= (128 * REGION if policy == "eager" else 8 * REGION)
    assert (dirty["tlb_misses_2m"] > 0) == (policy != "eager")
