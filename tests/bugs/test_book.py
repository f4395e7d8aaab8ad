"""The book is what the catalogue says, and what its reproducers tell."""

import os
import tempfile
from pathlib import Path

import pytest

from harness.bugs.book import NAME, TOLD_WITH, book, told_in
from harness.bugs.catalogue import bugs_in, catalogue
from harness.bugs.interpreters import Interpreters
from harness.bugs.kept import told
from tests.bugs.catalogues import ROOT, entry
from tests.tables import BLOCK

FEW = 2
RUN = "run tdprace bugs book"


@pytest.fixture(scope="module")
def document() -> str:
    return (ROOT / NAME).read_text()


def test_stories_and_diffs_are_the_catalogues(document):
    bugs = list(catalogue(ROOT).values())
    texts = told_in(document)
    assert set(texts) == {bug.id for bug in bugs if bug.reproducer.is_file()}, RUN
    assert document == book(bugs, texts), RUN


@pytest.mark.slow
def test_explanations_are_what_replay_tells(document):
    """Of the first ones; TDPRACE_ALL_BUGS=1: of all."""
    bugs = [bug for bug in catalogue(ROOT).values() if bug.reproducer.is_file()]
    bugs = bugs if os.environ.get("TDPRACE_ALL_BUGS") else bugs[:FEW]
    assert bugs
    with tempfile.TemporaryDirectory() as work:
        interpreters = Interpreters({bug.id: told(bug, *TOLD_WITH) for bug in bugs}, 2, Path(work))
        assert interpreters.run()
    texts = told_in(document)
    for bug in bugs:
        assert texts[bug.id] == interpreters.results[bug.id], f"{bug.name}: {RUN}"


def test_a_chapter(tmp_path):
    entry(tmp_path, "b01-first", "--- a/x\n+++ b/x\n", more='cve = "CVE-1"\n')
    entry(tmp_path, "b02-second", "diff\n")
    bugs = list(bugs_in(tmp_path).values())
    text = book(bugs, {"b01": "   one  other\n   OOPS"})
    assert told_in(text) == {"b01": "   one  other\n   OOPS"}
    # As `make tables` sees it: the same block, made by the command.
    ((_, command, body, _),) = BLOCK.findall(text)
    assert command == "tdprace replay workloads/bugs/b01-first/reproducer.json --explain --brief"
    assert body == "   one  other\n   OOPS\n"
    first, second = text.split("## b02: ")
    assert "| [b01](#b01) | Title of b01-first " in first
    assert '<a id="b01"></a>\n\n## b01: Title of b01-first\n' in first
    assert "\n```diff\n--- a/x\n+++ b/x\n```\n" in first
    assert "--patch workloads/bugs/b01-first/patch.diff\n" in first
    assert "CVE" not in second
    assert "No reproducer is kept; `tdprace bugs check b02 --keep` makes one." in second
    # Headings go one lower, what is fenced is no heading.
    assert "\n### The race\n\n```text\n# one   other\n" in second
