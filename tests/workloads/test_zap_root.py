"""What zap-root reports follows from its memory, and its figures fit to each other."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness.cli.main import main
from mmu.machine.clock import ticks_per_ns
from tests.workloads.runs import plan_of, run_clean
from workloads.actors.dropping import FIRST_VCPU, ZAP_BEGAN, ZAP_ENDED
from workloads.errors import UsageError
from workloads.zap_root import report

GIB_PAGES = 262_144
TABLES = 1 + 512  # below a 1G entry, once it is split
RATE = re.compile(r"Zapped ([\d,]+) SPTEs in (\d+\.\d{9})s \((\d+\.\d\d) ns of CPU time each\)")


def figures_fit(result, gibs: int) -> None:
    """Of a run with `gibs` GiB: what was zapped, and when."""
    whole = result.counters
    assert whole["sptes_zapped"] == gibs * GIB_PAGES
    split = next(phase for phase in result.phases if phase.name == "split").counters
    assert (split["splits_1g"], split["splits_2m"]) == (gibs, gibs * 512)
    assert split["tables_linked"] == gibs * TABLES
    assert whole["zap_ns"] > 0
    assert 0 <= whole["zap_overlap_ns"] <= whole["zap_ns"]
    assert result.latency_ns["zap_root"]["count"] == whole["roots_zapped"]
    # A zap is part of the phase; two clocks tell the time, one of them in whole ticks.
    drop = next(phase for phase in result.phases if phase.name == "drop")
    assert whole["zap_ns"] <= drop.seconds * 1e9 * 1.01 + 1e5


@pytest.mark.slow
@pytest.mark.parametrize("zap_by", ["worker", "caller"])
@pytest.mark.parametrize("steps", ["1g", "root", "leafs-first", "4k-2m-1g"])
def test_all_is_zapped_and_the_vcpus_go_on_on_a_new_root(zap_by, steps):
    result = run_clean("zap-root", "--memory", "2G", "--zap-by", zap_by, "--zap-steps", steps)
    figures_fit(result, 2)
    counters = result.counters
    assert (counters["roots_created"], counters["roots_zapped"], counters["roots_freed"]) == (
        (2, 1, 1)
    )
    # The faults on the new root are what is mapped at the end.
    drop = result.phases[-1].counters
    assert counters["pages_4k"] == drop["pf_fixed"] > 0
    # What goes between two yield checks: all below an entry of the level that is zapped, and that
    # entry; where leafs go first, tables go with the root's entry nevertheless.
    below_1g = 512 + GIB_PAGES
    at_once = {"1g": below_1g, "4k-2m-1g": 512}.get(steps, 2 * below_1g + 512)
    assert counters["entries_between_checks_max"] == at_once


@pytest.mark.slow
@pytest.mark.parametrize("life", ["put", "owned"])
def test_with_exclusive_the_vm_dies_and_nobody_faults_meanwhile(life):
    result = run_clean("zap-root", "--memory", "1G", "--exclusive", "--root-life", life)
    figures_fit(result, 1)
    counters = result.counters
    assert counters["zap_overlap_ns"] == 0
    assert counters["roots_created"] == counters["roots_freed"] == 1
    assert counters["pages_4k"] == counters["tables_live"] == 0
    assert result.phases[-1].counters["accesses"] == 0


@pytest.mark.slow
def test_the_printed_figures_agree(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["stress", "zap-root", "--memory", "1G", "--results", str(tmp_path)]) == 0
    out = capfd.readouterr().out
    zapped, took, each = RATE.search(out).groups()
    assert int(zapped.replace(",", "")) == GIB_PAGES
    (run,) = tmp_path.glob("*/run.json")
    counters = json.loads(run.read_text())["counters"]
    assert float(took) == pytest.approx(counters["zap_ns"] / 1e9, abs=1e-9)
    assert float(each) == pytest.approx(counters["zap_cpu_ns"] / GIB_PAGES, abs=0.0051)
    (overlap,) = re.findall(r"Faults on the new root went on for (\d+\.\d)% of the zap", out)
    assert 0 <= float(overlap) <= 100


@pytest.mark.slow
def test_several_sizes_side_by_side_are_fitted(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    words = ["--memory", "1G,2G,3G", "--compare", "memory", "--results", str(tmp_path)]
    assert main(["stress", "zap-root", *words]) == 0
    out = capfd.readouterr().out
    table = out[re.search(r"\| +memory \|", out).start() :].splitlines()
    titles = [cell.strip() for cell in table[0].strip("|").split("|")]
    assert titles[:5] == ["memory", "SPTEs", "vCPU blocked", "zap", "CPU ns per SPTE"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:5]]
    for gibs, row in enumerate(rows, start=1):
        named = dict(zip(titles, row, strict=True))
        assert named["SPTEs"] == f"{gibs * GIB_PAGES:,}"
        assert float(named["zap"].removesuffix(" ms")) > 0
        assert float(named["CPU ns per SPTE"]) > 0
        assert 0 <= float(named["faults overlap"].removesuffix(" %")) <= 100
    assert "least squares: " in out
    assert "extrapolated, not measured: 64T would take " in out


@pytest.mark.slow
def test_policies_side_by_side_are_not_fitted(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    words = ["--memory", "1G", "--compare", "zap-by", "--results", str(tmp_path)]
    assert main(["stress", "zap-root", *words]) == 0
    out = capfd.readouterr().out
    table = out[out.index("| zap-by ") :].splitlines()
    assert [line.split("|")[1].strip() for line in table[2:4]] == ["worker", "caller"]
    assert "least squares" not in out


@pytest.mark.parametrize(
    ("faults", "overlap"),
    [
        (((300, 500), (400, 700)), 400),  # from the first of anybody to the last of anybody
        (((100, 2000),), 1000),  # no more than the zap
        (((0, 0), (900, 2000)), 300),  # who never faulted does not count
        (((1300, 2000),), 0),  # after the zap
        (((0, 0),), 0),
    ],
)
def test_the_overlap_is_the_part_of_the_zap_in_which_others_faulted(faults, overlap):
    words = np.zeros(FIRST_VCPU + 2 * len(faults), np.int64)
    words[ZAP_BEGAN], words[ZAP_ENDED] = 200, 1200
    words[FIRST_VCPU:] = np.ravel(faults)
    said: dict[str, int] = {}
    vm = SimpleNamespace(region=lambda name: words)
    report(SimpleNamespace(vm=vm, report=said.__setitem__))
    assert said["zap_ns"] == round(1000 / ticks_per_ns())
    assert said["zap_overlap_ns"] == round(overlap / ticks_per_ns())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--memory", "1000M"), "no multiple of 1G"),
        (("--memory", "1G,2G"), "add --compare memory"),
        (("--root-life", "owned"), "nothing is zapped"),
        (("-c", "0", "-v", "2"), "-c has 1 cores for 2 vCPUs"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said):
    with pytest.raises(UsageError, match=said) as caught:
        plan_of("zap-root", *words)
    assert "\n" not in str(caught.value)
