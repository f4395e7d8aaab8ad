"""The stored document of a run (`schema` 1), from what a session measured."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import VERSION
from harness.report.store import SCHEMA
from harness.run.measure import host, regime
from harness.run.session import Result
from mmu.machine.kernel import MODEL_HASH
from workloads.plan import Plan

# Options of the command that are no part of what is measured.
_NOT_CONFIG = frozenset(
    ("command", "words", "json", "results", "quiet", "patch", "resume", "dry_run", "workload")
)


def new_document(command: str, workload: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What every document begins with; `outcome` is `interrupted` until the run has ended."""
    return {
        "schema": SCHEMA,
        "command": command,
        "workload": workload,
        "version": VERSION,
        "model": MODEL_HASH,
        "patch": _patch(options.get("patch")),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": _plain(options),
        "host": host(),
        "outcome": "interrupted",
        "violations": [],
    }


def run_part(plan: Plan, variant: str, result: Result) -> dict[str, Any]:
    """One session's figures."""
    return {
        "variant": variant,
        "outcome": result.outcome,
        "error": None if result.error is None else str(result.error),
        "regime": regime(plan.vm.vcpus),
        "headline": plan.headline,
        "vm": asdict(plan.vm),
        "features": dict(plan.features),
        "phases": [asdict(phase) for phase in result.phases],
        "counters": result.counters,
        "injected": result.injected,
        "latency_ns": result.latency_ns,
        "memory": result.memory,
        "violations": [asdict(violation) for violation in result.violations],
    }


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back, so that a stored run's configuration can be compared with one."""
    found: dict[str, Any] = json.loads(
        json.dumps({k: v for k, v in options.items() if k not in _NOT_CONFIG}, default=str)
    )
    return found


def _patch(path: Path | None) -> dict[str, str] | None:
    if path is None:
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return {"file": path.name, "sha256": digest}
