"""nx_huge_pages_test: exact counters, and a model that counts or recovers wrongly is caught."""

import json

import pytest

from harness.bugs.catalogue import SOURCE_ROOT
from tests.command import tdprace
from tests.workloads.runs import plan_of, run_clean
from workloads.actors.nx_recovery import recovery_period_ms
from workloads.errors import RunFailed, UsageError
from workloads.nx_huge_pages import MAGIC_TOKEN, STEPS, check_counters

STEP_NAMES = [step[0] for step in STEPS]
# A wrong line of the model: its file, the line, what stands there instead, what the run says.
WRONG = {
    "table-not-listed": (
        "mmu/tdp/map.py",
        "            tracked = huge_disallowed and requested >= level\n",
        "            tracked = huge_disallowed and requested > level\n",
        "after 'call hp1': expected pages_2m 1, nx_lpage_splits 1; found 1, 0",
    ),
    "table-not-zapped": (
        "mmu/nx_recovery.py",
        "    zapped = zap_sp(cpu, page) if _is_worth_it(cpu, gfn) else 0\n",
        "    zapped = 0 * gfn\n",
        "after 'read hp3': expected pages_2m 2, nx_lpage_splits 0; found 1, 0",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [(), ("--huge-split", "zap", "--flush", "all"), ("--huge-split", "fault", "--no-pml")]
)
def test_counters_are_exact(words):
    result = run_clean("nx-huge-pages", "-p", "20", "-t", str(MAGIC_TOKEN), *words)
    assert [phase.name for phase in result.phases] == ["start", *STEP_NAMES, "destroy"]
    (reclaim,) = (phase for phase in result.phases if phase.name == "reclaim")
    assert reclaim.counters["nx_recovered"] == 2
    assert reclaim.seconds >= 5 * 0.02


@pytest.mark.slow
def test_a_vm_with_nx_disabled_splits_nothing():
    result = run_clean("nx-huge-pages", "-p", "20", "-r")
    names = [phase.name for phase in result.phases]
    assert names[len(STEPS) + 1] == "disable NX"
    assert names[-2] == "read hp3, NX disabled"
    assert result.counters["nx_recovered"] == 2
    only = run_clean("nx-huge-pages", "-p", "20", "--no-nx-huge-pages", "-r")
    assert [phase.name for phase in only.phases][1] == "read hp1, NX disabled"
    assert only.counters["nx_recovered"] == only.counters["splits_2m"] == 0


def test_a_wrong_counter_names_step_expected_and_found():
    class Words:
        words = dict.fromkeys(range(4096), 7)

    with pytest.raises(RunFailed, match="'read': expected pages_2m 7, nx_lpage_splits 8; found 7"):
        check_counters(Words, "read", (7, 8))
    check_counters(Words, "read", (7, 7))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("table-not-listed", marks=pytest.mark.thorough), "table-not-zapped"]
)
def test_a_broken_model_is_a_failed_run(tmp_path, name):
    file, line, instead, said = WRONG[name]
    patch = tmp_path / "wrong.diff"
    number = (SOURCE_ROOT / file).read_text().splitlines(keepends=True).index(line) + 1
    where = f"@@ -{number},1 +{number},1 @@\n"
    patch.write_text(f"--- a/{file}\n+++ b/{file}\n{where}-{line}+{instead}")
    words = ("nx-huge-pages", "-p", "20", "--patch", patch, "--results", tmp_path)
    done = tdprace("stress", *words, "--quiet", "--json", "-")
    assert (done.returncode, json.loads(done.stdout)["outcome"]) == (4, "failed"), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [(("-t", "5"), "magic token"), (("-p", "0"), "the period"), (("-p", "x"), "the period")],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said):
    with pytest.raises((UsageError, SystemExit), match=said) as caught:
        plan_of("nx-huge-pages", *words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("period_ms", "ratio", "expected"),
    [(100, 60, 100), (100, 0, 0), (0, 0, 0), (0, 60, 60_000), (0, 1, 3_600_000), (0, 9999, 1000)],
)
def test_a_period_of_0_follows_from_the_ratio(period_ms, ratio, expected):
    assert recovery_period_ms(period_ms, ratio) == expected
