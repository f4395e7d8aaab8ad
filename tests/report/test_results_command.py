import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.cli import results
from harness.report import store
from workloads.errors import UsageError

OLD = "20260101T000000Z-stress-dirty-log-aaaaa1"
NEW = "20260202T000000Z-stress-dirty-log-bbbbb2"
HUGE = pytest.param(10**400, id="huge")

Document = dict[str, Any]


def stress(**changes: Any) -> Document:
    return {
        "schema": 1,
        "command": "stress",
        "workload": "dirty-log",
        "version": "0.1.0",
        "model": "c0ffee",
        "patch": None,
        "started": "2026-01-01T00:00:00Z",
        "config": {"vcpus": 4, "seed": 12345, "slots": {"count": 2}},
        "host": {"cores": 2},
        "outcome": "clean",
        "violations": [],
        "phases": [
            {"name": "Populate memory time", "seconds": 0.25},
            {"name": "Iteration 1 dirty memory time", "seconds": 0.5},
        ],
        "counters": {"faults": 262144, "spurious": 7, "tlb": {"flushes": 3}},
        "latency_ns": {
            "fault": {"count": 4096, "sampled": 64, "p50": 850, "p99": 12_345, "max": 4_560_000}
        },
        **changes,
    }


def scale_row(vcpus: int, variant: str, seconds: float, regime: str = "measured") -> Document:
    return {
        "vcpus": vcpus,
        "variant": variant,
        "phase": "dirty",
        "seconds": seconds,
        "q1": seconds * 0.9,
        "q3": seconds * 1.1,
        "n": 5,
        "regime": regime,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "results"


def keep(folder: Path, name: str, document: Document, table: str | None = None) -> Path:
    run = folder / name
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(document))
    if table is not None:
        (run / "table.txt").write_text(table)
    return run


def call(folder: Path, *words: str) -> int:
    parser = argparse.ArgumentParser(prog="tdprace results")
    results.add_arguments(parser)
    return results.run(parser.parse_args([*words, "--results", str(folder)]))


def cells(output: str, first: str) -> list[str]:
    """The cells of the only table row whose first cell is `first`."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines()]
    (row,) = [row for row in rows if row[0] == first]
    return row[1:]


def section(output: str, title: str) -> str:
    (part,) = [part for part in output.split("\n\n") if part.startswith(f"{title}:\n")]
    return part


def test_list_is_newest_first_with_totals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(folder, OLD, stress())
    violated = stress(outcome="violation", violations=[{"oracle": "tlb", "message": "stale"}] * 2)
    keep(folder, NEW, violated)
    assert call(folder, "list") == 0
    output = capsys.readouterr().out
    assert output.index(NEW) < output.index(OLD)
    assert cells(output, OLD) == ["stress", "dirty-log", "clean", "0.750000000s", "0"]
    assert cells(output, NEW) == ["stress", "dirty-log", "violation", "0.750000000s", "2"]
    assert "skipped" not in output
    assert "newest of" not in output


def test_list_counts_runs_of_every_shape(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"phases": [{"name": "p", "seconds": 1.5}], "violations": [{"oracle": "dirty"}]}
    keep(folder, f"{OLD}", {"schema": 1, "command": "stress", "runs": [one, one]})
    explored = {"schema": 1, "command": "explore", "scenario": "zap", "seconds": 2}
    keep(folder, f"{NEW}", explored)
    call(folder, "list")
    output = capsys.readouterr().out
    assert cells(output, OLD) == ["stress", "-", "-", "3.000000000s", "2"]
    assert cells(output, NEW) == ["explore", "zap", "-", "2.000000000s", "0"]


def test_list_says_what_it_leaves_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(folder, OLD, stress())
    (keep(folder, NEW, stress()) / "run.json").write_text("{")
    call(folder, "list")
    assert "1 skipped" in capsys.readouterr().out
    keep(folder, "20270101T000000Z-stress-x-ccccc3", stress())
    call(folder, "list", "-n", "1")
    output = capsys.readouterr().out
    assert "1 newest of 3" in output
    assert OLD not in output
    with pytest.raises(UsageError, match="-n 0"):
        call(folder, "list", "-n", "0")


def test_list_of_nothing_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(folder, "list") == 0
    assert capsys.readouterr().out == f"no readable runs in {folder}\n"


def test_json_alone_on_stdout_or_beside_the_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(folder, OLD, stress(), "THE TABLE\n")
    call(folder, "show", "latest", "--json", "-")
    assert json.loads(capsys.readouterr().out) == stress()
    call(folder, "list", "--json", str(tmp_path / "list.json"))
    assert OLD in capsys.readouterr().out
    listed = json.loads((tmp_path / "list.json").read_text())
    assert listed["runs"] == [
        {
            "run": OLD,
            "command": "stress",
            "workload": "dirty-log",
            "outcome": "clean",
            "seconds": 0.75,
            "violations": 0,
        }
    ]


def test_show_prints_the_table_and_every_part(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(folder, OLD, stress(), "THE TABLE\n")
    call(folder, "show", "aaaaa1")
    output = capsys.readouterr().out
    assert output.startswith(f"{folder / OLD}\n\nTHE TABLE\n\n")
    assert cells(section(output, "config"), "slots.count") == ["2"]
    assert cells(section(output, "config"), "seed") == ["12345"]
    assert cells(section(output, "host"), "cores") == ["2"]
    assert cells(section(output, "phases"), "Populate memory time") == ["0.250000000s"]
    assert cells(section(output, "counters"), "faults") == ["262,144"]
    assert cells(section(output, "latency"), "fault") == [
        *("4,096", "64", "850 ns", "12.3 us", "-", "4.56 ms")
    ]
    titles = ["config:", "host:", "phases:", "counters:", "latency:"]
    assert sorted(titles, key=output.index) == titles


def test_show_has_a_section_for_each_variant(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [stress(variant="zap"), stress(variant="fault", counters={"faults": 1})]
    keep(folder, OLD, {"schema": 1, "command": "stress", "compare": "huge-split", "runs": runs})
    call(folder, "show", OLD)
    output = capsys.readouterr().out
    assert cells(section(output, "counters (zap)"), "faults") == ["262,144"]
    assert cells(section(output, "counters (fault)"), "faults") == ["1"]


def test_show_of_other_commands_prints_their_records(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        "schema": 1,
        "command": "explore",
        "executions": 1234567,
        "violations": [{"oracle": "tlb", "message": "a|b", "actors": [0, 2]}],
        "outcomes": [{"values": [1, 0], "count": 12, "grade": "acceptable"}],
    }
    keep(folder, OLD, document)
    call(folder, "show", OLD)
    output = capsys.readouterr().out
    assert cells(section(output, "run"), "executions") == ["1,234,567"]
    assert cells(section(output, "outcomes"), "1,0") == ["12", "acceptable"]
    assert "a\\|b" in section(output, "violations")


def test_compare_puts_phases_and_counters_side_by_side(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(folder, OLD, stress())
    changed = stress(
        config={"vcpus": 4, "seed": 2, "slots": {"count": 2}, "new": True},
        model="decade",
        phases=[
            {"name": "Populate memory time", "seconds": 0.5},
            {"name": "Populate memory time", "seconds": 9},
        ],
        counters={"faults": 262000, "spurious": 7, "tlb": {"flushes": 3}, "retries": 5},
    )
    keep(folder, NEW, changed)
    call(folder, "compare", "aaaaa1", "bbbbb2")
    output = capsys.readouterr().out
    assert "the configs differ in seed, new\n" in output
    assert cells(section(output, "differences"), "model") == ["c0ffee", "decade"]
    assert cells(section(output, "differences"), "config.new") == ["-", "True"]
    assert "config.vcpus" not in output
    phases = section(output, "phases")
    assert phases.count("Populate memory time") == 2
    assert "| Populate memory time          | 0.250000000s | 0.500000000s | 2.00x |" in phases
    assert cells(phases, "Iteration 1 dirty memory time") == ["0.500000000s", "-", "-"]
    counters = section(output, "counters that differ")
    assert cells(counters, "faults") == ["262,144", "262,000", "-144"]
    assert cells(counters, "retries") == ["-", "5", "-"]
    assert "spurious" not in counters
    assert "flushes" not in counters


def test_compare_of_equal_runs_finds_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(folder, OLD, stress())
    keep(folder, NEW, stress())
    call(folder, "compare", OLD, NEW)
    output = capsys.readouterr().out
    assert "the configs are the same" in output
    assert "counters: none differs" in output
    assert "differences:" not in output
    assert "1.00x" in output


def test_compare_pairs_variants(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def document(**seconds: float) -> Document:
        runs = [
            {"variant": variant, "phases": [{"name": "dirty", "seconds": value}]}
            for variant, value in seconds.items()
        ]
        return {"schema": 1, "command": "stress", "compare": "huge-split", "runs": runs}

    keep(folder, OLD, document(zap=1.0, fault=2.0))
    keep(folder, NEW, document(fault=1.0, eager=4.0))
    call(folder, "compare", OLD, NEW)
    output = capsys.readouterr().out
    assert "only in A: zap" in output
    assert "only in B: eager" in output
    assert cells(section(output, "phases (fault)"), "dirty") == [
        *("2.000000000s", "1.000000000s", "0.50x")
    ]


def test_compare_says_when_only_one_side_has_variants(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(folder, OLD, stress())
    keep(folder, NEW, {"schema": 1, "command": "stress", "runs": [stress(variant="zap")]})
    call(folder, "compare", OLD, NEW)
    output = capsys.readouterr().out
    assert "only in A: the run without variants" in output
    assert "only in B: zap" in output


def test_compare_pairs_the_rows_of_scaling_tables(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows_a = [scale_row(1, "zap", 1.0), scale_row(2, "zap", 2.0)]
    rows_b = [scale_row(4, "zap", 8.0), scale_row(2, "zap", 3.0, "oversubscribed")]
    keep(folder, OLD, {"schema": 1, "command": "scale", "rows": rows_a})
    keep(folder, NEW, {"schema": 1, "command": "scale", "rows": rows_b})
    call(folder, "compare", OLD, NEW)
    scaling = section(capsys.readouterr().out, "scaling")
    assert cells(scaling, "2") == [
        *("zap", "dirty", "2.000000000s", "1.800000000s..2.200000000s"),
        *("3.000000000s", "2.700000000s..3.300000000s", "1.50x", "measured / oversubscribed"),
    ]
    assert cells(scaling, "1")[4:] == ["-", "-", "-", "measured"]
    assert cells(scaling, "4")[2:4] == ["-", "-"]
    call(folder, "compare", OLD, NEW, "--json", "-")
    compared = json.loads(capsys.readouterr().out)
    assert [row["ratio"] for row in compared["rows"]] == [None, 1.5, None]
    assert compared["rows"][0]["row_b"] is None


def test_compare_refuses_runs_of_different_commands(folder: Path) -> None:
    keep(folder, OLD, stress())
    keep(folder, NEW, {"schema": 1, "command": "scale"})
    with pytest.raises(UsageError, match=r"compare runs of one command"):
        call(folder, "compare", OLD, NEW)


@pytest.mark.parametrize("action", [("list",), ("show", OLD), ("compare", OLD, NEW)])
@pytest.mark.parametrize(
    "part", [None, 1, "x", [], [1], {}, [{}], {"a": {}}, [{"variant": [None]}], HUGE, "\ud800"]
)
@pytest.mark.parametrize(
    "name", ["phases", "counters", "latency_ns", "config", "runs", "rows", "violations", "seconds"]
)
def test_parts_of_any_shape_are_no_reason_to_crash(
    folder: Path,
    action: tuple[str, ...],
    part: Any,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keep(folder, OLD, stress(**{name: part}))
    keep(folder, NEW, stress(phases=[{"name": 1, "seconds": part}], rows=[{"seconds": part}]))
    assert call(folder, *action) == 0
    assert call(folder, *action, "--json", "-") == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["bogus"], ["show"], ["compare", "a"], ["list", "-n", "x"]])
def test_wrong_usage_is_argparses_status_2(
    folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        call(folder, *words)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_what_open_run_wrote_is_found_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = store.open_run(folder, "stress", "dirty-log")
    run.write_text(store.TABLE_FILE, "PHASES")
    run.write(stress())
    call(folder, "show", run.path.name[-6:])
    assert "PHASES" in capsys.readouterr().out


def test_the_command_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys, harness.cli.results, harness.bugs.tree, workloads.units\n"
        "sys.exit(bool({'numba', 'numpy', 'tabulate', 'rich'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
