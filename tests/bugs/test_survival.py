"""Reproducers outlive edits of the model; `python -m tests.bugs.survival` asks all of them."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from harness.bugs.catalogue import SOURCE_ROOT, bugs_in
from harness.bugs.tree import CATALOGUE
from tests.bugs.survival import EDITS, RENAMED, edited, replayed

BUGS = bugs_in(SOURCE_ROOT / CATALOGUE)
SAMPLE = ("b37",)


def test_every_bug_keeps_a_reproducer():
    assert [bug.name for bug in BUGS.values() if not bug.reproducer.is_file()] == []


def test_the_edits_edit(tmp_path):
    root = edited(tmp_path, list(EDITS))
    texts = {path: path.read_text() for path in sorted((root / "mmu").rglob("*.py"))}
    for old, new in RENAMED.items():
        assert not any(f" {old}(" in text for text in texts.values())
        assert any(f"def {new}(" in text for text in texts.values())
    assert texts[root / "mmu/memslots.py"] != (SOURCE_ROOT / "mmu/memslots.py").read_text()


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("id_", SAMPLE)
def test_both_edits_at_once_are_survived(id_, tmp_path):
    outcome = replayed(BUGS[id_], edited(tmp_path, list(EDITS)), "both")
    assert outcome.survives, outcome.said


@pytest.mark.slow
def test_a_model_without_the_bug_says_so(tmp_path):
    """The same replay with a diff that changes a sentence: no schedule shows what is not there."""
    bug = replace(BUGS["b08"], folder=tmp_path / "b08")
    bug.folder.mkdir()
    shutil.copy(BUGS["b08"].reproducer, bug.reproducer)
    first = (SOURCE_ROOT / "mmu/roots.py").read_text().splitlines()[0]
    header = "--- a/mmu/roots.py\n+++ b/mmu/roots.py\n@@ -1 +1 @@\n"
    bug.diff.write_text(f"{header}-{first}\n+{first} Really.\n")
    outcome = replayed(bug, edited(tmp_path, []), "none")
    assert not outcome.survives
    assert "diverged at step" in outcome.said or "not reproduced" in outcome.said
