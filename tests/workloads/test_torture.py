"""Everything that changes mappings at once is clean under every policy, and leaves nothing."""

import pytest

from tests.workloads.runs import plan_of, run_clean
from workloads.errors import UsageError
from workloads.registry import load

# Long enough for everybody to have had a core, whoever else wants one.
SHORT = ("torture", "-v", "2", "--seconds", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--root-switches", "1"),  # more roots than the worker can zap, if nobody waited
        ("-b", "64k"),  # all of it in the TLBs when the host takes it away
        ("--zap-by", "caller", "--root-switches", "1", "-r", "7"),
        ("--root-life", "owned", "--zap-by", "caller"),
        ("--root-life", "owned", "--flush", "all", "--no-pml"),
        ("--zap-steps", "root", "-s", "2m", "-b", "16M"),
        ("--zap-steps", "leafs-first", "-s", "2m", "-b", "16M", "--huge-split", "fault"),
        ("--zap-steps", "4k-2m-1g", "-s", "2m", "-b", "16M", "--huge-split", "zap", "-o"),
    ],
)
def test_it_is_clean_and_nothing_is_left(words):
    result = run_clean(*SHORT, *words)
    assert [phase.name for phase in result.phases] == ["torture", "destroy"]
    counted = result.phases[0].counters
    for name in (
        "accesses",
        "reads",
        "writes",
        "executes",
        "mmio_exits",
        "pf_taken",
        "host_faults",
    ):
        assert counted[name] > 0, name
    # What a completed access was: nothing else is counted as one.
    assert counted["accesses"] == counted["reads"] + counted["writes"] + counted["executes"]
    for name in ("notifier_unmaps", "slots_changed", "roots_invalidated", "sptes_zapped"):
        assert counted[name] > 0, name
    # Each turn creates and deletes a memslot, one in four moves one away and back.
    assert counted["slots_changed"] % 2 == 0
    left = result.counters
    # One that is still used when the VM dies may be zapped by who dropped it, and again.
    assert 1 < left["roots_created"] == left["roots_freed"] <= left["roots_zapped"]
    assert left["pages_4k"] == left["pages_2m"] == left["pages_1g"] == left["tables_live"] == 0


@pytest.mark.slow
def test_vcpus_load_other_roots_as_often_as_they_are_told():
    """Memslot changes make them drop roots too: what counts is how many more there are."""

    def drops_per_change(turns: str) -> float:
        result = run_clean(*SHORT, "--root-switches", turns)
        drops = result.latency_ns["root_drop"]["count"]
        return float(drops / result.phases[0].counters["slots_changed"])

    assert drops_per_change("0") < drops_per_change("1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-b", "8k", "-v", "1"), "four backing pages"),
        (("-b", "6M", "-s", "2m", "-v", "1"), "four backing pages"),
        (("-b", "5000"), "no multiple of the backing page"),
        (("--seconds", "0"), "is zero"),
        (("-c", "0,0,0,0,0,0,0", "-v", "2"), "-c has 7 cores for 2 vCPUs"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said):
    with pytest.raises(UsageError, match=said) as caught:
        plan_of("torture", *words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("zap_by", "services"), [("worker", 1), ("caller", 0)])
def test_there_is_a_zap_worker_where_one_zaps(zap_by, services):
    plan = plan_of("torture", "-v", "3", "--zap-by", zap_by)
    assert len(plan.services) == services
    assert len(plan.roles) == 3 + 2 + services
    assert plan.workload == load("torture").NAME
