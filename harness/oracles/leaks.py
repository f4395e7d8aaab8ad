"""leaks: every table page is in exactly one place, and statistics equal a recount."""

from __future__ import annotations

import numpy as np

from harness.oracles.snapshot import Snapshot, records
from mmu.machine import layout as at
from mmu.machine.cpu import Words

NAME = "leaks"
PROPERTY = "allocated = reachable + deferred + cached + free; statistics, lists equal a recount"
IN_STRESS = "quiescent points"


def audit(snapshot: Snapshot) -> list[str]:
    """Pages that nobody has or two have; statistics and lists that are off."""
    return [*_pages(snapshot), *_statistics(snapshot), *_nx_list(snapshot)]


def _cached(snapshot: Snapshot) -> Words:
    vm = snapshot.vm
    caches = []
    for actor in range(vm.config.actors):
        words = vm.actor_words(actor)
        held = int(words[at.TABLE_CACHE_COUNT])
        caches.append(words[at.TABLE_CACHE : at.TABLE_CACHE + held])
    return np.concatenate(caches)


def _deferred(snapshot: Snapshot) -> Words:
    """Removed pages that wait for readers on their removers' lists."""
    vm = snapshot.vm
    rows = records(vm)
    pages: list[int] = []
    for actor in range(vm.config.actors):
        words = vm.actor_words(actor)
        page = int(words[at.DEFERRED])
        for _ in range(int(words[at.DEFERRED_COUNT])):
            pages.append(page)
            page = int(rows[page, at.SP_DEFERRED_NEXT])
    return np.array(pages, np.int64)


def _pages(snapshot: Snapshot) -> list[str]:
    vm = snapshot.vm
    reachable, cached, deferred = snapshot.pages(), _cached(snapshot), _deferred(snapshot)
    free = vm.region("pool")[: int(vm.words[at.POOL_TOP])]
    handed_out = int(vm.words[at.POOL_FRESH])
    everywhere = np.concatenate([reachable, deferred, cached, free])
    if (everywhere < 1).any() or (everywhere >= handed_out).any():
        return ["a table page number is outside what the host has handed out"]
    uses = np.bincount(everywhere, minlength=handed_out)[1:handed_out]
    parts = (
        f"{len(reachable)} reachable, {len(deferred)} deferred, {len(cached)} cached,"
        f" {len(free)} free"
    )
    problems = [
        f"{int((uses == 0).sum())} table pages are lost (the first is {int(i) + 1}): {parts},"
        f" {handed_out - 1} handed out"
        for i in np.flatnonzero(uses == 0)[:1]
    ]
    problems += [
        f"table page {int(i) + 1} is in {int(uses[i])} places at once: {parts}"
        for i in np.flatnonzero(uses > 1)[:1]
    ]
    return problems


def _statistics(snapshot: Snapshot) -> list[str]:
    vm = snapshot.vm
    counted = {1: 0, 2: 0, 3: 0}
    for leafs in snapshot.leafs():
        counted[leafs.level] = counted.get(leafs.level, 0) + len(leafs.gfns)
    problems = []
    for level, word in ((1, at.STAT_PAGES_4K), (2, at.STAT_PAGES_2M), (3, at.STAT_PAGES_1G)):
        if int(vm.words[word]) != counted[level]:
            problems.append(
                f"the statistic of leafs at level {level} says {int(vm.words[word])},"
                f" there are {counted[level]}"
            )
    tables = len(snapshot.pages()) - len(snapshot.roots)
    if int(vm.words[at.STAT_TABLES]) != tables:
        problems.append(
            f"the statistic of tables says {int(vm.words[at.STAT_TABLES])}, {tables} are linked"
        )
    return problems


def _nx_list(snapshot: Snapshot) -> list[str]:
    vm = snapshot.vm
    rows = records(vm)
    listed: list[int] = []
    page = int(vm.words[at.NX_LIST])
    while page and len(listed) <= len(rows):
        listed.append(page)
        page = int(rows[page, at.SP_NX_NEXT])
    splits = int(vm.words[at.STAT_NX_SPLITS])
    problems = []
    if len(listed) != splits or len(set(listed)) != len(listed):
        problems.append(f"possible_nx_huge_pages holds {len(listed)} tables, {splits} were added")
    reachable = set(snapshot.pages().tolist()) if listed else set()
    stray = [
        each for each in listed if each not in reachable or not rows[each, at.SP_NX_DISALLOWED]
    ]
    if stray:
        problems.append(f"table page {stray[0]} is listed as an NX split but is none")
    return problems
