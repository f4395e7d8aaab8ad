"""Unified diffs against `mmu/`: read, applied, and written again where their lines are now.

Not by patch(1): that guesses (fuzz), may be missing, and cannot say in one line what does not fit.
"""

import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NoReturn

from workloads.errors import UsageError

CONTEXT: Final = 1  # lines around a change, in the diffs of this project

Read = Callable[[str], str]

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
    end: int = 0  # The index of the diff's line after it.
    start: int = 0  # Where it expects its old lines, from 0.
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    # Per new line, the index in `old` of the context line that it is, or None if it is added.
    kept: list[int | None] = field(default_factory=list)
    # All its lines as they stand, each with its sign.
    body: list[tuple[str, str]] = field(default_factory=list)

    def take(self, line: str) -> bool:
        """Adds one line of the diff; false if no line of a hunk looks like that."""
        # Editors strip the blank of an empty context line.
        sign, text = line[:1] or " ", line[1:] + "\n"
        if sign == "\\" and self.body:
            self._drop_newline()
        elif sign in (" ", "-", "+"):
            if sign != "-":
                self.kept.append(len(self.old) if sign == " " else None)
                self.new.append(text)
            if sign != "+":
                self.old.append(text)
            self.body.append((sign, text))
        else:
            return False
        return True

    def _drop_newline(self) -> None:
        """Heeds `\\ No newline at end of file`, which is about the line before."""
        sign, text = self.body[-1]
        bare = text.removesuffix("\n")
        self.body[-1] = (sign, bare)
        if sign != "+":
            self.old[-1] = bare
        if sign != "-":
            self.new[-1] = bare


@dataclass
class _FilePatch:
    path: str
    hunks: list[_Hunk] = field(default_factory=list)


def apply(diff_text: str, read: Read, name: str = "diff") -> dict[str, str]:
    """The files that a unified diff changes, by path, with their new text.

    `read` gives a file's text by its path in the checkout and raises OSError when there is none;
    `name` is what errors call the diff. Every context and deleted line must match; a hunk that
    has moved applies where it fits, if that is one place only. Raises `UsageError`.
    """
    texts_old: dict[str, str] = {}
    texts: dict[str, str] = {}
    for patch in _parse(_lines_of(diff_text), name):
        if patch.path not in texts:
            texts_old[patch.path] = texts[patch.path] = _read(read, patch.path, name)
        texts[patch.path] = _patched(texts[patch.path], patch, name)
    if not texts:
        raise UsageError(f"{name}: no unified diff in it; make one with `git diff mmu/`")
    if texts == texts_old:
        raise UsageError(f"{name}: changes nothing; make the diff with `git diff mmu/`")
    return texts


def anchored(diff_text: str, read: Read, name: str = "diff") -> str:
    """The same diff as if made now: each hunk where it applies, with one line of context.

    What is no hunk stays as it is.  Raises `UsageError` as `apply` does.
    """
    lines = _lines_of(diff_text)
    apply(diff_text, read, name)
    texts: dict[str, str] = {}
    result: list[str] = []
    done = 0  # Lines of the diff that are behind the last hunk.
    for patch in _parse(lines, name):
        text = texts[patch.path] if patch.path in texts else read(patch.path)
        result += lines[done : patch.hunks[0].line - 1]
        result += _hunks_now(_split(text.replace("\r\n", "\n")), patch, name)
        done = patch.hunks[-1].end
        texts[patch.path] = _patched(text, patch, name)
    return "\n".join(result + lines[done:]) + "\n"


def _lines_of(diff_text: str) -> list[str]:
    return diff_text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _read(read: Read, path: str, name: str) -> str:
    try:
        return read(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{name}: cannot read {path}, which it changes; make the diff against this"
            " checkout's mmu/"
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
    hunk.end = index
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


def _split(text: str) -> list[str]:
    """Lines with their newlines; only newlines end them."""
    lines = [line + "\n" for line in text.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    return lines if lines[-1] else lines[:-1]


def _patched(text: str, patch: _FilePatch, name: str) -> str:
    """`text` with the hunks of one file applied in order."""
    lines = _split(text)
    # Line ends are the file's own; a diff that went through another system still applies.
    bare = [line.replace("\r\n", "\n") for line in lines]
    crlf = bool(lines) and lines[0].endswith("\r\n")
    result: list[str] = []
    done = 0  # Lines of the old text that are behind the last hunk.
    for hunk, place in zip(patch.hunks, _places(bare, patch, name), strict=True):
        result += lines[done:place]
        for line, kept in zip(hunk.new, hunk.kept, strict=True):
            if kept is not None:
                result.append(lines[place + kept])
            else:
                result.append(line.replace("\n", "\r\n") if crlf else line)
        done = place + len(hunk.old)
    return "".join(result + lines[done:])


def _places(bare: Sequence[str], patch: _FilePatch, name: str) -> list[int]:
    """The index of each hunk's first old line; UsageError if one has no place."""
    places: list[int] = []
    done = 0  # Lines of the old text that are behind the last hunk.
    moved = 0  # How far that hunk was from where it expected to be.
    for number, hunk in enumerate(patch.hunks, start=1):
        place = _place(bare, hunk, done, moved)
        if isinstance(place, str):
            raise UsageError(
                f"{name}: hunk {number} (line {hunk.line}) does not apply to {patch.path}: {place};"
                " make the diff against this checkout"
            )
        places.append(place)
        done = place + len(hunk.old)
        moved = place - hunk.start
    return places


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


# --- Hunks as they are written now ---------------------------------------------------------------


class _Change(NamedTuple):
    """Lines that go and come, without any context."""

    start: int  # Index of the first old line that goes, or that stands behind those that come.
    end: int  # Index of the old line after them.
    body: list[tuple[str, str]]


def _hunks_now(bare: Sequence[str], patch: _FilePatch, name: str) -> Iterator[str]:
    """The lines of a file's hunks; changes whose context would meet share one."""
    groups: list[list[_Change]] = []
    for hunk, place in zip(patch.hunks, _places(bare, patch, name), strict=True):
        for change in _changes(hunk, place):
            if groups and change.start - groups[-1][-1].end <= 2 * CONTEXT:
                groups[-1].append(change)
            else:
                groups.append([change])
    shift = 0  # Lines that came before, less those that went.
    for group in groups:
        body: list[tuple[str, str]] = []
        at = start = max(group[0].start - CONTEXT, 0)
        for change in group:
            body += [(" ", line) for line in bare[at : change.start]] + change.body
            at = change.end
        body += [(" ", line) for line in bare[at : at + CONTEXT]]
        old, new = (sum(sign != other for sign, _ in body) for other in "+-")
        yield f"@@ -{_range(start, old)} +{_range(start + shift, new)} @@"
        for sign, line in body:
            yield sign + line.removesuffix("\n")
            if not line.endswith("\n"):
                yield "\\ No newline at end of file"
        shift += new - old


def _changes(hunk: _Hunk, place: int) -> Iterator[_Change]:
    at = place
    body: list[tuple[str, str]] = []
    for sign, line in [*hunk.body, (" ", "")]:
        if sign != " ":
            body.append((sign, line))
            continue
        if body:
            end = at + sum(each == "-" for each, _ in body)
            yield _Change(at, end, body)
            at, body = end, []
        at += 1


def _range(start: int, count: int) -> str:
    """As diff(1) writes it: from 1, or the line before if there is none; a count of 1 left out."""
    first = start + 1 if count else start
    return f"{first}" if count == 1 else f"{first},{count}"
