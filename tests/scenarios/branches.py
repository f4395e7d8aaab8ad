"""Which branches of the model's modules an interpreted run takes.

The twins of the kernels get the code of a rewritten source, in which every condition, loop and
entry notes where it went.  Conditions are those of `if`, `while`, `a if c else b` and of what
`and` and `or` skip, each operand for itself; a loop over numbers can run and can end.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from inspect import getsource
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from mmu.machine.kernel import SOURCE_ROOT
from mmu.machine.twin import _Loader  # one for all kernels: `interpreted` begins anew for each

NOTE, LOOP, ENTRY = "note_branch", "note_loop", "note_entry"
FOLLOWED = ("mmu.", "workloads.", "tests.")


def modules_of(*places: str) -> list[str]:
    """Dotted names of the modules in files and folders below `mmu/`."""
    found = []
    for place in places:
        path = SOURCE_ROOT / "mmu" / place
        files = sorted(path.glob("*.py")) if path.is_dir() else [path]
        found += [
            ".".join(file.relative_to(SOURCE_ROOT).with_suffix("").parts)
            for file in files
            if file.name != "__init__.py"
        ]
    return found


class _Rewriter(ast.NodeTransformer):
    """Makes every branch of one kernel note itself; `branches` are all that there are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.branches: set[str] = set()

    def rewrite(self, function: ast.FunctionDef) -> ast.FunctionDef:
        """The kernel with its notes, without decorators."""
        body = [self.visit(each) for each in function.body]
        entry = f"{self.name} is called"
        self.branches.add(entry)
        note = ast.Call(ast.Name(ENTRY, ast.Load()), [ast.Constant(entry)], [])
        arguments = [ast.arg(each.arg) for each in function.args.args]
        plain = ast.arguments([], arguments, None, [], [], None, [])
        return ast.FunctionDef(function.name, plain, [ast.Expr(note), *body], [], lineno=1)

    @staticmethod
    def _call(function: str, label: str, value: ast.expr) -> ast.Call:
        return ast.Call(ast.Name(function, ast.Load()), [ast.Constant(label), value], [])

    def _test(self, node: ast.expr) -> ast.expr:
        """A condition, each of its operands noted for itself."""
        if isinstance(node, ast.BoolOp):
            return ast.BoolOp(node.op, [self._test(each) for each in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ast.UnaryOp(node.op, self._test(node.operand))
        label = f"{self.name}: {ast.unparse(node)}"
        value: ast.expr = self.visit(node)
        if isinstance(node, ast.Constant):
            return value
        self.branches |= {f"{label} is true", f"{label} is false"}
        return self._call(NOTE, label, value)

    def visit_If(self, node: ast.If) -> ast.If:
        node.test = self._test(node.test)
        node.body = [self.visit(each) for each in node.body]
        node.orelse = [self.visit(each) for each in node.orelse]
        return node

    def visit_While(self, node: ast.While) -> ast.While:
        node.test = self._test(node.test)
        node.body = [self.visit(each) for each in node.body]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.IfExp:
        node.test = self._test(node.test)
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.BoolOp:
        """Outside conditions: all but the last operand decide whether the next one is asked."""
        first = [self._test(each) for each in node.values[:-1]]
        return ast.BoolOp(node.op, [*first, self.visit(node.values[-1])])

    def visit_For(self, node: ast.For) -> ast.For:
        label = f"{self.name}: for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
        self.branches |= {f"{label} runs", f"{label} ends"}
        node.iter = self._call(LOOP, label, self.visit(node.iter))
        node.body = [self.visit(each) for each in node.body]
        return node


class Branches:
    """All branches of some modules, and those that were taken by the twins that it makes."""

    def __init__(self, modules: Iterable[str]) -> None:
        self.known: set[str] = set()
        self._entered: set[str] = set()
        self._true: set[str] = set()
        self._false: set[str] = set()
        self._ran: set[str] = set()
        self._ended: set[str] = set()
        self._codes: dict[tuple[str, str], CodeType] = {}
        self._twins = _Loader({})
        self._noting: set[FunctionType] = set()
        for module in modules:
            self._read(module)

    @property
    def taken(self) -> set[str]:
        """Those of `known` that were taken until now."""
        noted = {"is true": self._true, "is false": self._false}
        noted |= {"runs": self._ran, "ends": self._ended}
        words = {f"{label} {how}" for how, labels in noted.items() for label in labels}
        return self._entered | words

    def twin(self, kernel: Callable[..., Any]) -> Callable[..., Any]:
        """The kernel's twin, which notes the branches that it and its callees take."""
        root = self._twins.load(kernel)
        waiting: list[Any] = [root]
        while waiting:
            function = waiting.pop()
            if function in self._noting:
                continue
            self._noting.add(function)
            names = function.__globals__
            code = self._codes.get((names["__name__"], function.__name__))
            if code is not None:
                function.__code__ = code
                names[NOTE], names[LOOP] = self._note, self._loop
                names[ENTRY] = self._entered.add
            waiting += [
                value
                for value in list(names.values())
                if isinstance(value, FunctionType) and value.__module__.startswith(FOLLOWED)
            ]
        return root

    def _read(self, module: str) -> None:
        source = getsource(import_module(module))
        path = Path(import_module(module).__file__ or "")
        kernels = [
            node
            for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef) and node.decorator_list
        ]
        for node in kernels:
            rewriter = _Rewriter(f"{module}.{node.name}")
            tree = ast.Module([rewriter.rewrite(node)], [])
            compiled = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
            (code,) = (each for each in compiled.co_consts if isinstance(each, CodeType))
            self._codes[module, node.name] = code
            self.known |= rewriter.branches

    def _note(self, label: str, value: Any) -> Any:
        (self._true if value else self._false).add(label)
        return value

    def _loop(self, label: str, values: Iterable[int]) -> Iterator[int]:
        for value in values:
            self._ran.add(label)
            yield value
        self._ended.add(label)
