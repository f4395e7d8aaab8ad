"""Roots: who shares one, who may use it, who zaps and frees it; for both lives of a root."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.watch.stepper import Stepper
from mmu.hw.vcpu import request_all
from mmu.machine import layout as at
from mmu.machine.cpu import Cpu
from mmu.machine.lock import (
    mmu_read_lock,
    mmu_read_unlock,
    mmu_write_lock,
    mmu_write_unlock,
    slots_lock,
    slots_unlock,
)
from mmu.machine.twin import interpreted
from mmu.pages import free_deferred
from mmu.reload import load_root, reload_if_obsolete, switch_root, unload_root
from mmu.roots import (
    alloc_root,
    get_root,
    invalidate_all_roots,
    next_root,
    next_valid_root,
    put_root,
    root_invalid,
)
from mmu.zap_all import destroy_vm, zap_all_fast
from mmu.zap_worker import flush_zap_worker, zap_scheduled_roots, zap_worker_turn
from tests.model.worlds import PAGES, World, modes, world

VCPUS = 3
HELPER = VCPUS  # the actor behind the vCPUs

lives = pytest.mark.parametrize("life", ["put", "owned"])
# Address space << 3 | level.
ROLES = [4, 5, 1 << 3 | 4, 1 << 3 | 5]


def roots_world(twin: bool, **options: Any):
    return world(twin, vcpus=VCPUS, roots=5, **options)


def references(it: World, root: int) -> int:
    return int(record(it, root)[at.SP_ROOT_COUNT])


def record(it: World, root: int):
    return it.vm.region("records").reshape(-1, at.RECORD_WORDS)[root >> 3]


def invalidate(it: World) -> None:
    """Invalidate all roots, and ask vCPUs to leave theirs, in one critical section."""
    it.run(mmu_write_lock, HELPER)
    it.run(invalidate_all_roots, HELPER)
    it.run(request_all, HELPER)
    it.run(mmu_write_unlock, HELPER)


def nothing_is_left(it: World, destroyed: bool = False) -> None:
    """No root, and every table page is the host's again, or at hand in a vCPU's cache."""
    for actor in range(it.vm.config.actors):
        it.run(free_deferred, actor)
    assert it.roots() == []
    assert it.mapped() == set()
    statistics = (at.STAT_PAGES_4K, at.STAT_PAGES_2M, at.STAT_PAGES_1G, at.STAT_TABLES)
    assert [int(it.vm.words[word]) for word in statistics] == [0] * 4
    allocated, freed = it.count(at.N_TABLES_ALLOCATED), it.count(at.N_TABLES_FREED)
    assert allocated == freed
    created = it.count(at.N_ROOTS_CREATED)
    assert it.count(at.N_ROOTS_FREED) == created
    # The VM's death zaps what is there, whoever frees it later looks once more.
    assert it.count(at.N_ROOTS_ZAPPED) >= created
    assert destroyed or it.count(at.N_ROOTS_ZAPPED) == created
    free = int(it.vm.words[at.POOL_TOP]) + it.count(at.TABLE_CACHE_COUNT)
    assert free == int(it.vm.words[at.POOL_FRESH]) - 1
    assert it.problems() == []


# --- References ----------------------------------------------------------------------------------


@modes
@lives
def test_a_reference_is_taken_and_given_back(twin: bool, life: str) -> None:
    with roots_world(twin, root_life=life) as it:
        it.run(load_root, 0)
        root, first = it.root_of(0), 1 + (life == "owned")
        assert references(it, root) == first
        for held in range(1, 4):
            assert it.run(get_root, HELPER, root) == 1
            assert references(it, root) == first + held
        for held in (2, 1, 0):
            it.locked(False, put_root, HELPER, root)
            assert references(it, root) == first + held
        assert it.problems() == []


@modes
def test_no_reference_comes_back_from_none(twin: bool) -> None:
    with roots_world(twin) as it:
        it.run(load_root, 0)
        record(it, it.root_of(0))[at.SP_ROOT_COUNT] = 0
        assert it.run(get_root, HELPER, it.root_of(0)) == 0
        assert references(it, it.root_of(0)) == 0
        # Nor is it found any more by whoever wants one of its role, or walks the list.
        it.run(load_root, 1)
        assert it.root_of(1) != it.root_of(0)
        assert it.locked(False, next_root, HELPER, 0, 0) == it.root_of(1)
        assert it.locked(False, next_root, HELPER, it.root_of(1), 0) == 0


@modes
def test_one_put_too_many_is_noticed(twin: bool) -> None:
    with roots_world(twin, root_life="owned") as it:
        it.run(load_root, 0)
        for _ in range(2):
            it.locked(False, put_root, HELPER, it.root_of(0))
        assert "lost its last reference while it was valid" in " ".join(it.problems())


# --- The last put --------------------------------------------------------------------------------


@modes
@given(st.sets(st.integers(0, PAGES - 1), max_size=6), st.integers(1, 3))
def test_the_last_put_zaps_frees_and_gives_everything_back(
    twin: bool, touched: set[int], backing: int
) -> None:
    with roots_world(twin, backing_level=backing) as it:
        it.touch(touched, vcpu=0)
        it.touch([0], vcpu=1)
        assert it.root_of(0) == it.root_of(1)
        it.run(unload_root, 0)
        assert it.count(at.N_ROOTS_ZAPPED) == 0
        assert touched | {0} <= it.mapped()
        it.run(unload_root, 1)
        nothing_is_left(it)


@modes
@given(st.sets(st.integers(0, PAGES - 1), max_size=6))
def test_an_owned_root_outlives_its_users(twin: bool, touched: set[int]) -> None:
    with roots_world(twin, root_life="owned") as it:
        it.touch(touched)
        root, mapped = it.root_of(0), it.mapped()
        it.run(unload_root, 0)
        assert [(each.handle, each.references, each.invalid) for each in it.roots()] == [
            (root, 1, False)
        ]
        assert it.mapped() == mapped
        allocated = it.count(at.N_TABLES_ALLOCATED)
        it.touch(touched, vcpu=1)
        assert (it.root_of(1), it.count(at.N_TABLES_ALLOCATED)) == (root, allocated)
        assert it.problems() == []


@modes
def test_the_worker_gets_the_last_reference(twin: bool) -> None:
    with roots_world(twin, zap_by="worker") as it:
        it.touch(range(4))
        it.run(unload_root, 0)
        (root,) = it.roots()
        assert (root.references, root.invalid, root.scheduled) == (1, True, True)
        assert it.mapped() == set(range(4))
        assert it.run(zap_worker_turn, HELPER) == 1
        it.run(flush_zap_worker, 0)
        nothing_is_left(it)


@modes
def test_while_the_vm_dies_nobody_leaves_it_to_the_worker(twin: bool) -> None:
    with roots_world(twin, zap_by="worker") as it:
        it.touch(range(4))
        it.vm.words[at.USERS] = 0
        it.run(unload_root, 0)
        assert it.vm.words[at.ZAP_QUEUED] == 0
        it.vm.words[at.USERS] = 1
        nothing_is_left(it)


# --- Invalidation --------------------------------------------------------------------------------


@modes
@lives
def test_an_invalid_root_lives_until_its_last_user_reloads(twin: bool, life: str) -> None:
    with roots_world(twin, root_life=life) as it:
        it.touch(range(4))
        root = it.root_of(0)
        invalidate(it)
        assert it.run(root_invalid, 0, root) == 1
        (listed,) = it.roots()
        # The zapper has one of its own, or the one that the TDP MMU owned.
        assert (listed.references, listed.invalid, listed.scheduled) == (2, True, True)
        invalidate(it)
        assert references(it, root) == 2
        it.run(zap_scheduled_roots, HELPER)
        assert it.mapped() == set()
        assert [(each.handle, each.references) for each in it.roots()] == [(root, 1)]
        assert it.problems() == []
        it.run(reload_if_obsolete, 0)
        assert it.root_of(0) != root
        assert [each.handle for each in it.roots()] == [it.root_of(0)]
        assert it.count(at.N_ROOTS_FREED) == 1
        assert it.problems() == []


@modes
@lives
def test_an_unused_root_dies_with_its_invalidation(twin: bool, life: str) -> None:
    with roots_world(twin, root_life=life) as it:
        it.touch(range(4))
        it.run(unload_root, 0)
        invalidate(it)
        it.run(zap_scheduled_roots, HELPER)
        nothing_is_left(it)


actions = st.one_of(
    st.tuples(st.just("switch"), st.integers(0, VCPUS - 1), st.sampled_from([0, *ROLES])),
    st.tuples(st.just("touch"), st.integers(0, VCPUS - 1), st.integers(0, PAGES - 1)),
    st.tuples(st.just("reload"), st.integers(0, VCPUS - 1), st.just(0)),
    st.tuples(st.just("invalidate"), st.just(HELPER), st.booleans()),
)


class Sharing:
    """What roots there should be: one valid root a role, which all who load that role share."""

    def __init__(self, it: World, life: str) -> None:
        self.it, self.life = it, life
        self.roles = [4] * VCPUS
        self.valid: dict[int, int] = {}

    def loaded(self, vcpu: int) -> None:
        """The vCPU has just got a root: the valid one of its role if there was one."""
        root, role = self.it.root_of(vcpu), self.roles[vcpu]
        assert root == self.valid.setdefault(role, root)
        assert root & 7 == role & 7
        assert record(self.it, root)[at.SP_ROOT_ROLE] == role
        assert self.it.run(root_invalid, vcpu, root) == 0

    def act(self, what: str, actor: int, detail: int) -> None:
        it = self.it
        if what == "invalidate":
            invalidate(it)
            self.valid.clear()
            if detail:
                it.run(zap_scheduled_roots, actor)
            return
        it.run(reload_if_obsolete, actor)
        self.loaded(actor)
        if what == "touch":
            it.touch([detail], vcpu=actor)
            assert detail in it.mapped_below(it.root_of(actor))
        elif what == "switch":
            self.roles[actor] = detail or 4
            it.run(switch_root, actor, detail)
            self._forget_dead()
            self.loaded(actor)

    def _forget_dead(self) -> None:
        """Without a user a root is gone, unless the TDP MMU owns it."""
        listed = {each.handle for each in self.it.roots()}
        self.valid = {role: root for role, root in self.valid.items() if root in listed}


@modes
@lives
@given(st.lists(actions, max_size=12))
def test_one_valid_root_a_role_and_never_an_invalid_one(
    twin: bool, life: str, script: list[tuple[str, int, int]]
) -> None:
    with roots_world(twin, root_life=life) as it:
        for vcpu in range(VCPUS):
            it.run(load_root, vcpu)
        sharing = Sharing(it, life)
        for each in script:
            sharing.act(*each)
            assert it.problems() == []
            valid = {root.handle for root in it.roots() if not root.invalid}
            assert set(sharing.valid.values()) <= valid
            used = {it.root_of(vcpu) for vcpu in range(VCPUS)}
            assert life == "owned" or valid <= used
        it.run(destroy_vm, HELPER)
        nothing_is_left(it, destroyed=True)


def test_a_root_whose_last_put_came_between_is_given_back() -> None:
    with roots_world(True) as it:
        it.run(load_root, 0)
        old = it.root_of(0)

        def load(cpu: Cpu) -> int:
            interpreted(mmu_read_lock)(cpu)
            root = interpreted(alloc_root)(cpu, 4)
            interpreted(mmu_read_unlock)(cpu)
            return int(root)

        it.vm.actor_words(1)[at.TABLE_CACHE_COUNT] = 0
        it.run(load_root, 1)
        it.run(unload_root, 1)
        vcpus = {0: (it.vm.cpu(0), interpreted(unload_root)), 1: (it.vm.cpu(1), load)}
        stepper = Stepper(vcpus)
        validity = it.vm.layout.start("records") + (old >> 3) * at.RECORD_WORDS + at.SP_ROOT_INVALID
        while stepper.pending[1][1] != validity:
            stepper.step(1)
        stepper.step(1)  # still valid
        while not it.vm.words[validity] or not references(it, old):
            stepper.step(0)  # the last put: invalid, and one reference again
        while stepper.pending:
            stepper.step(max(n for n in stepper.pending if stepper.enabled(n)))
        assert stepper.results[1] != old
        assert [each.handle for each in it.roots()] == [stepper.results[1]]


# --- Side by side --------------------------------------------------------------------------------


@modes
@lives
def test_levels_and_address_spaces_side_by_side(twin: bool, life: str) -> None:
    with world(twin, vcpus=4, roots=5, root_life=life) as it:
        for vcpu, role in enumerate(ROLES):
            it.run(switch_root, vcpu, role)
            it.touch([vcpu, vcpu + 8], vcpu=vcpu)
        handles = [it.root_of(vcpu) for vcpu in range(4)]
        assert len(set(handles)) == 4
        assert [root & 7 for root in handles] == [4, 5, 4, 5]
        assert [it.mapped_below(root) for root in handles] == [{v, v + 8} for v in range(4)]
        assert it.problems() == []
        # One goes, the others stay.
        it.run(switch_root, 1, ROLES[0])
        assert it.root_of(1) == handles[0]
        gone = [] if life == "owned" else [handles[1]]
        assert {each.handle for each in it.roots()} == set(handles) - set(gone)
        assert it.mapped_below(handles[3]) == {3, 11}
        it.run(slots_lock, 4)
        it.run(zap_all_fast, 4)
        it.run(slots_unlock, 4)
        assert it.mapped() == set()
        it.run(destroy_vm, 4)
        nothing_is_left(it, destroyed=True)


@modes
def test_whoever_walks_the_list_holds_one_reference_at_a_time(twin: bool) -> None:
    with roots_world(twin, root_life="owned") as it:
        for role in ROLES:
            it.run(switch_root, 0, role)
        it.run(unload_root, 0)
        handles = [each.handle for each in it.roots()]
        record(it, handles[1])[at.SP_ROOT_INVALID] = 1
        for only_valid in (0, 1):
            expected = [root for root in handles if not only_valid or root != handles[1]]
            walked = [it.locked(False, next_root, HELPER, 0, only_valid)]
            while walked[-1]:
                counts = [references(it, root) for root in handles]
                assert counts == [1 + (root == walked[-1]) for root in handles]
                walked.append(it.locked(False, next_root, HELPER, walked[-1], only_valid))
            assert walked == [*expected, 0]
        assert it.locked(True, next_valid_root, HELPER, handles[0]) == handles[2]
        assert [references(it, root) for root in handles] == [1] * 4


def test_a_reader_finds_the_roots_behind_one_that_is_freed() -> None:
    with roots_world(True, zap_by="caller") as it:
        it.run(load_root, 0)
        it.run(switch_root, 1, ROLES[2])
        behind, freed = it.root_of(0), it.root_of(1)
        assert [each.handle for each in it.roots()] == [freed, behind]

        def walk(cpu: Cpu) -> int:
            interpreted(mmu_read_lock)(cpu)
            return int(interpreted(next_root)(cpu, 0, 1))

        stepper = Stepper(
            {1: (it.vm.cpu(1), interpreted(unload_root)), HELPER: (it.vm.cpu(HELPER), walk)}
        )
        while stepper.pending[HELPER][1] != at.ROOTS:
            stepper.step(HELPER)
        stepper.step(HELPER)  # stands on the first root, inside an RCU section
        while 1 in stepper.pending:
            stepper.step(1)
        while HELPER in stepper.pending:
            stepper.step(HELPER)
        assert stepper.results[HELPER] == behind
