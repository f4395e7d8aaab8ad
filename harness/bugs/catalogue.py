"""The catalogue of real race bugs: a folder each in `workloads/bugs`, read and checked here.

`patch.diff` brings the bug back, `story.md` tells it, `reproducer.json` is a schedule that shows it
(written by `tdprace bugs check --keep`).  A story begins with its title and a block of facts:

    # Readers revive a dying root

    ```toml
    kernel = "5.12"
    fixed = "5.13"
    commit = "fb10129335ca"
    scenario = "put-get"
    oracle = "roots"
    ```

`commit` and `cve` are left out where nobody has seen them.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.bugs.tree import CATALOGUE
from workloads.errors import UsageError

DIFF: Final = "patch.diff"
STORY: Final = "story.md"
REPRODUCER: Final = "reproducer.json"

_FOLDER_NAME: Final = re.compile(r"(b[0-9]{2})-[a-z0-9]+(-[a-z0-9]+)*")
_STORY: Final = re.compile(
    r"# (?P<title>[^\n]+)\n+```toml\n(?P<facts>.*?)\n```\n+(?P<text>.+)", re.DOTALL
)
_NEEDED: Final = ("kernel", "fixed", "scenario", "oracle")
_OPTIONAL: Final = ("commit", "cve")


@dataclass(frozen=True)
class Bug:
    """One entry.

    Attributes:
        id: short name, `b17`.
        name: the folder's name, `b17-iterator-skips-after-yield`.
        folder: where diff, story and reproducer lie.
        title: one line.
        kernel, fixed: versions that had it, version that has the fix.
        commit, cve: of the fix; empty where unknown.
        scenario, oracle: where exploring finds it, and whose finding it must be.
        text: the story itself, Markdown.
    """

    id: str
    name: str
    folder: Path
    title: str
    kernel: str
    fixed: str
    scenario: str
    oracle: str
    text: str
    commit: str = ""
    cve: str = ""

    @property
    def diff(self) -> Path:
        """The diff that brings the bug back."""
        return self.folder / DIFF

    @property
    def reproducer(self) -> Path:
        """Where its shrunk schedule is, if one was kept."""
        return self.folder / REPRODUCER


def catalogue(source_root: Path) -> dict[str, Bug]:
    """All bugs by id, in order; UsageError for an entry that is incomplete."""
    bugs: dict[str, Bug] = {}
    for folder in sorted((source_root / CATALOGUE).iterdir()):
        if not folder.is_dir() or folder.name.startswith((".", "__")):
            continue
        bug = _read(folder)
        if bug.id in bugs:
            raise UsageError(f"{folder}: {bug.id} is {bugs[bug.id].name} already")
        bugs[bug.id] = bug
    return bugs


def chosen(bugs: dict[str, Bug], names: list[str]) -> list[Bug]:
    """Those that are named (`B17`, `b17`, or the folder's name), all if none is."""
    by_name = {bug.name: bug for bug in bugs.values()} | bugs
    for name in names:
        if name.lower() not in by_name:
            known = ", ".join(bugs)
            raise UsageError(f"the catalogue has no bug {name!r}; it has {known}")
    return [by_name[name.lower()] for name in names] or list(bugs.values())


def _read(folder: Path) -> Bug:
    named = _FOLDER_NAME.fullmatch(folder.name)
    if named is None:
        raise UsageError(f"{folder}: not named like b17-what-goes-wrong")
    if not (folder / DIFF).is_file():
        raise UsageError(f"{folder}: has no {DIFF}")
    path = folder / STORY
    try:
        match = _STORY.fullmatch(path.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from error
    if match is None:
        raise UsageError(f"{path}: begins with `# title`, a ```toml block of facts, then the story")
    facts = _facts(path, match["facts"])
    return Bug(named[1], folder.name, folder, match["title"], text=match["text"], **facts)


def _facts(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: the facts are no TOML: {error}") from error
    for name in _NEEDED:
        if name not in facts:
            raise UsageError(f"{path}: the facts lack {name!r}")
    for name, value in facts.items():
        if name not in (*_NEEDED, *_OPTIONAL) or not isinstance(value, str) or not value:
            raise UsageError(f"{path}: fact {name} = {value!r} is not one of the texts known")
    return facts
