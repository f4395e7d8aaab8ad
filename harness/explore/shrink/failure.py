"""When two violations are the same one: shrinking must not slide from one bug to another."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.explore.trace import Finding
from workloads.scenario import Scenario

_NUMBER = re.compile(r"-?\b(0x[0-9a-f]+|[0-9]+)\b")


@dataclass(frozen=True)
class Failure:
    """What has to stay: the oracle, its sentence but for numbers, and who was running.

    Numbers may change: in a smaller VM a table has another number, and so have its words.
    """

    oracle: str
    sentence: str
    actor: str

    @classmethod
    def of(cls, scenario: Scenario, finding: Finding) -> Failure:
        """The failure that a finding is."""
        actor = scenario.actors[finding.actor].name if finding.actor >= 0 else ""
        names = sorted((each.name for each in scenario.actors), key=len, reverse=True)
        sentence = finding.message
        for number, name in enumerate(names):  # names keep their numbers
            sentence = sentence.replace(name, f"<{chr(ord('a') + number)}>")
        return cls(finding.oracle, _NUMBER.sub("#", sentence), actor)
