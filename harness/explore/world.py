"""The memory of a scenario: the words that its actors share, and what they are called.

Everything that depends on "words of its own" or "a whole VM" is here; engine, replay and
explanation see words, names and `Cpu`s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from harness.explore.names import vm_word_name
from mmu.machine import layout as at
from mmu.machine.cpu import Cpu, Observer, Words
from mmu.vm import Vm
from workloads.errors import UsageError
from workloads.scenario import ACTORS_MAX, GRADES, Scenario

_ARRAY = re.compile(r"(\w+)\[([0-9]+)\]$")
_WORD = re.compile(r"\bword ([0-9]+)\b")
WORDS_MAX = 1 << 16
NEVER = 1 << 61  # cycles, more than any host has been up
# Counters that audits judge by a limit.
COUNTED = (
    at.N_BETWEEN_CHECKS_MAX,
    at.N_INVALIDATIONS,
    at.N_OBSOLETE_MAX,
    at.N_ELSEWHERE_MAX,
    at.N_LOCKED_MAX,
    at.N_SPURIOUS_MAX,
)


class World:
    """One scenario's memory, ready to be run any number of times.

    Attributes:
        words: the shared block (int64, shape (words,)).
        initial: a copy of it as every execution finds it.
        vm: the VM, if the scenario has one.

    Raises UsageError for a scenario that cannot be run.
    """

    def __init__(self, scenario: Scenario) -> None:
        check_scenario(scenario)
        self.scenario = scenario
        self.vm: Vm | None = None
        self.names: list[str] = []
        if scenario.vm is not None:
            self.vm = Vm(scenario.vm)
            self.words: Words = self.vm.words
            self._set_up(scenario, self.vm)
        else:
            self.names = list(_expanded(scenario.words))
            self._own_base = -(-len(self.names) // at.LINE) * at.LINE
            own = len(scenario.actors) * at.ACTOR_FIXED_WORDS
            self.words = np.zeros(self._own_base + own, np.int64)
            for name, value in scenario.initial.items():
                self.words[self.index_of(name)] = value
        self.initial: Words = self.words.copy()

    def _set_up(self, scenario: Scenario, vm: Vm) -> None:
        """Setup goes by the host's clock, and how long it takes must leave no trace in the words.

        So one scheduler tick passes for each actor, as if the last had been long ago, and no other;
        time begins with the execution.
        """
        actors = [vm.layout.actor(actor) for actor in range(vm.config.actors)]
        tick = int(self.words[at.C_TICK_CYCLES])
        self.words[at.C_TICK_CYCLES] = NEVER
        for own in actors:
            self.words[own + at.TICK_BEGAN] = -2 * NEVER
        if scenario.setup is not None:
            scenario.setup(vm)
        self.words[at.C_TICK_CYCLES] = tick
        for own in actors:
            for word in (at.TICK_BEGAN, at.QUIET_BEGAN, at.CHECKED):
                self.words[own + word] = 0

    def index_of(self, name: str) -> int:
        """Index of a named word; UsageError if there is none."""
        if name not in self.names:
            raise UsageError(
                f"scenario {self.scenario.name}: no word is called {name!r}; its words are"
                f" {', '.join(self.names) or 'those of its VM'}"
            )
        return self.names.index(name)

    def name_of(self, word: int) -> str:
        """What a word is called in stories and reproducers; always the same for the same word."""
        if self.vm is not None:
            return vm_word_name(self.vm, word, tuple(a.name for a in self.scenario.actors))
        if 0 <= word < len(self.names):
            return self.names[word]
        actor, offset = divmod(word - self._own_base, at.ACTOR_FIXED_WORDS)
        if word < len(self.words) and 0 <= actor < len(self.scenario.actors):
            return f"{self.scenario.actors[actor].name}.own[{offset}]"
        return f"word {word}"

    def in_names(self, message: str) -> str:
        """The message with names for the numbers of words."""
        return _WORD.sub(lambda match: self.name_of(int(match[1])), message)

    def words_by_name(self) -> dict[str, int]:
        """Index of every word by its name."""
        return {self.name_of(word): word for word in range(len(self.words))}

    def own(self, actor: int) -> int:
        """First word of the actor's own block."""
        if self.vm is not None:
            return self.vm.layout.actor(actor)
        return self._own_base + actor * at.ACTOR_FIXED_WORDS

    @property
    def geometry(self) -> int:
        """Bits per level, levels << 8."""
        config = self.scenario.vm
        return 9 | 4 << 8 if config is None else config.bits | config.levels << 8

    def cpu(
        self, actor: int, *, hook: int = 0, ctx: int = 0, observer: Observer | None = None
    ) -> Cpu:
        """The actor's view."""
        return Cpu(
            self.words,
            actor=actor,
            own=self.own(actor),
            geometry=self.geometry,
            hook=hook,
            ctx=ctx,
            observer=observer,
        )

    def reset(self) -> None:
        """Everything as at the beginning of an execution."""
        self.words[:] = self.initial

    def audited_regions(self) -> list[tuple[int, int]]:
        """(first, end) words that audits of a VM at rest look at: equal words, equal verdict."""
        if self.vm is None:
            return []
        layout = self.vm.layout
        regions = [(at.MMU_LOCK, at.HEADER_WORDS)]
        for actor in range(self.vm.config.actors):
            own = layout.actor(actor)
            regions.append((own, own + 1))  # vCPU state
            regions.append((own + at.REQUEST, own + at.FLUSH_BLOCK + 1))
            regions.append((own + at.RCU_SECTION, own + at.RCU_SECTION + 1))
            regions.append((own + at.VCPU_ROOT, own + at.REQUEST_SEEN + 1))
            regions.append((own + at.DEFERRED, own + at.DEFERRED_COUNT + 1))
            regions.append((own + layout.tlb_offset, own + layout.pml_offset))
            regions.append((own + at.HELD, own + at.HELD + 1))
            regions.append((own + at.VIOLATIONS, own + at.VIOLATION_C + 1))
            regions.append((own + at.TABLE_CACHE_COUNT, own + at.COUNTERS))
            regions += [(own + word, own + word + 1) for word in COUNTED]
        regions += [
            (region.start, region.end)
            for name, region in layout.regions.items()
            if name != "actors" and region.words
        ]
        return regions

    def outcome_words(self) -> list[int]:
        """Indices of the words that make up an outcome."""
        return [self.index_of(name) for name in self.scenario.outcome]

    def close(self) -> None:
        """Give the memory back."""
        if self.vm is not None:
            self.words = np.zeros(0, np.int64)
            self.vm.close()


def check_scenario(scenario: Scenario) -> None:
    """Raise UsageError, saying what and where, if the scenario cannot be run."""
    where = f"scenario {scenario.name}"
    count = len(scenario.actors)
    if not 1 <= count <= ACTORS_MAX:
        raise UsageError(f"{where} has {count} actors: 1 to {ACTORS_MAX} are possible")
    names = [actor.name for actor in scenario.actors]
    if len(set(names)) != count:
        raise UsageError(f"{where}: two actors have the same name ({', '.join(names)})")
    for actor in scenario.actors:
        if not hasattr(actor.body, "py_func"):
            raise UsageError(f"{where}: actor {actor.name} has no kernel; decorate it with @kernel")
    if scenario.vm is not None and scenario.vm.actors != count:
        raise UsageError(f"{where} has {count} actors, its VM has {scenario.vm.actors}")
    if scenario.vm is None and not 0 < len(list(_expanded(scenario.words))) <= WORDS_MAX:
        raise UsageError(f"{where}: 1 to {WORDS_MAX} shared words are possible")
    for outcome in scenario.outcomes:
        if len(outcome.values) != len(scenario.outcome) or outcome.grade not in GRADES:
            raise UsageError(
                f"{where}: outcome {outcome.values} needs {len(scenario.outcome)} values and a"
                f" grade of {', '.join(GRADES)}"
            )


def _expanded(words: tuple[str, ...]) -> Iterator[str]:
    """Names of single words: "slot[2]" gives slot[0] and slot[1]."""
    for name in words:
        array = _ARRAY.match(name)
        if array is None:
            yield name
        else:
            for i in range(int(array[2])):
                yield f"{array[1]}[{i}]"
