"""What the model's sources say about themselves: its kernels, and which of them are locks.

Nothing here names a lock: a new one is found by its pair of kernels, `x_lock` and `x_unlock`, and
the bit that says who holds it by what the second one drops.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DECORATORS = {"kernel", "inlined_kernel"}
_TAKE, _RELEASE = "_lock", "_unlock"


@dataclass(frozen=True)
class Lock:
    """Two kernels; `held` is the bit of what an actor holds, `home` the module of that name."""

    kind: str  # "rcu" of a read section, else "lock"
    take: str
    release: str
    held: str  # "" if there is none
    home: str


@dataclass(frozen=True)
class Vocabulary:
    """Names of all kernels; locks by the names of both their kernels."""

    kernels: frozenset[str]
    locks: Mapping[str, Lock]


def kernels_of(tree: ast.Module) -> list[ast.FunctionDef]:
    """Functions that are compiled as parts of the model."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [
        each
        for each in functions
        if DECORATORS & {name.id for name in each.decorator_list if isinstance(name, ast.Name)}
    ]


def read_sources(root: Path) -> dict[str, str]:
    """Text of each module of the model below `root`, by its path there."""
    return {
        file.relative_to(root).as_posix(): file.read_text(encoding="utf-8")
        for file in sorted((root / "mmu").rglob("*.py"))
    }


def vocabulary_of(sources: Mapping[str, str]) -> Vocabulary:
    """Of a model, given the texts of its modules by path."""
    kernels: dict[str, ast.FunctionDef] = {}
    homes: dict[str, str] = {}
    for path, text in sources.items():
        tree = ast.parse(text)
        kernels |= {each.name: each for each in kernels_of(tree)}
        module = path.removesuffix(".py").replace("/", ".")
        for node in tree.body:
            for target in node.targets if isinstance(node, ast.Assign) else []:
                if isinstance(target, ast.Name):
                    homes[target.id] = module
    locks = {}
    for take in kernels:
        base = take.removesuffix(_TAKE)
        release = base + _RELEASE
        # Without a name before it, it is what locks are made of.
        if base not in ("", take) and release in kernels:
            held = _held(kernels[release])
            kind = "rcu" if "rcu" in take else "lock"
            locks[take] = locks[release] = Lock(kind, take, release, held, homes.get(held, ""))
    return Vocabulary(frozenset(kernels), locks)


def _held(release: ast.FunctionDef) -> str:
    """The one `HELD_x` that a release names."""
    names = {each.id for each in ast.walk(release) if isinstance(each, ast.Name)}
    bits = sorted(name for name in names if name.startswith("HELD_"))
    return bits[0] if len(bits) == 1 else ""
