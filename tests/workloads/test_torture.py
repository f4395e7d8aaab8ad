"""Everything that changes mappings at once is clean under every policy, and leaves nothing."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmu.machine.layout import C_WORKLOAD, LINE, N_ACCESSES
from tests.workloads.runs import plan_of, run_clean
from workloads.actors.turmoil_words import COUNTED
from workloads.errors import RunFailed, UsageError
from workloads.rates import ACCESSES, ACCESSES_PER_SECOND, FLOORS, check_rates, cores, floors
from workloads.registry import load
from workloads.swarm import FEATURES, HUGE_ONLY, NEEDS, choose

# Long enough for everybody to have had a core, whoever else wants one.
SHORT = ("torture", "-v", "2", "--seconds", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--root-switches", "1"),  # more roots than the worker can zap, if nobody waited
        ("-s", "4k", "-b", "64k"),  # all of it in the TLBs when the host takes it away
        ("-s", "4k", "-b", "4M", "--zap-by", "caller", "--root-switches", "1", "-r", "7"),
        ("--root-life", "owned", "--zap-by", "caller"),
        ("--root-life", "owned", "--flush", "all", "--no-pml"),
        ("--zap-steps", "root", "--no-ad"),
        ("--zap-steps", "leafs-first", "--huge-split", "fault", "--dirty-log-mode", "manual"),
        ("--zap-steps", "4k-2m-1g", "--huge-split", "zap", "-o"),
        ("--dirty-log-mode", "initially-set", "--huge-split", "eager"),
    ],
)
def test_it_is_clean_and_nothing_is_left(words):
    result = run_clean(*SHORT, "--with", "all", *words)
    names = [phase.name for phase in result.phases]
    assert names == ["life 1", "destroy 1", "create 2", "life 2", "destroy 2", "rates"]
    counted = result.phases[0].counters
    for name in ("reads", "writes", "executes", "mmio_exits", "pf_taken", "host_faults"):
        assert counted[name] > 0, name
    # What a completed access was: nothing else is counted as one.
    assert counted["accesses"] == counted["reads"] + counted["writes"] + counted["executes"]
    for name in ("notifier_unmaps", "slots_changed", "roots_invalidated", "sptes_zapped"):
        assert counted[name] > 0, name
    # Each turn creates and deletes a memslot, one in four moves one away and back.
    assert counted["slots_changed"] % 2 == 0
    done = result.counters
    assert done["migration rounds"] > done["migrations"] > 0
    # One that is still used when the VM dies may be zapped by who dropped it, and again.
    assert 1 < done["roots_created"] == done["roots_freed"] <= done["roots_zapped"]
    assert done["pages_4k"] == done["pages_2m"] == done["pages_1g"] == done["tables_live"] == 0


@pytest.mark.slow
def test_what_is_off_does_not_happen():
    result = run_clean(*SHORT, "--without", "all")
    assert result.counters["accesses"] > 0
    done = {what: result.counters[what] for what in COUNTED}
    assert {what for what, times in done.items() if times} == {"turns of vCPUs"}
    for name in ("executes", "mmio_exits", "slots_changed", "notifier_unmaps", "pml_entries"):
        assert result.counters[name] == 0, name


def test_a_seed_has_each_feature_on_or_off_and_a_few_seeds_have_it_both_ways():
    chosen = [choose(seed, (), (), huge_pages=True) for seed in range(1, 11)]
    for feature in FEATURES:
        assert {each[feature] for each in chosen} == {True, False}, feature
    assert chosen[2] == choose(3, (), (), huge_pages=True)
    for features in chosen:
        for feature, needed in NEEDS.items():
            assert features[needed] or not features[feature]


@given(st.integers(0, 1 << 31), st.sets(st.sampled_from(sorted(FEATURES))), st.booleans())
def test_what_the_user_names_goes_before_the_seed(seed, named, huge):
    off = choose(seed, (), named, huge)
    assert not any(off[feature] for feature in named)
    on = choose(seed, named, (), huge)
    for feature in named:
        possible = huge or feature not in HUGE_ONLY
        assert on[feature] == (possible and on.get(NEEDS.get(feature, ""), True))
    untouched = set(FEATURES) - named - set(NEEDS)
    drawn = choose(seed, (), (), huge)
    assert {f: on[f] for f in untouched} == {f: drawn[f] for f in untouched}


def test_policies_that_nobody_gave_follow_from_the_seed():
    drawn = {plan_of("torture", "-v", "4", "-r", str(seed)).vm.zap_steps for seed in range(20)}
    assert drawn == {"1g", "root", "leafs-first", "4k-2m-1g"}
    given = plan_of("torture", "-v", "4", "--zap-steps", "root", "-r", "5")
    assert given.vm.zap_steps == "root"
    assert "zap-steps root" in given.header[-1]


def test_an_actor_below_its_floor_fails_the_run():
    features = choose(1, tuple(FEATURES), (), huge_pages=True)
    least = floors(features, 60.0, 16)
    assert all(value > 0 for value in least.values())
    # Twice as many processes may do half as much, once there are more of them than cores.
    more = floors(features, 60.0, 2 * 16 * cores())
    assert all(value <= least[what] for what, value in more.items())
    assert floors(dict.fromkeys(features, False), 60.0, 16).keys() == {ACCESSES}


def _actor(done):
    words = np.zeros(2000, np.int64)
    words[C_WORKLOAD] = 1000
    for number, what in enumerate(COUNTED):
        words[1000 + LINE + number] = done.get(what, 0)
    own = np.zeros(1000, np.int64)
    own[N_ACCESSES] = done[ACCESSES]
    config = SimpleNamespace(vcpus=1)
    vm = SimpleNamespace(words=words, config=config, actor_words=lambda vcpu: own)
    return SimpleNamespace(vm=vm, stopping=lambda: False)


def test_each_floor_is_looked_at():
    features = choose(1, tuple(FEATURES), (), huge_pages=True)
    least = floors(features, 60.0, 4)
    check_rates(_actor(least), features, 60.0, 4)
    for what, times in least.items():
        with pytest.raises(RunFailed, match=f"{what}: {times - 1} in 60 s, at least {times}"):
            check_rates(_actor({**least, what: times - 1}), features, 60.0, 4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-s", "4k", "-b", "8k", "-v", "1"), "four backing pages"),
        (("-b", "6M", "-s", "2m", "-v", "1"), "four backing pages"),
        (("-s", "4k", "-b", "5000"), "no multiple of the backing page"),
        (("--seconds", "0"), "is zero"),
        (("-c", "0,0,0", "-v", "4"), "-c has 3 cores for 4 vCPUs"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, said):
    with pytest.raises(UsageError, match=said) as caught:
        plan_of("torture", *words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("zap_by", "services"), [("worker", 1), ("caller", 0)])
def test_there_is_a_zap_worker_where_one_zaps(zap_by, services):
    plan = plan_of("torture", "-v", "3", "--without", "all", "--zap-by", zap_by)
    assert len(plan.services) == services
    assert len(plan.roles) == 3 + 1 + services
    assert plan.workload == load("torture").NAME


def test_a_feature_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit):
        plan_of("torture", "--with", "migration,teleport")
    assert "'teleport' is no feature; there are: execute" in capsys.readouterr().err


def test_the_documents_floors_are_the_ones_in_force():
    text = (Path(__file__).parents[2] / "docs" / "torture.md").read_text(encoding="utf-8")
    rows = [(each.what, f"`{each.feature}`", f"{each.per_second:g}") for each in FLOORS]
    rows.append((ACCESSES, "", f"{ACCESSES_PER_SECOND:g}"))
    for row in rows:
        assert "| " + " | ".join(row).replace("|  |", "| |") + " |" in text
    for feature in FEATURES:
        assert f"`{feature}`" in text
