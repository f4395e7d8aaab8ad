"""A stress run that ended with a violation: what is stored of it, and what its end was about."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.explore.reproducer import Patch
from harness.report import store
from workloads.errors import UsageError

GFN = re.compile(r"\bgfn (0x[0-9a-f]+)")
_HOST_PAGE = re.compile(r"\bhost page (0x[0-9a-f]+)")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Memory:
    """Where the run's guest memory lay: first gfn, pages, memslots as (first page, pages)."""

    gfn_base: int
    pages: int
    slots: tuple[tuple[int, int], ...]

    def page_of(self, gfn: int) -> int:
        """The host page that the gfn shows, also where its memslot has moved to; -1: none."""
        window = 1 << max(self.pages - 1, 1).bit_length()
        page = (gfn - self.gfn_base) & (window - 1)
        return page if page < self.pages else -1

    def slot_of(self, page: int) -> int:
        """Number of the memslot that shows a host page."""
        for number, (first, pages) in enumerate(self.slots):
            if first <= page < first + pages:
                return number
        return 0


@dataclass(frozen=True)
class Finding:
    """What is looked for, and the events that it is rebuilt from.

    Attributes:
        oracles: of the violation; any of them will do.
        message: of the first broken rule.
        actors: who noticed, first the first; none if an audit did.
        pages: host pages that the first message names, in its order: what follows from the first
            broken rule may show anywhere.
        records: the last events of all actors by time, in ns from the moment of the violation.
    """

    folder: Path
    oracles: tuple[str, ...]
    message: str
    actors: tuple[str, ...]
    pages: tuple[int, ...]
    memory: Memory
    vm: Mapping[str, Any]
    model: str
    patch: Patch | None
    records: tuple[Record, ...]


def read_finding(path: Path) -> Finding:
    """The violation that a stored stress run ended with; UsageError, one line, if there is none."""
    document = store.load(path)
    folder = path if path.is_dir() else path.parent
    run = _broken_run(document, folder)
    records = _read_ring(folder, run)
    violations = document["violations"]
    oracles = tuple(dict.fromkeys(found["oracle"] for found in violations))
    memory = _memory(run["vm"])
    reported = [r for r in records if r["do"] == "VIOLATION"]
    reported = [r for r in reported if r["text"].partition(":")[0] in oracles]
    messages = [r["text"].partition(": ")[2] for r in reported]
    message = (messages or [found["message"] for found in violations])[0]
    actors = [r["actor"] for r in reported]
    actors += [name for found in violations for name in found["actors"]]
    return Finding(
        folder,
        oracles,
        message,
        tuple(dict.fromkeys(actors)),
        _pages(message, memory),
        memory,
        run["vm"],
        document["model"],
        _patch(document, folder),
        records,
    )


def patch_file(document: Mapping[str, Any], folder: Path) -> Path | None:
    """The diff that the run's model was patched with, kept beside its document."""
    if document.get("patch") is None:
        return None
    file = folder / store.PATCH_FILE
    if not file.is_file():
        raise UsageError(
            f"{folder}: its model was patched with {document['patch']['file']}, and there is no"
            f" {store.PATCH_FILE} beside it; say --patch FILE"
        )
    return file


def _patch(document: Mapping[str, Any], folder: Path) -> Patch | None:
    file = folder / store.PATCH_FILE
    if document.get("patch") is None or not file.is_file():
        return None
    return Patch(document["patch"]["file"], file.read_text(encoding="utf-8"))


def _broken_run(document: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The document's run, or the variant of it, that broke a rule."""
    if document.get("command") != "stress":
        raise UsageError(f"{folder}: a run of `{document.get('command')}`; name one of `stress`")
    if not document.get("violations"):
        raise UsageError(
            f"{folder}: the run ended {document.get('outcome')}, without a violation: there is"
            " nothing to look for"
        )
    runs: list[Mapping[str, Any]] = document.get("runs", [document])
    for run in runs:
        if run["violations"]:
            return run
    raise UsageError(f"{folder}: no variant of the run has the violation")


def _read_ring(folder: Path, run: Mapping[str, Any]) -> tuple[Record, ...]:
    if "ring" not in run:
        raise UsageError(
            f"{folder}: the last events were not kept; run it again with --ring 4000 (or more)"
        )
    file = folder / run["ring"]["file"]
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return tuple(json.loads(line) for line in lines)
    except OSError as error:
        raise UsageError(f"{file}: cannot read it: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file}: not whole: {error}; run it again") from error


def _memory(vm: Mapping[str, Any]) -> Memory:
    sizes = vm["slot_pages"] or [vm["pages"] // vm["slots"]] * vm["slots"]
    slots = tuple((sum(sizes[:number]), size) for number, size in enumerate(sizes))
    return Memory(vm["gfn_base"], vm["pages"], slots)


def _pages(message: str, memory: Memory) -> tuple[int, ...]:
    found = [memory.page_of(int(text, 16)) for text in GFN.findall(message)]
    found += [int(text, 16) for text in _HOST_PAGE.findall(message)]
    return tuple(dict.fromkeys(page for page in found if 0 <= page < memory.pages))
