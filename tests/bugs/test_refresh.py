"""Diffs follow the model: all are current, and one that is not is written again or named."""

import shutil
from pathlib import Path

import pytest

from harness.bugs.refresh import diffs, refreshed
from tests.bugs.catalogues import ROOT, entry
from tests.bugs.diffs import diff
from workloads.errors import UsageError

FILES = sorted([*ROOT.glob("tests/**/*.diff"), *ROOT.glob("workloads/bugs/*/patch.diff")])
TEXT = "".join(f"line {number}\n" for number in range(1, 21))
PATH = "mmu/spte.py"


def test_every_diff_says_where_its_lines_are():
    assert len(FILES) > 100
    found = [refreshed(file, ROOT) for file in FILES]
    stale = [f"{each.file}: {each.problem or each.moves}" for each in found if not each.is_current]
    assert stale == [], "run tdprace bugs refresh FILE..."


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "mmu").mkdir()
    (tmp_path / PATH).write_text(TEXT)
    return tmp_path


def write(checkout: Path, text: str) -> Path:
    file = checkout / "bug.diff"
    file.write_text(text)
    return file


def test_one_that_moved_is_written_again(checkout):
    new = TEXT.replace("line 3\n", "line three\n").replace("line 15\n", "")
    file = write(checkout, diff(TEXT, new, PATH, context=1))
    assert refreshed(file, checkout).is_current
    (checkout / PATH).write_text("1\n2\n" + TEXT)
    found = refreshed(file, checkout)
    assert not found.is_current
    assert found.moves == "line 2 is 4 now, line 14 is 16 now"
    assert file.read_text() == found.before
    found.write()
    assert refreshed(file, checkout).is_current
    assert file.read_text() == diff("1\n2\n" + TEXT, "1\n2\n" + new, PATH, context=1)


def test_more_context_than_a_line_is_left_out(checkout):
    new = TEXT.replace("line 3\n", "line three\n").replace("line 9\n", "")
    found = refreshed(write(checkout, diff(TEXT, new, PATH, context=4)), checkout)
    assert found.moves == "1 hunks before, 2 now"
    assert found.text == diff(TEXT, new, PATH, context=1)
    alone = diff(TEXT, TEXT.replace("line 3\n", "line three\n"), PATH, context=1)
    found = refreshed(write(checkout, alone.replace(" @@", " @@ def f():", 1)), checkout)
    assert (found.moves, found.text) == ("written another way", alone)


def test_one_that_does_not_apply_says_why(checkout):
    file = write(checkout, diff(TEXT, TEXT.replace("line 3\n", ""), PATH, context=1))
    (checkout / PATH).write_text(TEXT.replace("line 4\n", ""))
    found = refreshed(file, checkout)
    assert not found.is_current
    assert found.problem.startswith(f"hunk 1 (line 3) does not apply to {PATH}: there is no line")
    (checkout / PATH).unlink()
    assert f"cannot read {PATH}" in refreshed(file, checkout).problem


def test_which_diffs(tmp_path):
    first = entry(tmp_path, "b01-first", "")
    second = entry(tmp_path, "b02-second", "")
    # A story that is not whole is no reason to leave a diff behind.
    (first / "story.md").unlink()
    file = tmp_path / "my.diff"
    shutil.copy(FILES[0], file)
    both = [each / "patch.diff" for each in (first, second)]
    assert diffs(tmp_path, []) == both
    assert diffs(tmp_path, ["B02", str(file)]) == [both[1], file]
    with pytest.raises(UsageError, match="no bug 'b03'"):
        diffs(tmp_path, ["b03"])
