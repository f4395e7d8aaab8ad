"""Patched trees: a unified diff against `mmu/`, applied to a copy of the sources.

A bug never lives in the model, so a patched model is another set of files. It lies at a path
made of its content's hash, where numba cannot confuse its compiled code with another model's,
and runs in a fresh interpreter.
"""

import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from harness.bugs.diff import apply
from harness.report.store import TEMPORARY_PREFIX, sweep_temporaries
from workloads.errors import MachineError, UsageError

PACKAGES: Final = ("harness", "mmu", "workloads")
CATALOGUE: Final = "workloads/bugs"  # Diffs and stories: no part of any model.
TREE_VARIABLE: Final = "TDPRACE_TREE"


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
