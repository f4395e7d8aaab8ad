"""Scenarios that are data: who does what on which tiny VM, as JSON holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mmu.machine.events import PROBE_CMPXCHG, PROBE_CONTEND, PROBE_RETRY
from mmu.machine.layout import C_WORKLOAD
from mmu.policy import DIRTY_LOG_MODE, FLUSH, HUGE_SPLIT, ROOT_LIFE, ZAP_BY, ZAP_STEPS
from mmu.reload import LEVEL_MASK
from mmu.vm import Vm
from workloads.errors import UsageError
from workloads.plan import HOST, VCPU, VMM, ZAP_WORKER
from workloads.scenario import ACTORS_MAX, Actor, Scenario
from workloads.scenarios.common import PAGES, fill_caches, small_vm
from workloads.scenarios.program import (
    AWAITED,
    OPERATION_WORDS,
    OPERATIONS,
    OPERATIONS_MAX,
    TEXT,
    TEXT_WORDS,
    nothing_was_lost,
    play,
    prepare,
)

NAME: Final = "generated"  # what such a scenario is called where scenarios have names
SPARE_FRAMES: Final = 2
PROBES: Final = {"retry": PROBE_RETRY, "cmpxchg": PROBE_CMPXCHG, "contention": PROBE_CONTEND}
HELPERS: Final = (VMM, HOST, ZAP_WORKER)
SLOTS_MAX: Final = 3
# What may be chosen of a VM, and the values that there are.
OPTIONS: Final[Mapping[str, Sequence[Any]]] = {
    "backing_level": (1, 2),
    "huge_split": tuple(HUGE_SPLIT),
    "dirty_log_mode": tuple(DIRTY_LOG_MODE),
    "pml": (False, True),
    "nx_huge_pages": (False, True),
    "flush": tuple(FLUSH),
    "root_life": tuple(ROOT_LIFE),
    "zap_by": tuple(ZAP_BY),
    "zap_steps": tuple(ZAP_STEPS),
    "slots": tuple(range(1, SLOTS_MAX + 1)),
    "absent_slots": (0, 1),
    # Four where a memslot moves: three levels do not reach its new place.
    "levels": (3, 4),
}
SLOT_PAGES: Final = {1: (8,), 2: (4, 4), 3: (4, 2, 2)}
LEVELS: Final = 3
OTHER_SPACE: Final = LEVEL_MASK + 1  # of a root's role, above its level
_LIMITS: Final = {"gfn": 2 * PAGES, "page": PAGES, "end": PAGES + 1, "space": 2}

Words = tuple[Any, ...]  # an operation: its name, then its operands


def role_of(name: str) -> str:
    """An actor's role: `vcpu 1` is a vCPU, `host 0` and `host 1` are threads of the host."""
    return name.rstrip(" 0123456789")


@dataclass(frozen=True)
class Part:
    """What one actor does."""

    name: str
    operations: tuple[Words, ...]

    @property
    def role(self) -> str:
        """What it is."""
        return role_of(self.name)


@dataclass(frozen=True)
class Program:
    """A scenario: vCPUs first, then helpers; `before` is done by turns before they begin.

    `migrates`: at the end the memory must be equal to what harvests have copied.
    """

    parts: tuple[Part, ...]
    before: tuple[tuple[str, Words], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    probes: tuple[str, ...] = ()
    migrates: bool = False

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "vm": dict(self.options),
            "before": [[name, *words] for name, words in self.before],
            "actors": {
                part.name: [list(words) for words in part.operations] for part in self.parts
            },
            "probes": list(self.probes),
            "migrates": self.migrates,
        }

    def scenario(self, about: str = "rebuilt from a stress run") -> Scenario:
        """Ready to be explored."""
        vcpus = sum(part.role == VCPU for part in self.parts)
        shape = dict(self.options)
        shape["slot_pages"] = SLOT_PAGES[shape.get("slots", 1)]
        config = small_vm(
            vcpus,
            len(self.parts) - vcpus,
            spare_frames=SPARE_FRAMES,
            workload_words=TEXT + len(self.parts) * TEXT_WORDS,
            **shape,
        )
        probes = sum(1 << PROBES[name] for name in self.probes)
        return Scenario(
            NAME,
            about,
            tuple(Actor(part.name, play) for part in self.parts),
            vm=config,
            setup=self._set_up,
            check=nothing_was_lost if self.migrates else None,
            probes=probes,
        )

    def _set_up(self, vm: Vm) -> None:
        """What was before, then the actors' texts."""
        fill_caches(vm)
        numbers = {part.name: number for number, part in enumerate(self.parts)}
        for name, words in self.before:
            prepare(vm.cpu(numbers[name]), *_numbers(words, vm.config.levels))
        first = int(vm.words[C_WORKLOAD])
        for number, part in enumerate(self.parts):
            text = first + TEXT + number * TEXT_WORDS
            vm.words[text] = len(part.operations)
            for place, words in enumerate(part.operations):
                at = text + 1 + place * OPERATION_WORDS
                vm.words[at : at + OPERATION_WORDS] = _numbers(words, vm.config.levels)
        served = any(part.role == ZAP_WORKER for part in self.parts)
        vm.words[first + AWAITED] = len(self.parts) - 1 if served else 0


def _numbers(words: Words, levels: int) -> tuple[int, int, int]:
    """Code and operands as the kernel takes them; an address space becomes its root's role."""
    name, *operands = words
    a, b = (*operands, 0, 0)[:2]
    if OPERATIONS[name].operands == ("space",):
        a = OTHER_SPACE | levels if a else 0
    return OPERATIONS[name].code, a, b


# --- Reading -------------------------------------------------------------------------------------


def read_program(document: Any, where: str) -> Program:
    """The program that a document holds; UsageError, one line, if it is none."""
    if not isinstance(document, dict):
        raise UsageError(f"{where}: no program")
    vm, actors = document.get("vm"), document.get("actors")
    before, probes = document.get("before"), document.get("probes")
    if not isinstance(vm, dict) or not isinstance(actors, dict):
        raise UsageError(f"{where}: needs `vm` and `actors`")
    if not isinstance(before, list) or not isinstance(probes, list):
        raise UsageError(f"{where}: needs lists `before` and `probes`")
    for name, value in vm.items():
        known = OPTIONS.get(name, ())
        if not any(value == each and type(value) is type(each) for each in known):
            raise UsageError(f"{where}: a VM with {name} {value!r} is not possible")
    for name in probes:
        if name not in PROBES:
            raise UsageError(f"{where}: there is no probe {name!r}")
    parts = tuple(
        Part(name, tuple(_operation(words, name, vm, where) for words in _listed(texts, where)))
        for name, texts in actors.items()
    )
    _check_parts(parts, where)
    names = [part.name for part in parts]
    done = []
    for each in before:
        if not isinstance(each, list) or len(each) < 2 or each[0] not in names:
            raise UsageError(f"{where}: {each!r} is not an actor and what it has done")
        done.append((each[0], _operation(each[1:], each[0], vm, where)))
    if any(words[0] == "serve" for _, words in done):
        raise UsageError(f"{where}: the zap worker serves only while others play")
    return Program(parts, tuple(done), vm, tuple(probes), document.get("migrates") is True)


def _listed(texts: Any, where: str) -> list[Any]:
    if not isinstance(texts, list) or len(texts) > OPERATIONS_MAX:
        raise UsageError(f"{where}: an actor has a list of at most {OPERATIONS_MAX} operations")
    return texts


def _operation(words: Any, actor: str, vm: Mapping[str, Any], where: str) -> Words:
    """An operation that this actor can do."""
    name = words[0] if isinstance(words, list) and words else None
    known = OPERATIONS.get(name) if isinstance(name, str) else None
    if known is None or known.role != role_of(actor) or len(words) != 1 + len(known.operands):
        raise UsageError(f"{where}: {actor} cannot do {words!r}")
    for operand, value in zip(known.operands, words[1:], strict=True):
        limit = vm.get("slots", 1) if operand == "slot" else _LIMITS[operand]
        if operand == "gfn" and vm.get("levels", LEVELS) == LEVELS:
            limit = PAGES
        if type(value) is not int or not 0 <= value < limit:
            raise UsageError(f"{where}: {actor} cannot do {words!r}: no such {operand}")
    return tuple(words)


def _check_parts(parts: Sequence[Part], where: str) -> None:
    """UsageError unless they are vCPUs in order, at least one, then helpers."""
    names = [part.name for part in parts]
    vcpus = [name for name in names if name.startswith(VCPU)]
    helpers = names[len(vcpus) :]
    expected = [f"{VCPU} {number}" for number in range(len(vcpus))]
    if (
        not vcpus
        or names[: len(vcpus)] != expected
        or not set(map(role_of, helpers)) <= set(HELPERS)
    ):
        raise UsageError(
            f"{where}: actors are {VCPU} 0, {VCPU} 1, ..., then some of {', '.join(HELPERS)}"
        )
    if len(parts) > ACTORS_MAX:
        raise UsageError(f"{where}: at most {ACTORS_MAX} actors are possible")
