"""Which small scenarios may show what a stress run has shown, the likeliest and smallest first.

A candidate has the actor that noticed with its last operations, and some of the others with theirs:
those about the same page before those about the whole VM, these before any.  What an operation may
have been besides, and what had been mapped before, are candidates of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from harness.rebuild.finding import Finding
from harness.rebuild.geometry import TABLE_BITS, Small
from harness.rebuild.recover import SLOT_CHANGES, SWITCH, Done, last_before
from workloads.plan import HOST, VCPU, VMM, ZAP_WORKER
from workloads.scenarios.common import PAGES
from workloads.scenarios.generated import (
    HELPERS,
    LEVELS,
    OPTIONS,
    Part,
    Program,
    Words,
    role_of,
)

ACTORS_MAX = 3  # besides a zap worker
OPERATIONS_MAX = 3  # of one actor
VCPUS_MAX = 2  # besides the one that noticed
READINGS_MAX = 4  # of one choice of operations
TOLD, MAPPED, FRESH = "as told", "all mapped before", "nothing mapped before"
# What was before, and whether all pages are one: where no page is known, those that met may have
# met on one, and the last operations of each do not show it.
SET_UPS = ((TOLD, False), (FRESH, True), (MAPPED, False), (MAPPED, True), (FRESH, False))


@dataclass(frozen=True)
class Candidate:
    """A program and what it was made of: {its actor: (the run's actor, its operations)}."""

    program: Program
    cast: Mapping[str, tuple[str, tuple[Done, ...]]]
    operations: int  # of the actor with the most


def candidates(finding: Finding, done: Mapping[str, Sequence[Done]]) -> Iterator[Candidate]:
    """All that is worth a try, in order."""
    seen: set[str] = set()
    for size in range(1, OPERATIONS_MAX + 1):
        for probes in ((), ("contention",)):
            for chosen in _choices(finding, done, size):
                for candidate in _variants(finding, done, chosen, size, probes):
                    key = repr(candidate.program.document())
                    if key not in seen and _may_notice(finding, candidate.program):
                        seen.add(key)
                        yield candidate


def _may_notice(finding: Finding, program: Program) -> bool:
    """A zap worker that noticed something must be there."""
    if finding.actors[:1] != (ZAP_WORKER,):
        return True
    return any(part.role == ZAP_WORKER for part in program.parts)


# --- Who, and which operations -------------------------------------------------------------------


def _choices(
    finding: Finding, done: Mapping[str, Sequence[Done]], size: int
) -> Iterator[dict[str, tuple[Done, ...]]]:
    """Sets of actors with their last `size` operations that matter."""
    focus = _Focus.of(finding, done)
    mine = {name: _last(done[name], focus, size) for name in done if name != ZAP_WORKER}
    mine = {name: last for name, last in mine.items() if last}
    noticed = next((name for name in finding.actors if name in mine), "")
    others = sorted(
        (name for name in mine if name != noticed),
        key=lambda name: (focus.rank(mine[name][-1]), -mine[name][-1].ns),
    )
    vcpus = [name for name in others if name.startswith(VCPU)][:VCPUS_MAX]
    others = [name for name in others if name in vcpus or not name.startswith(VCPU)]
    first = (noticed,) if noticed else ()
    for more in range(ACTORS_MAX):
        for company in combinations(others, more if noticed else more + 1):
            yield {name: mine[name] for name in (*first, *company)}


@dataclass(frozen=True)
class _Focus:
    """What the violation was about: pages, and the memslots that show them."""

    pages: tuple[int, ...]
    slots: tuple[int, ...]

    @classmethod
    def of(cls, finding: Finding, done: Mapping[str, Sequence[Done]]) -> _Focus:
        """The messages' pages, else one that was in use at the end."""
        pages = finding.pages
        if not pages:
            names = [name for name in (*finding.actors, *done) if name in done]
            last = [each for name in names for each in last_before(done[name], 0)[-1:]]
            pages = tuple(each.page for each in last if each.page >= 0)[:1]
        return cls(pages, tuple(finding.memory.slot_of(page) for page in pages))

    def rank(self, done: Done) -> int:
        """How near an operation is to that: 0 the nearest, the page that is named first."""
        if done.page in self.pages:
            return min(self.pages.index(done.page), 1)
        if done.slot in self.slots:
            return 2
        if done.of_whole_vm:
            return 3
        return 4 if done.page >> TABLE_BITS in [page >> TABLE_BITS for page in self.pages] else 5


def _last(done: Sequence[Done], focus: _Focus, size: int) -> tuple[Done, ...]:
    """The last operations of an actor: about what matters, of the whole VM, then any."""
    begun = last_before(done, 0) or list(done[:1])
    order = sorted(begun, key=lambda each: (min(focus.rank(each), 4), -each.ns))
    return tuple(sorted(order[:size], key=lambda each: each.ns))


# --- Readings and what was before ----------------------------------------------------------------


def _variants(
    finding: Finding,
    done: Mapping[str, Sequence[Done]],
    chosen: Mapping[str, tuple[Done, ...]],
    size: int,
    probes: tuple[str, ...],
) -> Iterator[Candidate]:
    """Every reading of the operations on every set-up."""
    flat = [(name, each) for name, operations in chosen.items() for each in operations]
    readings = list(product(*(each.readings for _, each in flat)))[:READINGS_MAX]
    known = bool(finding.pages)
    for before, together in [each for each in SET_UPS if not (known and each[1])]:
        for reading in readings:
            certain: dict[str, list[Done]] = {name: [] for name in chosen}
            for (name, each), what in zip(flat, reading, strict=True):
                certain[name].append(replace(each, readings=(what,)))
            builder = _Builder(finding, done, certain, before, together=together)
            yield Candidate(builder.program(probes), builder.cast, size)


class _Builder:
    """One candidate's program."""

    def __init__(
        self,
        finding: Finding,
        done: Mapping[str, Sequence[Done]],
        chosen: Mapping[str, Sequence[Done]],
        before: str,
        *,
        together: bool,
    ) -> None:
        self._finding = finding
        self._chosen = chosen
        self._before = before
        self._logged = any(each.readings[0] in ("harvest", "log") for each in done.get(VMM, ()))
        everything = [each for operations in chosen.values() for each in operations]
        pages = [each.page for each in everything if each.page >= 0]
        pages += list(finding.pages[:1]) or [0]
        changes = [each for each in chosen.get(VMM, ()) if each.readings[0] in SLOT_CHANGES]
        changed = [self._slot_of(each) for each in changes]
        self._absent = self._absent_slot(changes)
        self._illegal = self._illegal_changes(changes)
        pages = [*finding.pages, *pages]
        self._small = Small(finding.memory, pages, changed, self._absent, together=together)
        self._names = self._number()
        self._changes = bool(changed) or any(each.readings[0] == SWITCH for each in everything)
        self.cast = {self._names[name]: (name, tuple(each)) for name, each in chosen.items()}

    def _slot_of(self, done: Done) -> int:
        """Which memslot; where that is not known, that of the page that matters."""
        if done.slot >= 0:
            return done.slot
        return self._finding.memory.slot_of(self._finding.pages[0]) if self._finding.pages else 0

    def _absent_slot(self, changes: Sequence[Done]) -> int:
        """The memslot that is nowhere at first, since it is created before all else; -1: none."""
        firsts = {self._slot_of(each): each for each in reversed(changes)}
        absent = [slot for slot, each in firsts.items() if each.readings[0] == "create slot"]
        return absent[0] if absent else -1

    def _illegal_changes(self, changes: Sequence[Done]) -> set[int]:
        """Changes (by id) that KVM refuses: creating what is there, changing what is not."""
        there: dict[int, bool] = {}
        illegal = set()
        for each in changes:
            slot, what = self._slot_of(each), each.readings[0]
            before = there.get(slot, slot != self._absent)
            if before == (what == "create slot"):
                illegal.add(id(each))
            else:
                there[slot] = what != "delete slot"
        return illegal

    def _number(self) -> dict[str, str]:
        """What the program calls the run's actors: all threads of the host are `host`."""
        vcpus = [name for name in self._chosen if name.startswith(VCPU)]
        names = {name: f"{VCPU} {number}" for number, name in enumerate(vcpus)}
        threads = [name for name in self._chosen if name not in (*vcpus, VMM, ZAP_WORKER)]
        names |= {name: f"{HOST} {number}" for number, name in enumerate(threads)}
        if len(threads) == 1:
            names[threads[0]] = HOST
        return {name: names.get(name, name) for name in self._chosen}

    def program(self, probes: tuple[str, ...]) -> Program:
        """vCPUs, helpers, and a zap worker where roots are left to one."""
        parts = {
            self._names[name]: Part(self._names[name], self._operations(name))
            for name in self._chosen
        }
        parts.setdefault(f"{VCPU} 0", Part(f"{VCPU} 0", ()))
        if self._finding.vm["zap_by"] == "worker" and self._changes:
            parts[ZAP_WORKER] = Part(ZAP_WORKER, (("serve",),))
        if self._logged:
            parts.setdefault(VMM, Part(VMM, ()))
        order = sorted(name for name in parts if name.startswith(VCPU))
        order += [name for role in HELPERS for name in parts if role_of(name) == role]
        return Program(
            tuple(parts[name] for name in order),
            tuple(self._set_up()),
            self._options(),
            probes,
            migrates=self._logged and "dirty" in self._finding.oracles,
        )

    def _operations(self, name: str) -> tuple[Words, ...]:
        """An actor's operations in small numbers; address spaces and memslots' places alternate."""
        found: list[Words] = []
        space = 0
        away: set[int] = set()
        for done in self._chosen[name]:
            what = done.readings[0]
            if id(done) in self._illegal:
                continue
            if what == SWITCH:
                space = 1 - space
                found.append((what, space))
            elif what == "move slot":
                away ^= {self._slot_of(done)}
                found.append(self._slot_change(done, PAGES if self._slot_of(done) in away else 0))
            elif what in SLOT_CHANGES:
                found.append(self._slot_change(done, 0))
            elif what in ("log", "stop logging"):
                found.append((what, self._small.slot(done.slot)))
            elif what in ("harvest", "recover nx"):
                found.append((what,))
            elif what == "discard":
                page = self._small.page(done.page)
                found.append((what, page, page + 1))
            else:
                found.append((what, self._small.page(done.page)))
        return tuple(found)

    def _slot_change(self, done: Done, distance: int) -> Words:
        """A memslot goes, or comes to `distance` from its home."""
        what, slot = done.readings[0], self._small.slot(self._slot_of(done))
        if what == "delete slot":
            return (what, slot)
        return (what, slot, self._small.base(slot) + distance)

    def _set_up(self) -> Iterator[tuple[str, Words]]:
        """Who had mapped what: vCPUs what they access, the first one what nobody accesses."""
        if self._before != FRESH:
            yield from self._mapped()
        if self._logged:
            yield VMM, ("log", 0)
            if self._before != FRESH:
                yield from self._mapped()
            yield VMM, ("harvest",)

    def _mapped(self) -> Iterator[tuple[str, Words]]:
        seen = set()
        told = self._before == TOLD
        for name, operations in self._chosen.items():
            for done in operations:
                if name.startswith(VCPU) and done.page >= 0:
                    page = self._small.page(done.page)
                    seen.add(page)
                    if self._is_there(page) and not (told and done.faulted):
                        yield self._names[name], (done.readings[0], page)
        pages = [done.page for operations in self._chosen.values() for done in operations]
        for page in dict.fromkeys([*pages, *self._finding.pages[:1]]):
            if page >= 0 and self._small.page(page) not in seen:
                seen.add(self._small.page(page))
                if self._is_there(self._small.page(page)):
                    yield f"{VCPU} 0", ("write", self._small.page(page))

    def _is_there(self, page: int) -> bool:
        """Its memslot is somewhere from the beginning."""
        small = self._small
        if self._absent < 0:
            return True
        return page < small.base(small.slot(self._absent))

    def _options(self) -> dict[str, Any]:
        """The run's policies, on as many memslots as matter."""
        vm = self._finding.vm
        options = {name: vm[name] for name in OPTIONS if name in vm}
        options["backing_level"] = min(vm["backing_level"], 2)
        options["slots"] = self._small.slots
        options["absent_slots"] = int(self._absent >= 0)
        moves = any(each.readings[0] == "move slot" for each in self._chosen.get(VMM, ()))
        options["levels"] = LEVELS + moves
        return options
