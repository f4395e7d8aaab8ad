"""The catalogue: every entry is whole and small, and what is not whole is named."""

import json
import re
from pathlib import Path

import pytest

from harness.bugs.catalogue import CATALOGUE, bugs_in, catalogue, chosen, entries
from harness.explore.reproducer import read
from harness.oracles.verdict import ORACLES
from tests.bugs.catalogues import ROOT, entry
from workloads.errors import UsageError
from workloads.scenarios.registry import SCENARIOS

CHANGES_MAX = 10
STEPS_MAX = 40  # of a reproducer, without a word why
RACE_LINES_MAX, RACE_WIDTH_MAX, LINE_MAX = 30, 100, 120
# What no file of the catalogue may name: where somebody's machine keeps things.
MACHINE_PATH = re.compile(r"""(^|[\s"'`(])/(home|tmp|root|usr|work|var|mnt|opt)/""", re.MULTILINE)


@pytest.mark.parametrize("folder", entries(ROOT / CATALOGUE).values(), ids=lambda each: each.name)
def test_an_entry_is_small_and_names_no_machine(folder):
    lines = [line for line in (folder / "patch.diff").read_text().splitlines() if line[:1] in "+-"]
    changed = [line for line in lines if line[:4] not in ("+++ ", "--- ")]
    assert 0 < len(changed) <= CHANGES_MAX
    for file in folder.iterdir():
        assert not MACHINE_PATH.search(file.read_text()), file


def test_every_story_is_whole():
    bugs = catalogue(ROOT)
    assert list(bugs) == sorted(bugs)
    oracles = {each.NAME for each in ORACLES} | {"check"}
    for bug in bugs.values():
        assert bug.scenario in SCENARIOS, bug.name
        assert bug.oracle in oracles, bug.name
        assert max(map(len, bug.text.splitlines())) <= LINE_MAX, bug.name
        assert bug.text.count("\n## The race\n") == 1, bug.name
        (race,) = re.findall(r"```text\n(.*?)```", bug.text, re.DOTALL)
        assert f"OOPS {bug.oracle}: " in race, bug.name
        assert race.count("\n") <= RACE_LINES_MAX, bug.name
        assert max(map(len, race.splitlines())) <= RACE_WIDTH_MAX, bug.name


def test_what_is_kept_is_of_the_bug_and_of_its_diff():
    for bug in catalogue(ROOT).values():
        if bug.reproducer.is_file():
            kept = read(bug.reproducer)
            assert (kept.scenario, kept.violation.oracle) == (bug.scenario, bug.oracle), bug.name
            assert kept.patch is not None
            assert kept.patch.diff == bug.diff.read_text(), bug.name
            assert json.loads(bug.reproducer.read_text())["patch"] == {"file": "patch.diff"}


def test_who_keeps_more_than_forty_steps_says_which_cannot_go():
    for bug in catalogue(ROOT).values():
        steps = len(read(bug.reproducer).steps)
        named = re.findall(r"## Steps that cannot go\n\n([0-9]+) steps are left", bug.text)
        assert named == ([str(steps)] if steps > STEPS_MAX else []), bug.name


def test_a_machine_path_would_be_noticed():
    assert MACHINE_PATH.search('"file": "/home/somebody/x.py"')
    assert not MACHINE_PATH.search("5.12/5.13, see mmu/tmp/x")


# --- Reading -------------------------------------------------------------------------------------


def test_reading_and_choosing(tmp_path):
    entry(tmp_path, "b02-second", "diff", more='cve = "CVE-1"\n')
    entry(tmp_path, "b01-first", "diff")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "README").touch()
    bugs = bugs_in(tmp_path)
    assert list(bugs) == ["b01", "b02"]
    second = bugs["b02"]
    assert (second.title, second.cve, second.commit) == ("Title of b02-second", "CVE-1", "")
    assert second.text.startswith("What went wrong.\n")
    assert second.diff.read_text() == "diff"
    assert chosen(bugs, []) == list(bugs.values())
    assert chosen(bugs, ["B02", "b01-first", "b02"]) == [second, bugs["b01"]]
    with pytest.raises(UsageError, match="no bug 'b03'; it has b01, b02"):
        chosen(bugs, ["b03"])


def _without_diff(folder: Path) -> None:
    (folder / "patch.diff").unlink()


def _without_story(folder: Path) -> None:
    (folder / "story.md").unlink()


def _badly_named(folder: Path) -> None:
    folder.rename(folder.with_name("17"))


def _twice(folder: Path) -> None:
    entry(folder.parent, "b01-another", "diff")


def _story(old: str, new: str):
    def change(folder: Path) -> None:
        file = folder / "story.md"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without_diff, "has no patch.diff"),
        (_without_story, "story.md: cannot read it"),
        (_badly_named, "not named like b17-what-goes-wrong"),
        (_twice, "b01 is b01-another already"),
        (_story("# Title", "Title"), "begins with `# title`"),
        (_story('oracle = "roots"\n', ""), "the facts lack 'oracle'"),
        (_story('oracle = "roots"', "oracle = roots"), "the facts are no TOML"),
        (_story('oracle = "roots"', "oracle = 3"), "fact oracle = 3"),
        (_story("kernel =", 'found_by = "x"\nkernel ='), "fact found_by = 'x'"),
    ],
)
def test_what_is_not_whole_is_named(tmp_path, spoil, said):
    spoil(entry(tmp_path, "b01-first", "diff"))
    with pytest.raises(UsageError, match=re.escape(said)) as error:
        bugs_in(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_no_catalogue(tmp_path):
    with pytest.raises(UsageError, match="nowhere: cannot read the catalogue"):
        bugs_in(tmp_path / "nowhere")
    assert bugs_in(tmp_path) == {}
