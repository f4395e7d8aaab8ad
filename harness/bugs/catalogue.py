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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.bugs.tree import CATALOGUE
from workloads.errors import UsageError

DIFF: Final = "patch.diff"
STORY: Final = "story.md"
REPRODUCER: Final = "reproducer.json"
SOURCE_ROOT: Final = Path(__file__).resolve().parents[2]

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
    return bugs_in(source_root / CATALOGUE)


def bugs_in(folder: Path) -> dict[str, Bug]:
    """The same of a catalogue that lies in `folder`."""
    return {id_: _read(id_, entry) for id_, entry in entries(folder).items()}


def entries(folder: Path) -> dict[str, Path]:
    """The entries' folders by id, in order; only their names and diffs are looked at."""
    try:
        found = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise UsageError(f"{folder}: cannot read the catalogue: {error.strerror}") from error
    by_id: dict[str, Path] = {}
    for entry in found:
        if entry.name.startswith((".", "__")):
            continue
        named = _FOLDER_NAME.fullmatch(entry.name)
        if named is None:
            raise UsageError(f"{entry}: not named like b17-what-goes-wrong")
        if named[1] in by_id:
            raise UsageError(f"{entry}: {named[1]} is {by_id[named[1]].name} already")
        if not (entry / DIFF).is_file():
            raise UsageError(f"{entry}: has no {DIFF}")
        by_id[named[1]] = entry
    return by_id


def chosen(bugs: dict[str, Bug], names: Sequence[str]) -> list[Bug]:
    """Those that are named (`B17`, `b17`, or the folder's name), all if none is."""
    ids = [id_of({id_: bug.folder for id_, bug in bugs.items()}, name) for name in names]
    return [bugs[id_] for id_ in dict.fromkeys(ids)] or list(bugs.values())


def id_of(folders: dict[str, Path], name: str) -> str:
    """The id that a name means; UsageError if there is no such entry."""
    ids = {folder.name: id_ for id_, folder in folders.items()} | {id_: id_ for id_ in folders}
    if name.lower() not in ids:
        known = ", ".join(folders) or "none"
        raise UsageError(f"the catalogue has no bug {name!r}; it has {known}")
    return ids[name.lower()]


def _read(id_: str, folder: Path) -> Bug:
    path = folder / STORY
    try:
        match = _STORY.fullmatch(path.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: no text") from error
    if match is None:
        raise UsageError(f"{path}: begins with `# title`, a ```toml block of facts, then the story")
    facts = _facts(path, match["facts"])
    return Bug(id_, folder.name, folder, match["title"], text=match["text"], **facts)


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
