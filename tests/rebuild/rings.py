"""Stored stress runs made by hand: a document, a ring, a diff."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.report.ring_text import TRACEPOINTS
from mmu.vm import GFN_BASE, VmConfig

NUMBERS = {name: number for number, name in TRACEPOINTS.items()}
DIFF = "--- a/mmu/entry.py\n+++ b/mmu/entry.py\n"
# As torture has it: one memslot that stays, one that moves, one that comes and goes.
VM = VmConfig(
    vcpus=2,
    pages=4096,
    helpers=3,
    slots=3,
    absent_slots=1,
    slot_pages=(2048, 1024, 1024),
    spare_frames=64,
    zap_by="worker",
)
READ, WRITE, EXECUTE = 1, 2, 4


def row(ns: int, actor: str, do: str, *operands: int, name: str = "", text: str = "") -> dict:
    """An event: a tracepoint, a step on a word with a name, or a VIOLATION with its text."""
    assert do in NUMBERS or name or do == "VIOLATION", do
    a, b, c = (*operands, 0, 0, 0)[:3]
    named = {"word": a, "name": name} if name else {}
    return {"ns": ns, "actor": actor, "do": do, **named, "a": a, "b": b, "c": c, "text": text}


def gfn(page: int) -> int:
    return GFN_BASE + page


def violation(oracle: str, message: str, *actors: str) -> dict:
    return {"oracle": oracle, "message": message, "actors": list(actors), "reproducer": "again"}


def store_run(folder: Path, rows: list[dict], *violations: dict, **changes: Any) -> Path:
    """A run's folder as `stress` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "schema": 1,
        "command": "stress",
        "workload": "torture",
        "model": "0" * 16,
        "patch": None,
        "outcome": "violation" if violations else "clean",
        "violations": list(violations),
        "vm": asdict(VM),
        "ring": {"file": "ring.jsonl", "events": len(rows)},
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(document))
    (folder / "ring.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return folder
