"""What is shrunk besides the schedule: a scenario with a name, or one that is data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from workloads.scenario import Scenario
from workloads.scenarios.reduced import Reduction


@dataclass(frozen=True)
class Case:
    """A scenario and what is left out of it.

    Either `base`, reduced by `reduction`; or `program` (a `generated.Program`), which is shorter
    itself.
    """

    base: Scenario | None = None
    reduction: Reduction = field(default_factory=Reduction)
    program: Any = None

    def scenario(self) -> Scenario:
        """Ready to be explored."""
        if self.base is not None:
            return self.reduction.of(self.base)
        scenario: Scenario = self.program.scenario()
        return scenario

    def doing(self, actor: str, short: str) -> Case:
        """With a shorter thing to do for an actor."""
        actors = {**self.reduction.actors, actor: short}
        return replace(self, reduction=replace(self.reduction, actors=actors))

    def prepared(self, setup: str) -> Case:
        """With another set-up."""
        return replace(self, reduction=replace(self.reduction, setup=setup))

    def sized(self, **vm: int) -> Case:
        """With a smaller VM."""
        smaller = {**self.reduction.vm, **vm}
        return replace(self, reduction=replace(self.reduction, vm=smaller))
