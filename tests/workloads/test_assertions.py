"""Workloads judge by themselves what no oracle knows: each notices a model that is wrong there."""

from pathlib import Path

import pytest

from tests.command import tdprace

MUTATIONS = Path(__file__).parent / "mutations"

# Diff: the run, and what it says.
CAUGHT = {
    "demand-paging-page-without-its-contents": (
        ("demand-paging", "-b", "1M", "-u", "MISSING"),
        "256 pages do not hold what they should",
    ),
    "page-table-never-huge": (
        ("page-table", "-b", "4M", "-s", "2m"),
        "after KVM_CREATE_MAPPINGS there are 2 4k, 0 2m, 0 1g mappings",
    ),
    "mmu-stress-fault-undoes-mprotect": (
        # 4k pages: of a huge one the fault would give back a part, which is the mapping oracle's.
        ("mmu-stress", "-c", "1", "-m", "1", "-s", "1"),
        "vcpu 0 went on writing to memory that is read-only",
    ),
}


def test_every_diff_has_its_run():
    assert sorted(CAUGHT) == sorted(path.stem for path in MUTATIONS.glob("*.diff"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=pytest.mark.thorough) if "demand-paging" not in each else each
        for each in CAUGHT
    ],
)
def test_a_wrong_model_is_noticed(name, tmp_path):
    words, said = CAUGHT[name]
    more = ("--quiet", "--patch", MUTATIONS / f"{name}.diff", "--results", tmp_path)
    done = tdprace("stress", *words, *more)
    assert done.returncode == 4, done.stdout
    assert said in done.stderr
