"""What a scenario is: a few actors over a few shared words, and what their end may look like.

A scenario is small enough to be explored: every actor is one kernel, run once from its first
step to its end.  It knows nothing of schedulers, strategies or files.

Shared memory is either named words of the scenario's own (`words`) or a whole VM (`vm`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mmu.machine.cpu import Cpu
from mmu.vm import Vm, VmConfig

ACTORS_MAX = 16  # masks of actors, clocks and stacks are made for so many

ACCEPTABLE = "acceptable"
INTERESTING = "interesting"
FORBIDDEN = "forbidden"
GRADES = (ACCEPTABLE, INTERESTING, FORBIDDEN)

Body = Callable[[Cpu], None]
Check = Callable[[Cpu], int]


@dataclass(frozen=True)
class Actor:
    """One coroutine of the scenario: its name in stories and its kernel.

    With a VM, the actors are the VM's actors in order: the first `vm.vcpus` are vCPUs.
    """

    name: str
    body: Body


@dataclass(frozen=True)
class Outcome:
    """A possible end: the values of the `outcome` words, a grade, and a sentence that says why."""

    values: tuple[int, ...]
    grade: str
    sentence: str


@dataclass(frozen=True)
class Scenario:
    """Actors, memory and expectations.

    Attributes:
        name, about: what it is called, and one sentence for `tdprace list`.
        actors: 1 to `ACTORS_MAX`.
        words: names of the shared words, in order from index 0; "slot[4]" names four of them.
        initial: values that are not 0, by name ("top", "slot[2]").
        vm: a VM instead of words.
        setup: called once with the VM, unwatched, before the memory that every execution starts
            from is kept.
        outcome: names of the words whose values at the end are the execution's outcome.
        finish: kernel that runs alone after all actors ended, before outcome words are read; it
            may compute them.
        outcomes: what is known about some of the possible ends.
        otherwise: grade of an outcome that is not among `outcomes`.
        check: kernel that runs alone at the end of every execution; anything but 0 is a violation
            (and so is a `warn` in it).
        check_text: the sentence of that violation; `{0}` is what `check` returned.
        probes: which `PROBE_*` may fail, as a mask `1 << PROBE_RETRY | ...`.
    """

    name: str
    about: str
    actors: tuple[Actor, ...]
    words: tuple[str, ...] = ()
    initial: Mapping[str, int] = field(default_factory=dict)
    vm: VmConfig | None = None
    setup: Callable[[Vm], None] | None = None
    outcome: tuple[str, ...] = ()
    finish: Body | None = None
    outcomes: tuple[Outcome, ...] = ()
    otherwise: str = ACCEPTABLE
    check: Check | None = None
    check_text: str = "the check returned {0}"
    probes: int = 0

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """All that is called in the course of an execution, and before the first."""
        called = (self.setup, *(actor.body for actor in self.actors), self.finish, self.check)
        return tuple(each for each in called if each is not None)
