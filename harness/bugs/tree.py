"""Patched trees: a unified diff against `mmu/`, applied to a copy of the sources.

A bug never lives in the model, so a patched model is another set of files. It lies at a path
made of its content's hash, where numba cannot confuse its compiled code with another model's,
and runs in a fresh interpreter. Diffs are applied here, not by patch(1): that guesses (fuzz),
may be missing, and cannot say in one line what does not fit.
"""

import hashlib
import os
import posixpath
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

from harness.report.store import TEMPORARY_PREFIX, sweep_temporaries
from workloads.errors import MachineError, UsageError

PACKAGES: Final = ("harness", "mmu", "workloads")
CATALOGUE: Final = "workloads/bugs"  # Diffs and stories: no part of any model.
TREE_VARIABLE: Final = "TDPRACE_TREE"

_PATCHED_ROOT: Final = "mmu/"
_HUNK: Final = re.compile(r"@@ -([0-9]+)(?:,([0-9]+))? \+[0-9]+(?:,([0-9]+))? @@")
_GIT_PREFIX: Final = re.compile(r"[abciow]/")  # Also those of git's diff.mnemonicPrefix.
# What a diff can say and a patched model must not: its set of files is the model's.
_REFUSED: Final = (
    (re.compile("new file mode [0-7]+$"), "makes a new file"),
    (re.compile("deleted file mode [0-7]+$"), "deletes a file"),
    (re.compile("rename from "), "renames a file"),
    (re.compile("copy from "), "copies a file"),
    (re.compile("GIT binary patch$|Binary files .* differ$"), "changes a binary file"),
)


@dataclass
class _Hunk:
    """Lines with their newlines, so that a file's last line may lack one."""

    line: int  # Where its @@ stands in the diff, from 1.
    start: int  # Where it expects its old lines, from 0.
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    # Per new line, the index in `old` of the context line that it is, or None if it is added.
    kept: list[int | None] = field(default_factory=list)
    sign_last: str = ""

    def take(self, line: str) -> bool:
        """Adds one line of the diff; false if no line of a hunk looks like that."""
        # Editors strip the blank of an empty context line.
        sign, text = line[:1] or " ", line[1:] + "\n"
        if sign == "\\" and self.sign_last:
            self._drop_newline()
        elif sign in (" ", "-", "+"):
            if sign != "-":
                self.kept.append(len(self.old) if sign == " " else None)
                self.new.append(text)
            if sign != "+":
                self.old.append(text)
            self.sign_last = sign
        else:
            return False
        return True

    def _drop_newline(self) -> None:
        """Heeds `\\ No newline at end of file`, which is about the line before."""
        if self.sign_last != "+":
            self.old[-1] = self.old[-1].removesuffix("\n")
        if self.sign_last != "-":
            self.new[-1] = self.new[-1].removesuffix("\n")


@dataclass
class _FilePatch:
    path: str
    hunks: list[_Hunk] = field(default_factory=list)


def apply(diff_text: str, read: Callable[[str], str], name: str = "diff") -> dict[str, str]:
    """The files that a unified diff changes, by path, with their new text.

    `read` gives a file's text by its path in the checkout and raises OSError when there is none;
    `name` is what errors call the diff. Every context and deleted line must match; a hunk that
    has moved applies where it fits, if that is one place only. Raises `UsageError`.
    """
    texts_old: dict[str, str] = {}
    texts: dict[str, str] = {}
    for patch in _parse(diff_text.replace("\r\n", "\n").removesuffix("\n").split("\n"), name):
        if patch.path not in texts:
            try:
                texts_old[patch.path] = texts[patch.path] = read(patch.path)
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"{name}: cannot read {patch.path}, which it changes; make the diff against"
                    " this checkout's mmu/"
                ) from error
        texts[patch.path] = _patched(texts[patch.path], patch, name)
    if not texts:
        raise UsageError(f"{name}: no unified diff in it; make one with `git diff mmu/`")
    if texts == texts_old:
        raise UsageError(f"{name}: changes nothing; make the diff with `git diff mmu/`")
    return texts


def patched_tree(diff_path: Path, source_root: Path, cache_root: Path) -> Path:
    """The folder of a copy of `source_root`'s packages with the diff applied, made if missing.

    It appears whole or not at all, also when two processes make it at once. Raises `UsageError`
    for a diff that is missing or does not apply, `MachineError` when the copy cannot be made.
    """
    try:
        diff_text = diff_path.read_bytes().decode()
    except OSError as error:
        raise UsageError(
            f"{diff_path}: cannot read the patch: {error.strerror}; name a unified diff"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{diff_path}: not a text file; name a unified diff") from error

    def read(path: str) -> str:
        return (source_root / path).read_bytes().decode()

    changed = apply(diff_text, read, str(diff_path))
    # All is read before anything is written: the hash names exactly the bytes that are copied.
    sources = _sources(source_root) | {path: text.encode() for path, text in changed.items()}
    digest = _digest(sources)
    tree = cache_root / "trees" / digest
    if not tree.is_dir():
        _publish(sources, tree)
    elif _digest(_sources(tree)) != digest:
        raise MachineError(f"{tree}: was changed after it was made; remove that folder, run again")
    return tree


def run_in_tree(tree: Path, argv: Sequence[str]) -> NoReturn:
    """Becomes `python -m harness ARGV` in which the packages are those of `tree`.

    The environment variable TDPRACE_TREE tells the new interpreter so. Raises `MachineError`
    when the interpreter cannot be started.
    """
    paths = [str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), TREE_VARIABLE: str(tree)}
    # Without -P the working folder, often the checkout, would come before the tree.
    command = [sys.executable, "-P", "-m", "harness", *argv]
    # Buffers do not survive exec.
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, command, environment)
    except OSError as error:
        raise MachineError(
            f"{sys.executable}: cannot run the patched tree {tree}: {error.strerror}; check this"
            " Python installation"
        ) from error


def _parse(lines: Sequence[str], name: str) -> Iterator[_FilePatch]:
    """The diff's files in order; text between them, such as a commit message, is skipped."""
    patch: _FilePatch | None = None
    index = 0
    while index < len(lines):
        line = lines[index]
        for pattern, offence in _REFUSED:
            if pattern.match(line):
                raise UsageError(
                    f"{name}: line {index + 1} {offence}; a patch changes lines of mmu/ only"
                )
        if _is_heading(lines, index):
            if patch:
                yield patch
            patch = _FilePatch(_path(line, lines[index + 1], name))
            index += 2
            if index == len(lines) or not _HUNK.match(lines[index]):
                raise UsageError(
                    f"{name}: no hunk (@@ ... @@) for {patch.path} in line {index + 1}; make the"
                    " diff again"
                )
        elif header := _HUNK.match(line):
            if patch is None:
                raise UsageError(f"{name}: line {index + 1} is a hunk of no file; add --- and +++")
            hunk, index = _hunk(header, lines, index, name)
            patch.hunks.append(hunk)
        else:
            index += 1
    if patch:
        yield patch


def _path(line_old: str, line_new: str, name: str) -> str:
    """The file under `mmu/` that the lines `---` and `+++` mean."""
    named = [line[4:].split("\t")[0].rstrip() for line in (line_new, line_old)]
    if "/dev/null" in named:
        offence = "deletes" if named[0] == "/dev/null" else "makes"
        path = named[1] if offence == "deletes" else named[0]
        raise UsageError(f"{name}: {offence} {path}; a patch changes lines of mmu/ only")
    # The new name first; the old one serves `diff -u mmu/spte.py /tmp/edited.py`.
    for path in named:
        for spelling in (path, _GIT_PREFIX.sub("", path, count=1)):
            normal = posixpath.normpath(spelling)
            if normal.startswith(_PATCHED_ROOT):
                return normal
    raise UsageError(f"{name}: changes {named[0]}; a patch changes lines of mmu/ only")


def _is_heading(lines: Sequence[str], index: int) -> bool:
    """Whether the pair of lines that names a file starts here."""
    pair = lines[index : index + 2]
    return len(pair) == 2 and pair[0].startswith("--- ") and pair[1].startswith("+++ ")


def _hunk(header: re.Match[str], lines: Sequence[str], index: int, name: str) -> tuple[_Hunk, int]:
    """The hunk whose header is `lines[index]`, and the index after it.

    Its end is counted, not guessed: a deleted line may read `-- x`, which looks like a file's.
    """
    old_count, new_count = (1 if group is None else int(group) for group in header.group(2, 3))
    # Lines count from 1, but a hunk without old lines names the line before it.
    hunk = _Hunk(line=index + 1, start=int(header[1]) - (1 if old_count else 0))
    index += 1
    while len(hunk.old) < old_count or len(hunk.new) < new_count:
        if index == len(lines) or not hunk.take(lines[index]):
            _refuse_count(hunk, index, name)
        index += 1
    if index < len(lines) and lines[index].startswith("\\"):
        hunk.take(lines[index])
        index += 1
    # Edited by hand, a hunk may hold more lines than its header says: never drop them silently.
    # `-- ` alone is where the signature of a mailed patch starts.
    more = index < len(lines) and lines[index][:1] in (" ", "-", "+")
    if more and not _is_heading(lines, index) and lines[index] not in ("-- ", "--"):
        _refuse_count(hunk, index, name)
    if len(hunk.old) != old_count or len(hunk.new) != new_count:
        _refuse_count(hunk, index, name)
    return hunk, index


def _refuse_count(hunk: _Hunk, index: int, name: str) -> NoReturn:
    raise UsageError(
        f"{name}: the hunk of line {hunk.line} has more or fewer lines than its @@ says, seen at"
        f" line {index + 1}; correct the counts or make the diff again"
    )


def _patched(text: str, patch: _FilePatch, name: str) -> str:
    """`text` with the hunks of one file applied in order."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    if not lines[-1]:
        lines.pop()
    # Line ends are the file's own; a diff that went through another system still applies.
    bare = [line.replace("\r\n", "\n") for line in lines]
    crlf = bool(lines) and lines[0].endswith("\r\n")
    result: list[str] = []
    done = 0  # Lines of the old text that are behind the last hunk.
    moved = 0  # How far that hunk was from where it expected to be.
    for number, hunk in enumerate(patch.hunks, start=1):
        place = _place(bare, hunk, done, moved)
        if isinstance(place, str):
            raise UsageError(
                f"{name}: hunk {number} (line {hunk.line}) does not apply to {patch.path}: {place};"
                " make the diff against this checkout"
            )
        result += lines[done:place]
        for line, kept in zip(hunk.new, hunk.kept, strict=True):
            if kept is not None:
                result.append(lines[place + kept])
            else:
                result.append(line.replace("\n", "\r\n") if crlf else line)
        done = place + len(hunk.old)
        moved = place - hunk.start
    return "".join(result + lines[done:])


def _place(bare: Sequence[str], hunk: _Hunk, done: int, moved: int) -> int | str:
    """The index where the hunk's old lines stand, or why there is no such place.

    Where it says, shifted as the hunk before it was; else the only place where it fits. With
    several, the nearest would be a guess, and a patch at the wrong place is another bug.
    """
    count = len(hunk.old)
    if count == 0:
        return "it has no context to find its place by, use diff -U1" if bare else 0
    expected = hunk.start + moved
    if expected >= done and bare[expected : expected + count] == hunk.old:
        return expected
    places = [
        index
        for index in range(done, len(bare) - count + 1)
        if bare[index : index + count] == hunk.old
    ]
    if len(places) == 1:
        return places[0]
    if places:
        numbers = ", ".join(str(index + 1) for index in places[:5])
        return f"it has moved and fits {len(places)} places, lines {numbers}"
    stripped = {line.strip() for line in bare}
    missing = next((line for line in hunk.old if line.strip() not in stripped), None)
    if missing is None:
        return "its lines are not together there"
    return f"there is no line {missing.strip()[:60]!r}"


def _sources(root: Path) -> dict[str, bytes]:
    """The bytes of every file of the packages, by path; caches and hidden files left out.

    So is the catalogue of bugs: a story that is told better makes no other model.
    """
    sources: dict[str, bytes] = {}
    for package in PACKAGES:
        if not (root / package).is_dir():
            raise MachineError(f"{root}: no folder {package} to copy; run from a tdprace checkout")
        for folder, names, files in os.walk(root / package):
            names[:] = [name for name in names if name[0] != "." and name != "__pycache__"]
            names[:] = [name for name in names if Path(folder, name) != root / CATALOGUE]
            for name in files:
                if name[0] == "." or name.endswith(".pyc"):
                    continue
                path = Path(folder, name)
                try:
                    sources[path.relative_to(root).as_posix()] = path.read_bytes()
                except OSError as error:
                    raise MachineError(
                        f"{path}: cannot copy: {error.strerror}; repair the checkout"
                    ) from error
    return sources


def _digest(sources: dict[str, bytes]) -> str:
    state = hashlib.sha256()
    for path, content in sorted(sources.items()):
        # With lengths, no two sets of files run together into the same bytes.
        state.update(f"{path}\0{len(content)}\0".encode())
        state.update(content)
    return state.hexdigest()[:16]


def _publish(sources: dict[str, bytes], tree: Path) -> None:
    """Makes `tree` appear with all of `sources`; another process may do the same meanwhile."""
    temporary = tree.parent / f"{TEMPORARY_PREFIX}{tree.name}-{secrets.token_hex(4)}"
    try:
        sweep_temporaries(tree.parent)
        for path, content in sources.items():
            file = temporary / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        temporary.rename(tree)
    except OSError as error:
        if not tree.is_dir():
            raise MachineError(
                f"{tree}: cannot make the patched copy: {error.strerror}; free space there or"
                " choose another cache folder"
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
