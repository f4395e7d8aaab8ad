"""House rules that no linter knows: which way imports go, how long things are, what kernels may do.

Each rule is a function from source text to complaints, shown to complain by a bad snippet.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mmu", "workloads", "harness")

FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 400

# Each layer may import itself and what stands above it here.  See docs/architecture.md.
LAYERS: list[tuple[str, ...]] = [
    ("mmu.machine",),
    ("mmu.policy",),
    ("mmu.spte",),
    ("mmu.tdp_iter",),
    ("mmu.hw", "mmu.host", "mmu.pages"),
    ("mmu.gfn_track",),
    ("mmu.memslots", "mmu.nx_list"),
    ("mmu.removed",),
    ("mmu.tdp_mmu",),
    ("mmu.tdp",),
    ("mmu.roots",),
    ("mmu.reload", "mmu.zap_worker", "mmu.dirty_log", "mmu.notifier"),
    ("mmu.nx_recovery", "mmu.write_track", "mmu.emulate"),
    ("mmu.zap_all", "mmu.host_changes", "mmu.host_ranges", "mmu.userfault", "mmu.dirty_clear"),
    ("mmu.host_reclaim",),
    ("mmu.slot_changes",),
    ("mmu.fast_fault", "mmu.mmio"),
    ("mmu.fault",),
    ("mmu.entry", "mmu.prefault"),
    ("mmu.guest",),
    ("mmu.shadow",),
    ("mmu.vm",),
    ("workloads",),
    ("harness",),
]
# A package without code of its own.
NO_LAYER = {"mmu"}


def modules(*folders: str) -> Iterator[tuple[str, Path]]:
    """Dotted names and files."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), path


# --- Imports -------------------------------------------------------------------------------------


def layer_of(module: str) -> int:
    """Index of the layer whose name is the longest that begins the module's."""
    best = (0, -1)
    for number, names in enumerate(LAYERS):
        for name in names:
            if module == name or module.startswith(name + "."):
                best = max(best, (len(name), number))
    return best[1]


def imported(module: str, source: str) -> list[tuple[int, str]]:
    """Lines and names of our own modules that a module imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.rsplit(".", node.level)[0]
                base = f"{package}.{base}".rstrip(".")
            # `from mmu.tdp import map` imports a module, `from mmu.spte import W` a name.
            names = [_module_or_name(base, each.name) for each in node.names]
        found += [
            (node.lineno, name) for name in names if name.split(".")[0] in (*PACKAGES, "tests")
        ]
    return found


def _module_or_name(base: str, name: str) -> str:
    path = ROOT.joinpath(*base.split("."), name)
    return f"{base}.{name}" if path.is_dir() or path.with_suffix(".py").is_file() else base


def wrong_imports(module: str, source: str) -> list[str]:
    own = layer_of(module)
    if own < 0 and module not in NO_LAYER:
        return [f"{module}: stands in no layer; put it into LAYERS of tests/test_tidy.py"]
    return [
        f"{module}:{line} imports {name}, which is above it"
        for line, name in imported(module, source)
        if name.split(".")[0] == "tests" or layer_of(name) > own
    ]


def cycles(graph: dict[str, set[str]]) -> list[str]:
    """Modules from which an import leads back to themselves."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        rest = list(graph.get(start, ()))
        while rest:
            module = rest.pop()
            if module not in seen:
                seen.add(module)
                rest += graph.get(module, ())
        return seen

    return [module for module in graph if module in reachable(module)]


def test_imports_go_one_way() -> None:
    complaints = [
        complaint
        for module, path in modules(*PACKAGES)
        for complaint in wrong_imports(module, path.read_text())
    ]
    assert complaints == []


def test_no_import_leads_back() -> None:
    graph = {
        module: {name for _, name in imported(module, path.read_text())} - {module}
        for module, path in modules(*PACKAGES)
    }
    assert len(graph) > 40
    assert cycles(graph) == []


def test_every_layer_is_higher_than_the_one_before() -> None:
    names = [name for layer in LAYERS for name in layer]
    assert len(set(names)) == len(names)
    assert layer_of("mmu.machine.lock") < layer_of("mmu.spte") < layer_of("mmu.tdp.map")
    assert layer_of("mmu.tdp_mmu") < layer_of("mmu.tdp")
    assert layer_of("mmu.tdp_other") == layer_of("mmux") == -1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mmu.spte", "from mmu.tdp_iter import iter_next"),
        ("mmu.machine.lock", "import mmu.spte"),
        ("mmu.hw.walker", "def f():\n    from mmu.tdp import map"),
        ("mmu.vm", "from harness.units import x"),
        ("mmu.vm", "import workloads"),
        ("workloads.dirty_log", "from harness import run"),
        ("mmu.tdp.map", "from ..fault import handle_page_fault"),
        ("harness.run.actor", "from tests.conftest import x"),
        ("mmu.newcomer", ""),
    ],
)
def test_a_wrong_import_is_noticed(module: str, source: str) -> None:
    assert len(wrong_imports(module, source)) == 1


def test_a_right_import_is_not_noticed() -> None:
    source = "import numpy\nfrom mmu import spte\nfrom . import nx\nfrom mmu.tdp.zap import x"
    assert wrong_imports("mmu.tdp.map", source) == []
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


# --- Sizes and comments --------------------------------------------------------------------------


def long_functions(source: str) -> list[str]:
    return [
        f"{node.lineno}: {node.name} has {lines} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def long_modules(source: str) -> list[str]:
    lines = len(source.splitlines())
    return [f"{lines} lines"] if lines > MODULE_LINES_MAX else []


def missing_docstrings(source: str) -> list[str]:
    return ["no docstring"] if source.strip() and not ast.get_docstring(ast.parse(source)) else []


IGNORE = re.compile(r"#\s*(?:noqa|type:\s*ignore|mypy:|ruff:|fmt:|pragma:)")
# A rule's code, then words that say why.
REASONED = re.compile(
    r"#\s*(?:noqa: ?[A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)*|type: ignore\[[\w, -]+\])\W+\w+\W+\w+"
)


def unexplained_ignores(source: str) -> list[str]:
    return [
        f"{token.start[0]}: {token.string}"
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
        and IGNORE.search(token.string)
        and not REASONED.search(token.string)
    ]


# --- Kernels -------------------------------------------------------------------------------------

KERNEL_DECORATORS = {"kernel", "inlined_kernel"}


def kernels_of(source: str) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            names = {each.id for each in node.decorator_list if isinstance(each, ast.Name)}
            if names & KERNEL_DECORATORS:
                yield node


def raw_accesses(source: str) -> list[str]:
    """Shared words that a kernel reaches otherwise than through a primitive."""
    complaints = []
    for function in kernels_of(source):
        for node in (inner for statement in function.body for inner in ast.walk(statement)):
            if isinstance(node, ast.Subscript):
                complaints.append(f"{node.lineno}: {function.name} uses a subscript")
            elif isinstance(node, ast.Attribute) and node.attr == "words":
                complaints.append(f"{node.lineno}: {function.name} uses .words")
    return complaints


def odd_parameters(source: str) -> list[str]:
    """Kernels whose parameters are not `cpu: Cpu` first, if at all, and integers."""
    complaints = []
    for function in kernels_of(source):
        arguments = function.args
        others = (arguments.vararg, arguments.kwarg, *arguments.kwonlyargs, *arguments.defaults)
        kinds = [
            (each.arg, ast.unparse(each.annotation) if each.annotation else "")
            for each in (*arguments.posonlyargs, *arguments.args)
        ]
        rest = kinds[1:] if kinds[:1] == [("cpu", "Cpu")] else kinds
        fine = all(name != "cpu" and kind == "int" for name, kind in rest)
        if not fine or any(other is not None for other in others):
            complaints.append(f"{function.lineno}: {function.name} takes {kinds}")
    return complaints


# --- The rules, on everything and on bad snippets -------------------------------------------------

Rule = Callable[[str], list[str]]
RULES: dict[Rule, tuple[str, ...]] = {
    long_functions: (*PACKAGES, "tests"),
    long_modules: (*PACKAGES, "tests"),
    unexplained_ignores: (*PACKAGES, "tests"),
    missing_docstrings: PACKAGES,
    raw_accesses: PACKAGES,
    odd_parameters: PACKAGES,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_is_tidy(rule: Rule) -> None:
    complaints = [
        f"{path.relative_to(ROOT)}: {complaint}"
        for _, path in modules(*RULES[rule])
        for complaint in rule(path.read_text())
    ]
    assert complaints == []


def test_kernels_are_recognised() -> None:
    found = [each.name for _, path in modules("mmu") for each in kernels_of(path.read_text())]
    assert len(found) > 100
    assert {"make_leaf", "tdp_mmu_map", "_attempt"} <= set(found)


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_functions, "class A:\n  def f(self):\n" + "    x = 1\n" * 70),
        (long_functions, "async def f():\n" + "    x = 1\n" * 70),
        (long_modules, "x = 1\n" * 401),
        (missing_docstrings, "import os\n"),
        (unexplained_ignores, "x = 1  # noqa"),
        (unexplained_ignores, "x = 1  # noqa: E501"),
        (unexplained_ignores, "x = 1  # noqa: E501 - long"),
        (unexplained_ignores, "x = 1  # type: ignore"),
        (unexplained_ignores, "x = 1  # type: ignore[misc]"),
        (unexplained_ignores, "# mypy: ignore-errors"),
        (raw_accesses, "@kernel\ndef f(cpu: Cpu) -> int:\n    return tables[3]\n"),
        (raw_accesses, "@inlined_kernel\ndef f(cpu: Cpu) -> None:\n    g(cpu.words)\n"),
        (odd_parameters, "@kernel\ndef f(machine: Cpu) -> None: ...\n"),
        (odd_parameters, "@kernel\ndef f(gfn: int, cpu: Cpu) -> None: ...\n"),
        (odd_parameters, "@kernel\ndef f(cpu: int) -> None: ...\n"),
        (odd_parameters, "@kernel\ndef f(cpu: Cpu, flag: bool) -> None: ...\n"),
        (odd_parameters, "@kernel\ndef f(cpu: Cpu, gfn) -> None: ...\n"),
        (odd_parameters, "@kernel\ndef f(cpu: Cpu, gfn: int = 0) -> None: ...\n"),
        (odd_parameters, "@kernel\ndef f(cpu: Cpu, *gfns: int) -> None: ...\n"),
    ],
)
def test_what_is_untidy_is_noticed(rule: Rule, source: str) -> None:
    assert len(rule(source)) == 1


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (long_functions, "def f():\n" + "    x = 1\n" * 69),
        (long_modules, "x = 1\n" * 400),
        (missing_docstrings, "\n"),
        (missing_docstrings, '"""Why."""\n'),
        (unexplained_ignores, "x = 1  # noqa: E402  (must come first here)"),
        (unexplained_ignores, "x = 1  # noqa: E402, F401 - must come first"),
        (unexplained_ignores, "x = 1  # type: ignore[misc]  # the stub is wrong"),
        (unexplained_ignores, "x = '# noqa'"),
        (raw_accesses, "def f(cpu: Cpu) -> int:\n    return cpu.words[3]\n"),
        (raw_accesses, "@array_kernel\ndef f(text: Text) -> int:\n    return text[3]\n"),
        (odd_parameters, "@kernel\ndef f(cpu: Cpu, gfn: int) -> int: ...\n"),
        (odd_parameters, "@kernel\ndef f(spte: int) -> int: ...\n"),
        (odd_parameters, "def f(machine: Cpu) -> int: ...\n"),
    ],
)
def test_what_is_tidy_is_not_noticed(rule: Rule, source: str) -> None:
    assert rule(source) == []
