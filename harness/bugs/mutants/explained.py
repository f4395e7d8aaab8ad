"""Why survivors survive, as somebody has found out: `survivors.toml`, by the mutants' names.

equivalent  nobody could notice: the model is as right without it, and the text says why
gap         something is wrong without it that scenarios and oracles do not show (yet)

An explanation excuses nothing: mutants that have one are hunted and counted as all others are.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("survivors.toml")
VERDICTS = ("equivalent", "gap")
WIDTH = 96


@dataclass(frozen=True)
class Explanation:
    """One of VERDICTS, and the reason."""

    verdict: str
    text: str


def explanations(file: Path = FILE) -> dict[str, Explanation]:
    """All of them by mutant."""
    document = tomllib.loads(file.read_text(encoding="utf-8"))
    found = {}
    for verdict, texts in document.items():
        if verdict not in VERDICTS:
            raise ValueError(f"{file}: [{verdict}] is none of {', '.join(VERDICTS)}")
        for name, text in texts.items():
            if name in found:
                raise ValueError(f"{file}: {name} is explained twice")
            found[name] = Explanation(verdict, " ".join(text.split()))
    return found


def explained_text(explained: Mapping[str, Explanation]) -> str:
    """The document's list: names with their reasons, by verdict; those with one reason together."""
    parts = []
    for verdict in VERDICTS:
        by_text: dict[str, list[str]] = {}
        for name, each in explained.items():
            if each.verdict == verdict:
                by_text.setdefault(each.text, []).append(name)
        count = sum(map(len, by_text.values()))
        parts.append(f"{verdict}: {count}" + ("" if count else " (none)"))
        for text, names in by_text.items():
            lines = textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
            parts.append("\n".join([*(f"  {name}" for name in names), *lines]))
    return "\n\n".join(parts) + "\n"
