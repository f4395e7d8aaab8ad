"""Diffs that follow the model: each written again where its lines are now, or why it cannot be.

A diff that is off by some lines still applies as long as its context fits one place only.  Nobody
knows how long that will be, so it is written again before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bugs.catalogue import DIFF, entries, id_of
from harness.bugs.diff import anchored
from harness.report.store import replace_text
from workloads.errors import UsageError

_PLACE = re.compile(r"^@@ -([0-9]+)", re.MULTILINE)


@dataclass(frozen=True)
class Refreshed:
    """One diff, as it is and as it would be made now; `problem` says why there is no such."""

    file: Path
    before: str
    text: str
    problem: str = ""

    @property
    def is_current(self) -> bool:
        """Whether it says exactly where its lines are."""
        return not self.problem and self.text == self.before

    @property
    def moves(self) -> str:
        """What would change: `line 194 is 196 now`."""
        old, new = (_PLACE.findall(text) for text in (self.before, self.text))
        if len(old) != len(new):
            return f"{len(old)} hunks are {len(new)} now"
        moved = [f"line {a} is {b} now" for a, b in zip(old, new, strict=True) if a != b]
        return ", ".join(moved) or "written another way"

    def write(self) -> None:
        """Put the new text into the file, at once."""
        replace_text(self.file, self.text)


def diffs(folder: Path, names: Sequence[str]) -> list[Path]:
    """The diffs of the entries that are named (all if none is); a name may also be a file's."""
    found = entries(folder)
    files = [Path(name) if Path(name).is_file() else found[id_of(found, name)] for name in names]
    chosen = files or list(found.values())
    return [each / DIFF if each.is_dir() else each for each in chosen]


def refreshed(file: Path, source_root: Path) -> Refreshed:
    """Look where a diff's lines are in the sources of `source_root`; nothing is written."""
    try:
        before = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot read it; name a unified diff") from error

    def read(path: str) -> str:
        return (source_root / path).read_text(encoding="utf-8")

    try:
        return Refreshed(file, before, anchored(before, read, str(file)))
    except UsageError as error:
        return Refreshed(file, before, "", str(error).removeprefix(f"{file}: "))
