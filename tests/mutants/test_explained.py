"""Explanations are about mutants that exist, and stand in the document as they are."""

import re
from pathlib import Path

import pytest

from harness.bugs.mutants.catalogue import all_mutants
from harness.bugs.mutants.explained import Explanation, explained_text, explanations

ROOT = Path(__file__).parents[2]


def test_each_explains_a_mutant():
    names = {mutant.name for mutant in all_mutants(ROOT)}
    assert set(explanations()) - names == set()


def test_each_says_why():
    assert all(len(each.text) > 20 for each in explanations().values())


def test_the_document_is_made_of_them():
    document = (ROOT / "docs" / "mutants.md").read_text()
    (block,) = re.findall(
        r"<!-- table: tdprace mutants --explained -->\n```text\n(.*?)```\n<!-- end -->",
        document,
        re.DOTALL,
    )
    assert block == explained_text(explanations()), "run python -m tests.tables, or paste it"


def write(folder: Path, text: str) -> Path:
    file = folder / "s.toml"
    file.write_text(text)
    return file


def test_reading_and_telling(tmp_path):
    lines = ["[gap]", '"a:b#1:c" = "x"', "[equivalent]", '"d:e#1:f" = """', "long", 'story"""']
    found = explanations(write(tmp_path, "\n".join([*lines, '"g" = "long story"'])))
    assert found == {
        "a:b#1:c": Explanation("gap", "x"),
        "d:e#1:f": Explanation("equivalent", "long story"),
        "g": Explanation("equivalent", "long story"),
    }
    assert explained_text(found) == (
        "equivalent: 2\n\n  d:e#1:f\n  g\n    long story\n\ngap: 1\n\n  a:b#1:c\n    x\n"
    )
    assert explained_text({}) == "equivalent: 0 (none)\n\ngap: 0 (none)\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[maybe]\n"a" = "x"\n', "none of equivalent, gap"),
        ('[gap]\n"a" = "x"\n[equivalent]\n"a" = "x"\n', "explained twice"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        explanations(write(tmp_path, text))
