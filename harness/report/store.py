"""Stored runs: `results/<utc>-<command>-<name>-<id>/run.json` beside what was printed.

A run may be killed at any moment, so everything is built under a hidden name and renamed: a
folder appears whole, a file is the old one or the new one. Hidden names that a killed process
left behind are swept when a later run opens. There is no fsync: what is promised is that a
reader never sees half a file, not that a power cut loses nothing.
"""

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from workloads.errors import MachineError, UsageError

Document = dict[str, Any]

SCHEMA: Final = 1
RUN_FILE: Final = "run.json"
TABLE_FILE: Final = "table.txt"
PATCH_FILE: Final = "patch.diff"  # what the run's model was patched with

TEMPORARY_PREFIX: Final = ".tdprace-tmp-"
TEMPORARY_AGE_S_MAX: Final = 3600  # Writing takes milliseconds: what is this old was abandoned.

_CANDIDATE_COUNT_MAX: Final = 5
_NAME_LENGTH_MAX: Final = 80  # With time, command and id it stays below a file name's 255 bytes.
_FOLDER: Final = re.compile(r"(?P<utc>[0-9]{8}T[0-9]{6}Z)-.+-(?P<id>[0-9a-f]{6})")


class RunFolder:
    """One run's folder, which exists from the first `write` on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._texts_waiting: dict[str, str] | None = {}

    @property
    def path(self) -> Path:
        """Where the run is, or will be once written."""
        return self._path

    def write(self, document: Document) -> None:
        """Makes `document` the run's `run.json`; the first time, the folder appears with it.

        Raises `MachineError` when the file system refuses, `ValueError` for NaN.
        """
        text = dump(document)
        if self._texts_waiting is None:
            replace_text(self._path / RUN_FILE, text)
        else:
            self._appear({**self._texts_waiting, RUN_FILE: text})
            self._texts_waiting = None

    def write_text(self, name: str, text: str) -> None:
        """Makes `text` the run's file `name`; before the first `write` it waits for the folder.

        Raises `MachineError` when the file system refuses.
        """
        if name != Path(name).name or name[:1] in ("", ".") or name == RUN_FILE:
            raise ValueError(f"{name!r} is not the name of a file beside {RUN_FILE}")
        if self._texts_waiting is None:
            replace_text(self._path / name, text)
        else:
            self._texts_waiting[name] = text

    def _appear(self, texts: dict[str, str]) -> None:
        temporary = self._path.parent / f"{TEMPORARY_PREFIX}{self._path.name}"
        try:
            temporary.mkdir(parents=True)
            for name, text in texts.items():
                (temporary / name).write_text(text, encoding="utf-8")
            temporary.rename(self._path)
        except OSError as error:
            _refuse_write(self._path, error)
        finally:
            # Also after Ctrl-C; after the rename there is nothing of that name.
            shutil.rmtree(temporary, ignore_errors=True)


class StoredRun(NamedTuple):
    """A run that was read back."""

    path: Path
    document: Document


class Recent(NamedTuple):
    """The newest runs, and how many folders are stored and were skipped as unreadable."""

    runs: list[StoredRun]
    stored_count: int
    unreadable_count: int


def open_run(results_dir: Path, command: str, name: str) -> RunFolder:
    """A folder for a run that starts now; sweeps what killed runs left in `results_dir`.

    Raises `MachineError` when `results_dir` cannot be made or written.
    """
    try:
        results_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # A file in the way is "File exists", which would read as if all were well.
        reason = "is not a folder" if isinstance(error, FileExistsError) else error.strerror
        raise MachineError(
            f"{results_dir}: cannot store runs there: {reason}; choose another --results DIR"
        ) from error
    if not os.access(results_dir, os.R_OK | os.W_OK | os.X_OK):
        raise MachineError(
            f"{results_dir}: cannot store runs there: not writable; choose another --results DIR"
        )
    folders = _folders(results_dir)
    for folder in (results_dir, *folders):
        sweep_temporaries(folder)
    ids_taken = {folder.name[-6:] for folder in folders}
    run_id = secrets.token_hex(3)
    while run_id in ids_taken:
        run_id = secrets.token_hex(3)
    utc = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return RunFolder(results_dir / f"{utc}-{_slug(command)}-{_slug(name)}-{run_id}")


def load(path: Path) -> Document:
    """The document of a run folder or of a `run.json`.

    Raises `UsageError` that names the file when it is missing, not whole, or of another schema.
    """
    file = path / RUN_FILE if os.path.isdir(path) else path
    try:
        document = json.loads(
            file.read_text(encoding="utf-8"),
            parse_constant=_refuse_number,
            parse_float=_finite,
        )
    except OSError as error:
        raise UsageError(
            f"{file}: cannot read the run: {error.strerror}; `tdprace results list` shows runs"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file}: not a whole JSON file: {error}; run it again") from error
    if not isinstance(document, dict) or type(document.get("schema")) is not int:
        raise UsageError(f"{file}: JSON, but not a run of tdprace: no schema; name a run.json")
    if document["schema"] != SCHEMA:
        raise UsageError(
            f"{file}: schema {document['schema']}, but this tdprace reads schema {SCHEMA};"
            " use the tdprace that wrote it"
        )
    return document


def find(results_dir: Path, reference: str) -> Path:
    """The run that `reference` means: a path, a run's id, a prefix of its name, or `latest`.

    A path to a `run.json` is returned as it is; everything else gives the run's folder. Raises
    `UsageError` with up to five candidates when no run or more than one is meant.
    """
    path = Path(reference)
    # Not Path.is_file(): a reference too long for a file name must not raise.
    if reference and (os.path.isfile(path) or os.path.isfile(path / RUN_FILE)):
        return path
    folders = _folders(results_dir)
    if not folders:
        raise UsageError(
            f"run {reference!r}: no runs are stored in {results_dir}; name a run's folder, or"
            " --results DIR"
        )
    if reference == "latest":
        return folders[0]
    meant = [folder for folder in folders if folder.name == reference]
    if not meant and reference:
        meant = [
            folder
            for folder in folders
            if folder.name.startswith(reference) or folder.name[-6:] == reference
        ]
    if len(meant) == 1:
        return meant[0]
    candidates = ", ".join(folder.name for folder in (meant or folders)[:_CANDIDATE_COUNT_MAX])
    if meant:
        raise UsageError(
            f"run {reference!r} means {len(meant)} runs in {results_dir}; write more of one of"
            f" {candidates}"
        )
    raise UsageError(f"run {reference!r} is not in {results_dir}; the newest are {candidates}")


def recent(results_dir: Path, limit: int) -> Recent:
    """Up to `limit` readable runs, newest first; an absent `results_dir` holds none.

    Unreadable runs are counted among the folders looked at, which are those newer than the last
    run returned.
    """
    folders = _folders(results_dir)
    runs: list[StoredRun] = []
    unreadable_count = 0
    for folder in folders:
        if len(runs) == limit:
            break
        try:
            runs.append(StoredRun(folder, load(folder)))
        except UsageError:
            unreadable_count += 1
    return Recent(runs, len(folders), unreadable_count)


def dump(document: Document) -> str:
    """JSON text: keys in insertion order, indent 1, a trailing newline.

    Raises `ValueError` for NaN and infinities, which JSON does not have.
    """
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def replace_text(path: Path, text: str) -> None:
    """Makes `text` the content of `path` at once: a reader sees the old file or the new one.

    Raises `MachineError` when the file system refuses.
    """
    # A link is followed, as any other way of writing would.
    target = Path(os.path.realpath(path))
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{target.name[-80:]}"
    try:
        if target.exists() and not target.is_file():
            # A pipe or /dev/null is written to; renaming over it would destroy it.
            target.write_text(text, encoding="utf-8")
            return
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        _refuse_write(path, error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sweep_temporaries(folder: Path) -> None:
    """Removes the hidden temporaries in `folder` that are older than `TEMPORARY_AGE_S_MAX`."""
    newest_s = time.time() - TEMPORARY_AGE_S_MAX
    with contextlib.suppress(OSError):  # Another sweeper may be ahead: both want it gone.
        for entry in os.scandir(folder):
            if not entry.name.startswith(TEMPORARY_PREFIX):
                continue
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime > newest_s:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def _folders(results_dir: Path) -> list[Path]:
    """The run folders, newest first: by the time in the name, then by their last change."""
    found: list[tuple[str, int, str]] = []
    with contextlib.suppress(OSError), os.scandir(results_dir) as entries:
        for entry in entries:
            match = _FOLDER.fullmatch(entry.name)
            if match is None or not entry.is_dir():
                continue
            with contextlib.suppress(OSError):
                found.append((match["utc"], entry.stat().st_mtime_ns, entry.name))
    return [results_dir / name for _, _, name in sorted(found, reverse=True)]


def _slug(name: str) -> str:
    """`name` as part of a folder's name; a scenario may be written `FILE.py::NAME`."""
    words = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")
    return words[-_NAME_LENGTH_MAX:].strip("-.") or "run"


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text)


def _refuse_number(text: str) -> NoReturn:
    """What `dump` could not write again is not taken in."""
    raise ValueError(f"{text[:20]} is not a number of JSON")


def _refuse_write(path: Path, error: OSError) -> NoReturn:
    raise MachineError(
        f"{path}: cannot write: {error.strerror}; free space there or choose another place"
    ) from error
