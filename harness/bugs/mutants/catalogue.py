"""All mutants of the model: each a name that stays, a kind, and a unified diff against `mmu/`."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bugs.mutants.edits import Source
from harness.bugs.mutants.operators import mutations
from harness.bugs.mutants.vocabulary import Vocabulary, read_sources, vocabulary_of
from workloads.errors import UsageError

MACHINE = "machine"  # what a multiprocessor gives is not the model's to forget


@dataclass(frozen=True)
class Mutant:
    """One thing taken away or weakened.

    `name` is `module.function:call#n:operator`, n counting calls of that name in the function;
    `functions` are dotted names of the kernels that the diff changes, `lines` where it changes
    them.
    """

    name: str
    kind: str
    operator: str
    path: str
    functions: tuple[str, ...]
    lines: tuple[int, ...]
    diff: str


def all_mutants(root: Path) -> list[Mutant]:
    """Every mutant of the model below `root`, by file and place."""
    sources = read_sources(root)
    vocabulary = vocabulary_of(sources)
    return [
        mutant
        for path, text in sources.items()
        if Path(path).parts[1] != MACHINE
        for mutant in mutants_of(path, text, vocabulary)
    ]


def mutants_of(path: str, text: str, vocabulary: Vocabulary) -> list[Mutant]:
    """The mutants of one module."""
    source = Source(path, text)
    module = path.removesuffix(".py").replace("/", ".")
    found = []
    for each in mutations(source, vocabulary):
        operator = f"{each.kind}-{each.verb}"
        where = f"{module.removeprefix('mmu.')}.{each.functions[0]}"
        found.append(
            Mutant(
                name=f"{where}:{each.call}#{each.number}:{operator}",
                kind=each.kind,
                operator=operator,
                path=path,
                functions=tuple(f"{module}.{name}" for name in each.functions),
                lines=tuple(edit.line for edit in each.edits),
                diff=source.diff(each.edits),
            )
        )
    return found


def chosen(mutants: Sequence[Mutant], patterns: Sequence[str]) -> list[Mutant]:
    """Those whose name fits one of the patterns, or holds it; UsageError for one that fits none."""
    if not patterns:
        return list(mutants)
    fitting = {pattern: [m for m in mutants if _fits(m, pattern)] for pattern in patterns}
    for pattern, found in fitting.items():
        if not found:
            raise UsageError(
                f"--only {pattern}: no mutant is called so; see `tdprace mutants --list`"
            )
    names = {mutant.name for found in fitting.values() for mutant in found}
    return [mutant for mutant in mutants if mutant.name in names]


def _fits(mutant: Mutant, pattern: str) -> bool:
    return fnmatch.fnmatchcase(mutant.name, pattern) or pattern in mutant.name
