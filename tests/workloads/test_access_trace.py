"""The committed trace, replayed by real processes: every count equals a count of its lines."""

import gzip
from collections import Counter
from pathlib import Path

import pytest

from harness.cli.main import build_parser
from harness.run.session import Session, SignalFlag
from harness.run.status import Status
from workloads.registry import load

TRACE = Path(__file__).parents[2] / "workloads" / "traces" / "sort.lackey.gz"


@pytest.fixture(scope="module")
def lines() -> tuple[Counter[str], Counter[str], set[int]]:
    """(records by kind, accesses by what they do, distinct pages), by splitting lines."""
    records: Counter[str] = Counter()
    accesses: Counter[str] = Counter()
    pages: set[int] = set()
    does = {"I": ["executes"], "L": ["reads"], "S": ["writes"], "M": ["reads", "writes"]}
    with gzip.open(TRACE, "rt") as file:
        for line in file:
            if line.startswith("==") or not line.strip():
                continue
            kind, operands = line.split()
            address, size = operands.split(",")
            first, last = int(address, 16) >> 12, (int(address, 16) + int(size) - 1) >> 12
            records[kind] += 1
            for what in does[kind]:
                accesses[what] += last - first + 1
            pages.update((first, last))
    return records, accesses, pages


@pytest.mark.slow
@pytest.mark.parametrize(
    ("vcpus", "share", "times"), [(1, "replay", 1), (2, "replay", 2), (3, "split", 1)]
)
def test_counts_equal_those_of_the_lines(lines, vcpus, share, times):
    records, accesses, pages = lines
    words = ["stress", "access-trace", "--trace", str(TRACE), "-v", str(vcpus)]
    args = build_parser(words).parse_args([*words, "--share", share, "--memory", "2M"])
    with SignalFlag() as flag:
        plan = load("access-trace").plan(args)
        result = Session(plan, Status(quiet=True)).run(flag, lambda phase, outcome: None)
    assert result.outcome == "clean", (result.error, result.violations)
    counted = result.counters
    for kind, number in records.items():
        assert counted[f"trace_records_{kind}"] == number
    for what, number in accesses.items():
        assert counted[what] == number * times
    assert counted["accesses"] == accesses.total() * times
    assert counted["trace_pages"] == counted["pages_4k"] == len(pages)
