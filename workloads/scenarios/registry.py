"""Which scenarios of the model there are, without compiling any: a module and a name each."""

from __future__ import annotations

from importlib import import_module

from workloads.scenario import Scenario

_FAULTS = "workloads.scenarios.faults"
_LOGGING = "workloads.scenarios.logging"

SCENARIOS = {
    "map-map-same": _FAULTS,
    "map-map-neighbour": _FAULTS,
    "map-map-huge": _FAULTS,
    "map-split": _FAULTS,
    "split-split": _FAULTS,
    "split-split-faults": _FAULTS,
    "execute-read": _FAULTS,
    "execute-zap-protect": _FAULTS,
    "execute-write-nx-off": _FAULTS,
    "map-under-nx-table": _FAULTS,
    "map-retry": _FAULTS,
    "fast-fault-harvest": _LOGGING,
    "write-harvest": _LOGGING,
    "fast-fault-write-protect": _LOGGING,
    "walker-harvest": _LOGGING,
    "walker-harvest-dirty": _LOGGING,
    "map-harvest": _LOGGING,
    "enable-write": _LOGGING,
    "enable-fault": _LOGGING,
    "enable-huge": _LOGGING,
    "huge-logged-write": _LOGGING,
    "protect-yielding": _LOGGING,
}


def load(name: str) -> Scenario:
    """The scenario; its constant is its name in capitals."""
    module = import_module(SCENARIOS[name])
    scenario: Scenario = getattr(module, name.upper().replace("-", "_"))
    return scenario
