"""Find a scenario: one of the model's by name, or a user's as FILE.py::NAME."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from workloads.errors import UsageError
from workloads.scenario import Scenario
from workloads.scenarios.reduced import read_reduction
from workloads.scenarios.registry import SCENARIOS, load


def load_scenario(
    reference: str,
    program: dict[str, Any] | None = None,
    reduction: dict[str, Any] | None = None,
    where: str = "",
) -> Scenario:
    """The scenario that `reference` names, or that a program is; UsageError if there is none.

    `reduction` is what is left out of one with a name; `where` the file that both come from.
    """
    if reduction is not None:
        return read_reduction(reduction, f"{where}: reduction").of(load_scenario(reference))
    if program is not None:
        # Only here: what is imported is compiled, and other scenarios do not need its kernels.
        from workloads.scenarios.generated import read_program

        return read_program(program, f"{where}: program").scenario()
    if "::" in reference:
        file, _, name = reference.rpartition("::")
        return _from_file(Path(file), name)
    if reference.endswith(".py"):
        path = Path(reference)
        known = ", ".join(_scenarios_of(_imported(path))) or "it has none"
        raise UsageError(f"{reference}: which scenario of it? say {reference}::NAME ({known})")
    if reference not in SCENARIOS:
        close = difflib.get_close_matches(reference, SCENARIOS, 3)
        hint = f"do you mean {' or '.join(close)}?" if close else "see `tdprace list`"
        raise UsageError(f"there is no scenario {reference!r}: {hint}")
    return load(reference)


def _from_file(path: Path, name: str) -> Scenario:
    module = _imported(path)
    scenario = getattr(module, name, None)
    if isinstance(scenario, Scenario):
        return scenario
    known = _scenarios_of(module)
    what = "is no Scenario" if hasattr(module, name) else "is not there"
    raise UsageError(f"{path}::{name} {what}; {path} has {', '.join(known) or 'no scenario'}")


def _scenarios_of(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Scenario)]


def _imported(path: Path) -> ModuleType:
    """Run the user's file as a module of its own; its errors name its file and line."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    # The name stays the same from run to run: compiled code is kept under it.
    name = f"scenario_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{path}: line {error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [each.lineno for each in frames if Path(each.filename) == path.resolve()]
        where = f"line {lines[-1]}: " if lines else ""
        raise UsageError(f"{path}: {where}{type(error).__name__}: {error}") from error
    return module
