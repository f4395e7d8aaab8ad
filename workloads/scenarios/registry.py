"""Which scenarios of the model there are, without compiling any: a module and a name each."""

from __future__ import annotations

from importlib import import_module

from workloads.scenario import Scenario

_FAULTS = "workloads.scenarios.faults"
_LOGGING = "workloads.scenarios.logging"
_DROPPING = "workloads.scenarios.dropping"
_PLACES = "workloads.scenarios.places"
_WRITERS = "workloads.scenarios.writers"
_ZAPS = "workloads.scenarios.zaps"
_HOSTS = "workloads.scenarios.hosts"
_DYING = "workloads.scenarios.dying"
_SLOTS = "workloads.scenarios.slots"

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
    "drop-drop": _DROPPING,
    "drop-split": _DROPPING,
    "drop-logged": _DROPPING,
    "drop-read": _DROPPING,
    "drop-prefault": _DROPPING,
    "map-border": _PLACES,
    "map-read-only": _PLACES,
    "map-topup": _PLACES,
    "map-under-table": _PLACES,
    "split-topup": _PLACES,
    "execute-execute": _PLACES,
    "write-write-protected": _WRITERS,
    "write-write-bitmap": _WRITERS,
    "write-write-pml": _WRITERS,
    "write-huge-logged": _WRITERS,
    "write-pml-full": _WRITERS,
    "write-rest-harvest": _WRITERS,
    "write-protect-pml": _WRITERS,
    "fast-fault-harvest-pml": _WRITERS,
    "map-retry-harvest": _WRITERS,
    "split-retry-harvest": _WRITERS,
    "enable-unsplit": _WRITERS,
    "enable-enable": _WRITERS,
    "disable-write": _WRITERS,
    "disable-disable": _WRITERS,
    "map-zap": _ZAPS,
    "remap-zap": _ZAPS,
    "split-zap": _ZAPS,
    "eager-split-zap": _ZAPS,
    "zap-walker": _ZAPS,
    "zap-table-execute": _ZAPS,
    "promote-walker": _ZAPS,
    "promote-execute": _ZAPS,
    "promote-promote": _ZAPS,
    "notifier-fault": _HOSTS,
    "notifier-write": _HOSTS,
    "notifier-logged": _HOSTS,
    "notifier-wrap": _HOSTS,
    "notifier-yield": _HOSTS,
    "two-notifiers": _HOSTS,
    "swap-in-swap-out": _HOSTS,
    "swap-in-twice": _HOSTS,
    "protect-write": _HOSTS,
    "huge-split-fault": _HOSTS,
    "collapse-fault": _HOSTS,
    "move-split-write": _HOSTS,
    "notifier-atomic": _HOSTS,
    "notifier-other-slot": _HOSTS,
    "protect-swap-out": _HOSTS,
    "huge-split-twice": _HOSTS,
    "protect-collapse": _HOSTS,
    "collapse-small": _HOSTS,
    "discard-read": _HOSTS,
    "discard-two-slots": _HOSTS,
    "put-get": _DYING,
    "put-get-owned": _DYING,
    "put-get-worker": _DYING,
    "put-put": _DYING,
    "put-split": _DYING,
    "put-split-worker": _DYING,
    "put-destroy": _DYING,
    "put-destroy-worker": _DYING,
    "put-get-destroy": _DYING,
    "invalidate-fault": _DYING,
    "invalidate-write": _DYING,
    "invalidate-owned": _DYING,
    "invalidate-steps": _DYING,
    "invalidate-leafs": _DYING,
    "invalidate-drop": _DYING,
    "invalidate-top": _DYING,
    "invalidate-partial": _DYING,
    "enable-put": _DYING,
    "enable-invalidate": _DYING,
    "enable-put-before": _DYING,
    "invalidate-put": _DYING,
    "invalidate-notifier": _DYING,
    "worker-fault": _DYING,
    "worker-notifier": _DYING,
    "switch-fault": _DYING,
    "reuse-fault": _DYING,
    "invalidate-executed": _DYING,
    "invalidate-deep": _DYING,
    "harvest-worker": _DYING,
    "destroy-loaded": _DYING,
    "slot-delete-fault": _SLOTS,
    "slot-delete-worker": _SLOTS,
    "slot-create-fault": _SLOTS,
    "slot-move-fault": _SLOTS,
    "slot-delete-notifier": _SLOTS,
    "slot-delete-move": _SLOTS,
}


def load(name: str) -> Scenario:
    """The scenario; its constant is its name in capitals."""
    module = import_module(SCENARIOS[name])
    scenario: Scenario = getattr(module, name.upper().replace("-", "_"))
    return scenario
