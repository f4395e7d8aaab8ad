"""What diff -u prints, of texts."""

import difflib

MAP = "mmu/tdp/map.py"


def split(text: str) -> list[str]:
    """Lines at newlines only: str.splitlines also ends them at form feeds and the like."""
    lines = [line + "\n" for line in text.split("\n")]
    return [*lines[:-1], *filter(None, [lines[-1][:-1]])]


def diff(old: str, new: str, path: str = MAP, context: int = 3, prefixes: str = "ab") -> str:
    """What diff -u prints; difflib itself forgets to say that a last line has no newline."""
    name_old, name_new = [f"{prefix}/{path}" for prefix in prefixes] or [path, path]
    lines = difflib.unified_diff(split(old), split(new), name_old, name_new, n=context)
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )
