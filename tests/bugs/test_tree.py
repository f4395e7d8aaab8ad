"""Patched trees: a copy of the packages with a diff applied, whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.bugs import tree
from tests.bugs.diffs import diff
from workloads.errors import MachineError, UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for path, text in {
        "harness/__init__.py": "",
        "harness/__main__.py": (
            "import os, sys, mmu.spte\n"
            "print(mmu.spte.VALUE, os.environ['TDPRACE_TREE'], sys.argv[1:])\n"
        ),
        "mmu/__init__.py": "",
        "mmu/spte.py": "VALUE = 'clean'\n",
        "workloads/__init__.py": "",
        "workloads/traces/sort.gz": "data",
        "mmu/__pycache__/spte.cpython-311.pyc": "cache",
        "mmu/.spte.py.swp": "editor",
        "tests/test_x.py": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    file = tmp_path / "bug.diff"
    file.write_text(diff("VALUE = 'clean'\n", "VALUE = 'bug'\n", "mmu/spte.py"))
    return file


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_the_tree_is_the_packages_with_the_patch(
    checkout: Path, patch: Path, tmp_path: Path
) -> None:
    made = tree.patched_tree(patch, checkout, tmp_path / "cache")
    assert made.parent == tmp_path / "cache" / "trees"
    assert len(made.name) == 16
    assert files(made) == {
        "harness/__init__.py",
        "harness/__main__.py",
        "mmu/__init__.py",
        "mmu/spte.py",
        "workloads/__init__.py",
        "workloads/traces/sort.gz",
    }
    assert (made / "mmu/spte.py").read_text() == "VALUE = 'bug'\n"
    assert (checkout / "mmu/spte.py").read_text() == "VALUE = 'clean'\n"


def test_the_same_sources_give_the_same_tree_and_others_another(
    checkout: Path, patch: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    made = tree.patched_tree(patch, checkout, cache)
    (made / "mmu" / "__pycache__").mkdir()
    (made / "mmu" / "__pycache__" / "spte.pyc").write_text("cache")
    inode = made.stat().st_ino
    assert tree.patched_tree(patch, checkout, cache) == made
    assert made.stat().st_ino == inode
    (checkout / "workloads" / "x.py").write_text("")
    assert tree.patched_tree(patch, checkout, cache) != made
    assert len(os.listdir(cache / "trees")) == 2


def test_a_tree_changed_by_hand_is_refused(checkout: Path, patch: Path, tmp_path: Path) -> None:
    made = tree.patched_tree(patch, checkout, tmp_path / "cache")
    (made / "mmu/spte.py").write_text("VALUE = 'other'\n")
    with pytest.raises(MachineError, match="was changed after it was made"):
        tree.patched_tree(patch, checkout, tmp_path / "cache")


def test_a_diff_that_does_not_apply_makes_no_tree(
    checkout: Path, patch: Path, tmp_path: Path
) -> None:
    (checkout / "mmu/spte.py").write_text("VALUE = 'newer'\n")
    with pytest.raises(UsageError) as error:
        tree.patched_tree(patch, checkout, tmp_path / "cache")
    assert str(error.value).startswith(f"{patch}: hunk 1 (line 3) does not apply to mmu/spte.py")
    assert not (tmp_path / "cache").exists()


def test_what_cannot_be_read_or_written_is_named(
    checkout: Path, patch: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(UsageError, match=r"absent: cannot read"):
        tree.patched_tree(tmp_path / "absent", checkout, cache)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\x00")
    with pytest.raises(UsageError, match="not a text file"):
        tree.patched_tree(binary, checkout, cache)
    cache.write_text("a file in its place")
    with pytest.raises(MachineError, match="cannot make the patched copy"):
        tree.patched_tree(patch, checkout, cache)
    (checkout / "workloads" / "__init__.py").unlink()
    with pytest.raises(MachineError, match="no folder workloads"):
        tree.patched_tree(patch, _without(checkout, "workloads"), tmp_path / "cache2")


def _without(checkout: Path, package: str) -> Path:
    (checkout / package).rename(checkout / f"not-{package}")
    return checkout


CHILD = """
import sys, pathlib
from harness.bugs import tree
paths = [pathlib.Path(path) for path in sys.argv[1:4]]
sys.stdin.readline()
print("before")
made = tree.patched_tree(*paths)
tree.run_in_tree(made, ["stress", "--seed", "1"])
"""


def start(patch: Path, checkout: Path, cache: Path, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, str(patch), str(checkout), str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        # Buffered whatever the caller's habit, so that a lost buffer would show.
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
    )


def test_processes_that_make_a_tree_at_once_all_run_in_it(
    checkout: Path, patch: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    # The working folder is the clean checkout: it must not come before the tree.
    children = [start(patch, checkout, cache, checkout) for _ in range(4)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [child.communicate(timeout=60)[0] for child in children]
    made = tree.patched_tree(patch, checkout, cache)
    assert outputs == [f"before\nbug {made} ['stress', '--seed', '1']\n"] * 4
    assert os.listdir(cache / "trees") == [made.name]


def test_who_comes_second_uses_the_first_ones_tree(
    checkout: Path, patch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = tree._publish

    def publish_twice(sources: dict[str, bytes], folder: Path) -> None:
        publish(sources, folder)
        inode = folder.stat().st_ino
        publish(sources, folder)
        assert folder.stat().st_ino == inode

    monkeypatch.setattr(tree, "_publish", publish_twice)
    made = tree.patched_tree(patch, checkout, tmp_path / "cache")
    assert os.listdir(made.parent) == [made.name]


def test_an_interpreter_that_cannot_start_is_a_machine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MachineError, match="cannot run the patched tree"):
        tree.run_in_tree(tmp_path, [])
