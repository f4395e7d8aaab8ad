"""Catalogues of a test's own."""

import difflib
from pathlib import Path

ROOT = Path(__file__).parents[2]
REVIVED = ROOT / "workloads" / "bugs" / "b08-reader-revives-dying-root" / "patch.diff"
SCENARIO = "put-get"  # that finds it, by `roots`; dpor exhausts it at once


def entry(
    catalogue: Path,
    name: str,
    diff: str,
    *,
    scenario: str = SCENARIO,
    oracle: str = "roots",
    more: str = "",
) -> Path:
    """An entry whose story is about nothing in particular."""
    folder = catalogue / name
    folder.mkdir(parents=True)
    (folder / "patch.diff").write_text(diff)
    facts = f'kernel = "5.12"\nfixed = "5.13"\nscenario = "{scenario}"\noracle = "{oracle}"\n{more}'
    race = "## The race\n\n```text\n# one   other\nOOPS\n```"
    (folder / "story.md").write_text(
        f"# Title of {name}\n\n```toml\n{facts}```\n\nWhat went wrong.\n\n{race}\n"
    )
    return folder


def harmless_diff(path: str = "mmu/roots.py") -> str:
    """Changes a comment."""
    old = (ROOT / path).read_text()
    new = old.replace('"""', '"""And: ', 1)
    assert new != old
    lines = (text.splitlines(keepends=True) for text in (old, new))
    return "".join(difflib.unified_diff(*lines, f"a/{path}", f"b/{path}", n=1))
