"""The catalogue as a document: facts, story, diff, and how it happens here, a chapter a bug."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from harness.bugs.catalogue import REPRODUCER, Bug
from harness.bugs.kept import how_to_keep
from harness.bugs.tree import CATALOGUE
from harness.report.tables import Cell, render

NAME = "docs/bugs.md"

_HEAD = """\
# Bugs of KVM's TDP MMU

<!-- Written by `tdprace bugs book`. Stories are edited in workloads/bugs, not here. -->

Races that the TDP MMU had. A diff against `mmu/` brings each of them back, exploring a small
scenario finds it, and an oracle names what it breaks. `tdprace bugs show ID` prints one of these
chapters, `tdprace bugs check ID` finds the bug anew.
"""
# As `tests.tables` knows its blocks, which then are made again with all others.
_TOLD = re.compile(
    rf"<!-- table: tdprace replay {CATALOGUE}/(b[0-9]+)-\S+ --explain -->\n```text\n(.*?)\n```\n"
    "<!-- end -->",
    re.DOTALL,
)


def book(bugs: Sequence[Bug], told: Mapping[str, str]) -> str:
    """The whole document; `told` has the explanations of kept reproducers by id."""
    heads = ["bug", "what goes wrong", "kernel", "fixed in", "CVE", "scenario", "oracle"]
    rows: list[list[Cell]] = [
        [f"[{b.id}](#{b.id})", b.title, b.kernel, b.fixed, b.cve, b.scenario, b.oracle]
        for b in bugs
    ]
    chapters = ["\n".join(_chapter(bug, told.get(bug.id))) for bug in bugs]
    return "\n".join([_HEAD, render(heads, rows), "", *chapters])


def told_in(document: str) -> dict[str, str]:
    """The explanations that a book holds, by id."""
    return dict(_TOLD.findall(document))


def facts(bug: Bug) -> list[tuple[str, str]]:
    """What is known of a bug, by name; what nobody has seen is left out."""
    known = [
        ("kernel", bug.kernel),
        ("fixed in", bug.fixed),
        ("commit", bug.commit),
        ("CVE", bug.cve),
        ("scenario", bug.scenario),
        ("oracle", bug.oracle),
    ]
    return [(name, value) for name, value in known if value]


def _chapter(bug: Bug, told: str | None) -> Iterator[str]:
    known = dict(facts(bug))
    yield f'<a id="{bug.id}"></a>\n'
    yield f"## {bug.id}: {bug.title}\n"
    yield render(list(known), [list(known.values())]) + "\n"
    yield _lowered(bug.text.rstrip()) + "\n"
    yield "### The diff\n"
    yield f"```diff\n{bug.diff.read_text(encoding='utf-8').rstrip()}\n```\n"
    yield "```sh"
    yield f"tdprace explore {bug.scenario} --patch {CATALOGUE}/{bug.name}/{bug.diff.name}"
    yield "```\n"
    yield "### As it happens in the model\n"
    if told is None:
        yield f"{how_to_keep(bug)}\n"
        return
    command = f"tdprace replay {CATALOGUE}/{bug.name}/{REPRODUCER} --explain"
    yield f"<!-- table: {command} -->\n```text\n{told}\n```\n<!-- end -->\n"


def _lowered(markdown: str) -> str:
    """Headings one level lower; a fenced block's lines are no headings."""
    lines = []
    fenced = False
    for line in markdown.splitlines():
        fenced ^= line.startswith("```")
        lines.append(f"#{line}" if line.startswith("#") and not fenced else line)
    return "\n".join(lines)
