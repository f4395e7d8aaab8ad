"""A scenario of which something was taken away, as a shrunk reproducer says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mmu.vm import Vm
from workloads.errors import UsageError
from workloads.scenario import Actor, Body, Scenario
from workloads.scenarios.idle import NOTHING, nothing

SIZES: Final = ("levels", "pages")  # what of a VM may be smaller


@dataclass(frozen=True)
class Reduction:
    """What is left out.

    Attributes:
        actors: what an actor does instead of its own, by its name: "nothing", or one of
            `shorter.BY_NAME`.
        vm: sizes of the VM that are smaller (`SIZES`).
        setup: the set-up instead of the scenario's own (`shorter.SETUPS`); "": its own.
    """

    actors: Mapping[str, str] = field(default_factory=dict)
    vm: Mapping[str, Any] = field(default_factory=dict)
    setup: str = ""

    def __bool__(self) -> bool:
        return bool(self.actors or self.vm or self.setup)

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"actors": dict(self.actors), "vm": dict(self.vm), "setup": self.setup}

    def of(self, scenario: Scenario) -> Scenario:
        """The smaller scenario."""
        if not self:
            return scenario
        befores: list[tuple[int, Body]] = []

        def smaller(number: int, actor: Actor) -> Actor:
            name = self.actors.get(actor.name)
            if name is None:
                return actor
            body, before = _short(name)
            if before is not None:
                befores.append((number, before))
            return replace(actor, body=body)

        actors = tuple(smaller(number, actor) for number, actor in enumerate(scenario.actors))

        prepare = _setup(self.setup) if self.setup else scenario.setup

        def set_up(vm: Vm) -> None:
            if prepare is not None:
                prepare(vm)
            for number, before in befores:
                before(vm.cpu(number))

        vm = None if scenario.vm is None else replace(scenario.vm, **self.vm)
        return replace(scenario, actors=actors, setup=set_up, vm=vm)


def _short(name: str) -> tuple[Body, Body | None]:
    """What the actor does, what the set-up does for it before."""
    if name == NOTHING:
        return nothing, None
    # Only here: what is imported is compiled, and who only drops actors does not need it.
    from workloads.scenarios.shorter import BY_NAME

    return BY_NAME[name].body, BY_NAME[name].before


def _setup(name: str) -> Callable[[Vm], None]:
    from workloads.scenarios.shorter import SETUPS

    return SETUPS[name]


def read_reduction(document: Any, where: str) -> Reduction:
    """What a document says; UsageError, one line, if it is no reduction."""
    actors = document.get("actors") if isinstance(document, dict) else None
    vm = document.get("vm") if isinstance(document, dict) else None
    if not isinstance(actors, dict) or not isinstance(vm, dict):
        raise UsageError(f"{where}: needs `actors` and `vm`")
    for name, short in actors.items():
        if short != NOTHING and not _is_known(short):
            raise UsageError(f"{where}: {name} cannot do {short!r}")
    for name, value in vm.items():
        if name not in SIZES or type(value) is not int or value < 1:
            raise UsageError(f"{where}: a VM with {name} {value!r} is not possible")
    setup = document.get("setup", "")
    if setup and not _is_setup(setup):
        raise UsageError(f"{where}: there is no set-up {setup!r}")
    return Reduction(actors, vm, setup)


def _is_known(short: Any) -> bool:
    from workloads.scenarios.shorter import BY_NAME

    return isinstance(short, str) and short in BY_NAME


def _is_setup(name: Any) -> bool:
    from workloads.scenarios.shorter import SETUPS

    return isinstance(name, str) and name in SETUPS
