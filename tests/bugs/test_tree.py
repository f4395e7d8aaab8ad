import difflib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.bugs import tree
from workloads.errors import MachineError, UsageError

ROOT = Path(__file__).parents[2]
MAP = "mmu/tdp/map.py"
TEXT = "".join(f"line {number}\n" for number in range(1, 21))

# Few words, so that hunks often fit in several places.
texts = st.lists(
    st.sampled_from(["a", "b", "c", "", "- x", "+ y", "-- z", "é", "@@ -1 +1 @@"])
).map("\n".join)


def split(text: str) -> list[str]:
    """Lines at newlines only: str.splitlines also ends them at form feeds and the like."""
    lines = [line + "\n" for line in text.split("\n")]
    return [*lines[:-1], *filter(None, [lines[-1][:-1]])]


def diff(old: str, new: str, path: str = MAP, context: int = 3, prefixes: str = "ab") -> str:
    """What diff -u prints; difflib itself forgets to say that a last line has no newline."""
    name_old, name_new = [f"{prefix}/{path}" for prefix in prefixes] or [path, path]
    lines = difflib.unified_diff(split(old), split(new), name_old, name_new, n=context)
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def apply(diff_text: str, old: str, path: str = MAP) -> str:
    changed = tree.apply(diff_text, {path: old}.__getitem__, "bug.diff")
    assert list(changed) == [path]
    return changed[path]


def refusal(diff_text: str, old: str = TEXT) -> str:
    def read(path: str) -> str:
        if path != MAP:
            raise FileNotFoundError(path)
        return old

    with pytest.raises(UsageError) as error:
        tree.apply(diff_text, read, "bug.diff")
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith("bug.diff: ")
    return str(error.value)


@given(texts, texts, st.integers(min_value=1, max_value=4))
def test_the_diff_of_a_and_b_makes_b_of_a(a: str, b: str, context: int) -> None:
    assume(a != b)
    assert apply(diff(a, b, context=context), a) == b


@given(texts, texts)
def test_line_ends_of_another_system_do_not_matter(a: str, b: str) -> None:
    assume(a != b)
    delta = diff(a, b)
    assert apply(delta.replace("\n", "\r\n"), a) == b
    if a.count("\n"):
        assert apply(delta, a.replace("\n", "\r\n")) == b.replace("\n", "\r\n")


@given(texts, texts, st.integers(min_value=1, max_value=30))
def test_a_hunk_that_moved_applies_where_it_fits(a: str, b: str, by: int) -> None:
    assume(a)
    assume(a != b)
    # No line of the texts is among those ahead: the only place is behind them.
    ahead = "".join(f"ahead {number}\n" for number in range(by))
    assert apply(diff(a, b, context=100), ahead + a) == ahead + b


def test_a_hunk_that_moved_takes_the_next_along() -> None:
    new = TEXT.replace("line 3\n", "line three\n").replace("line 15\n", "")
    delta = diff(TEXT, new, context=1)
    assert delta.count("@@ -") == 2
    # Its context stands twice; the first hunk's offset says which place the second one means.
    twice = "0\n0\n" + TEXT + "line 14\nline 15\nline 16\n"
    assert apply(delta, twice) == "0\n0\n" + new + "line 14\nline 15\nline 16\n"


def test_a_hunk_that_fits_several_places_is_refused() -> None:
    delta = diff("x\ny\nz\n", "x\nY\nz\n")
    message = refusal(delta, "q\nx\ny\nz\nx\ny\nz\n")
    assert message.startswith(f"bug.diff: hunk 1 (line 3) does not apply to {MAP}: ")
    assert "2 places, lines 2, 5" in message
    assert apply(delta, "x\ny\nz\nx\ny\nz\n") == "x\nY\nz\nx\ny\nz\n"


def test_a_hunk_that_fits_nowhere_names_hunk_line_and_what_is_missing() -> None:
    new = TEXT.replace("line 3\n", "line three\n").replace("line 15\n", "line fifteen\n")
    delta = diff(TEXT, new, context=1)
    message = refusal(delta, TEXT.replace("line 16", "line sixteen"))
    assert message.startswith(f"bug.diff: hunk 2 (line 8) does not apply to {MAP}: ")
    assert "no line 'line 16'" in message
    assert "not together" in refusal(delta, TEXT.replace("line 15\n", "") + "line 15\n")


def test_hunks_do_not_overtake_each_other() -> None:
    delta = diff("a\nb\nc\nd\ne\n", "a\nB\nc\nD\ne\n", context=0)
    assert delta.count("@@ -") == 2
    assert "hunk 2 (line 6) does not apply" in refusal(delta, "d\na\nb\nc\n")


def test_white_space_counts() -> None:
    delta = diff("if a:\n    b\n", "if a:\n    c\n")
    assert "does not apply" in refusal(delta, "if a:\n\tb\n")


@pytest.mark.parametrize("prefixes", ["ab", "iw", ""])
def test_git_prefixes_or_none(prefixes: str) -> None:
    assert apply(diff("a\n", "b\n", prefixes=prefixes), "a\n") == "b\n"


def test_either_name_may_be_the_models() -> None:
    body = "@@ -1 +1 @@\n-a\n+b\n"
    assert apply(f"--- {MAP}\t2026-01-01\n+++ /tmp/new.py\t2026-01-01\n{body}", "a\n") == "b\n"
    assert apply(f"--- {MAP}.orig\n+++ ./{MAP}\n{body}", "a\n") == "b\n"


def test_a_mailed_patch_with_its_text_and_signature() -> None:
    delta = diff("a\n--\nb\n", "a\n--\nc\n")
    mail = f"Subject: x\n\n--- is not a heading\n---\n {MAP} | 2 +-\n\n{delta}-- \n2.40.1\n\n"
    assert apply(mail, "a\n--\nb\n") == "a\n--\nc\n"


def test_deleted_lines_that_look_like_headings() -> None:
    old, new = "x\n-- a\n++ b\n", "x\n"
    assert "\n--- a\n" in diff(old, new)
    assert apply(diff(old, new), old) == new


def test_several_files_and_the_same_file_twice() -> None:
    sources = {"mmu/a.py": "1\n2\n", "mmu/b.py": "x\n"}
    delta = (
        diff("1\n2\n", "1\n3\n", "mmu/a.py")
        + diff("x\n", "y\n", "mmu/b.py")
        + diff("1\n3\n", "1\n4\n", "mmu/a.py")
    )
    assert tree.apply(delta, sources.__getitem__) == {"mmu/a.py": "1\n4\n", "mmu/b.py": "y\n"}


def test_empty_context_lines_may_have_lost_their_blank() -> None:
    assert apply(diff("a\n\nb\n", "a\n\nc\n").replace("\n \n", "\n\n"), "a\n\nb\n") == "a\n\nc\n"


def refused_diffs() -> Iterator[tuple[str, str]]:
    body = "@@ -1 +1 @@\n-a\n+b\n"
    yield "", "no unified diff"
    yield "just text\n", "no unified diff"
    yield body, "hunk of no file"
    yield f"--- a/{MAP}\n+++ b/{MAP}\n", "no hunk"
    yield diff("a\n", "b\n", "harness/cli/main.py"), "changes b/harness/cli/main.py"
    yield diff("a\n", "b\n", "mmu/../harness/x.py"), "lines of mmu/ only"
    yield diff("a\n", "b\n", "/etc/mmu/x.py", prefixes=""), "lines of mmu/ only"
    yield diff("a\n", "b\n", "xmmu/x.py"), "lines of mmu/ only"
    yield diff("a\n", "b\n", "mmu/absent.py"), "cannot read mmu/absent.py"
    yield f"--- /dev/null\n+++ b/{MAP}\n{body}", "makes b/mmu/tdp/map.py"
    yield f"--- a/{MAP}\n+++ /dev/null\n{body}", "deletes a/mmu/tdp/map.py"
    git = f"diff --git a/{MAP} b/{MAP}\n"
    yield f"{git}new file mode 100644\nindex 0000000..e69de29\n", "makes a new file"
    yield f"{git}deleted file mode 100644\n", "deletes a file"
    yield f"{git}similarity index 100%\nrename from {MAP}\nrename to mmu/x.py\n", "renames"
    yield f"{git}index 1..2 100644\nGIT binary patch\nliteral 1\n", "binary"
    yield f"{git}Binary files a/{MAP} and b/{MAP} differ\n", "binary"
    heading = f"--- a/{MAP}\n+++ b/{MAP}\n"
    yield f"{heading}@@ -1,2 +1,2 @@\n line 1\n", "more or fewer lines"
    yield f"{heading}@@ -1,2 +1,2 @@\n line 1\n-line 2\n?\n", "more or fewer lines"
    yield f"{heading}@@ -1,1 +1,1 @@\n-line 1\n+x\n+y\n", "more or fewer lines"
    yield f"{heading}@@ -1,1 +1,2 @@\n-line 1\n-line 2\n+x\n+y\n", "more or fewer lines"
    yield f"{heading}@@ -1,1 +1,1 @@\n line 1\n", "changes nothing"
    yield f"{heading}@@ -1,0 +2,1 @@\n+x\n", "no context"


@pytest.mark.parametrize(("diff_text", "reason"), list(refused_diffs()))
def test_what_is_no_patch_of_the_model_is_refused(diff_text: str, reason: str) -> None:
    assert reason in refusal(diff_text)


@given(st.data())
def test_a_diff_that_lost_a_line_is_refused(data: st.DataObject) -> None:
    new = TEXT.replace("line 3\n", "line three\n").replace("line 15\n", "")
    lines = split(diff(TEXT, new))
    index = data.draw(st.integers(min_value=2, max_value=len(lines) - 1))
    assert refusal("".join(lines[:index] + lines[index + 1 :]))


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
