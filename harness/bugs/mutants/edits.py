"""Changes of a source text at exact positions, and the diff that they make.

Positions come from the syntax tree, so nothing else of the text moves: comments, blank lines and
line breaks stay what they are.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from dataclasses import dataclass

CONTEXT_LINES = 1


@dataclass(frozen=True)
class Edit:
    """`text` in place of what lies in [start, end); `line` is where it begins, from 1."""

    start: int
    end: int
    text: str
    line: int


class Source:
    """A module's text, its tree, and where the tree's nodes lie in the text."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.tree = ast.parse(text)
        self._lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._blocks = {
            id(statement): block
            for node in ast.walk(self.tree)
            for name in ("body", "orelse", "finalbody")
            if isinstance(block := getattr(node, name, None), list)
            for statement in block
        }

    def replaced(self, node: ast.expr, text: str) -> Edit:
        """An expression's text replaced."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self._offset(node.lineno, node.col_offset)
        return Edit(start, self._offset(node.end_lineno, node.end_col_offset), text, node.lineno)

    def removed(self, statement: ast.stmt) -> Edit:
        """A statement's lines removed; `pass` where a block would be empty."""
        assert statement.end_lineno is not None
        start, end = self._starts[statement.lineno - 1], self._starts[statement.end_lineno]
        alone = len(self._blocks[id(statement)]) == 1
        text = " " * statement.col_offset + "pass\n" if alone else ""
        return Edit(start, end, text, statement.lineno)

    def appended(self, text: str) -> Edit:
        """Something at the module's end."""
        return Edit(len(self.text), len(self.text), text, len(self._lines) + 1)

    def edited(self, edits: Iterable[Edit]) -> str:
        """The text with all edits made, which must not overlap."""
        parts = []
        done = 0
        for edit in sorted(edits, key=lambda each: each.start):
            assert edit.start >= done, "edits overlap"
            parts += [self.text[done : edit.start], edit.text]
            done = edit.end
        return "".join([*parts, self.text[done:]])

    def diff(self, edits: Iterable[Edit]) -> str:
        """The edits as a unified diff against the checkout."""
        lines = difflib.unified_diff(
            self._lines,
            self.edited(edits).splitlines(keepends=True),
            f"a/{self.path}",
            f"b/{self.path}",
            n=CONTEXT_LINES,
        )
        return "".join(lines)

    def _offset(self, line: int, column: int) -> int:
        """Where a node begins: the tree counts columns in bytes."""
        text = self._lines[line - 1].encode()[:column].decode()
        return self._starts[line - 1] + len(text)
