"""A reproducer as a regression test: what the test's file says, and what it calls.

The file holds the whole reproducer as literals and calls the two assertions below.  They speak of
the model that is imported where the test runs, whatever the reproducer was found in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from harness.bugs.tree import TREE_VARIABLE
from harness.explore.explain import explain
from harness.explore.explorer import compile_engine
from harness.explore.load import load_scenario
from harness.explore.replay import follow_script
from harness.explore.reproducer import Reproducer, from_document
from harness.explore.story import Teller
from harness.explore.trace import Finding, Step
from harness.explore.world import World
from harness.run.warm import needed_by, warm
from mmu.machine.dispatch import SOURCE_ROOT
from workloads.errors import RunFailed, UsageError

WHERE: Final = Path("the test's reproducer")  # what errors call it
STEP_FIELDS: Final = ("actor", "do", "word", "occurrence", "saw", "stored")
LINE_MAX: Final = 100
REPRODUCED: Final = 1  # exit status of `tdprace replay`


def assert_not_reproduced(document: Mapping[str, Any]) -> None:
    """The recorded schedule breaks its rule no more; an AssertionError tells how it does.

    A schedule that the model cannot follow any longer, or that ends well, is fine.  UsageError if
    the scenario or one of its actors or words has gone: then the test says nothing any more.
    """
    __tracebackhide__ = True  # pytest: what matters is the story
    recorded = _recorded(document)
    scenario = load_scenario(recorded.scenario, recorded.program, recorded.reduction, str(WHERE))
    warm(kernels=needed_by(scenario.functions))
    compile_engine("follow")
    world = World(scenario)
    try:
        script = _script(recorded, world)
        found = follow_script(world, script, recorded.oracles).finding
        if found is not None and found.oracle in recorded.oracles:
            raise AssertionError(_failure(recorded, found, world, script))
    finally:
        world.close()


def assert_reproduced_with_its_patch(document: Mapping[str, Any]) -> None:
    """With the patch that it was found with the model does break the rule: the test can fail.

    A patched model needs an interpreter of its own.
    """
    __tracebackhide__ = True
    recorded = _recorded(document)
    if recorded.patch is None:
        raise UsageError(f"{WHERE}: was found without a patch")
    paths = [str(SOURCE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    environment.pop(TREE_VARIABLE, None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reproducer.json"
        file.write_text(recorded.dump(), encoding="utf-8")
        # Without -P the working folder would come before the checkout that is tested.
        command = [sys.executable, "-P", "-m", "harness", "replay", str(file), "--quiet"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != REPRODUCED:
        said = done.stderr.strip().replace(f"{file}", str(WHERE)) or done.stdout.strip()
        raise AssertionError(
            f"with its patch the schedule does not break the rule of {recorded.violation.oracle}"
            f" any more, so that this test could not notice the bug: {said}\n"
            "explore the scenario with the patch again and make the test anew"
        )


def _recorded(document: Mapping[str, Any]) -> Reproducer:
    """The reproducer; its scenario's file is looked for here and in the checkout."""
    steps = [
        dict(zip(STEP_FIELDS, step, strict=True)) if isinstance(step, list | tuple) else step
        for step in document.get("steps", ())
    ]
    recorded = from_document({**document, "steps": steps}, WHERE)
    file, mark, name = recorded.scenario.rpartition("::")
    if mark and not Path(file).is_file() and (SOURCE_ROOT / file).is_file():
        return replace(recorded, scenario=f"{SOURCE_ROOT / file}::{name}")
    return recorded


def _script(recorded: Reproducer, world: World) -> list[Step]:
    try:
        return recorded.script(world)
    except UsageError as error:
        raise UsageError(
            f"{WHERE}: {error}, so that this test says nothing any more; explore"
            f" {recorded.scenario} again and make the test anew"
        ) from error


def _failure(recorded: Reproducer, found: Finding, world: World, script: list[Step]) -> str:
    """What happened, step by step."""
    head = f"scenario {recorded.scenario} breaks the rule of {found.oracle}: {found.message}"
    try:
        story = explain(world, Teller(world, recorded.oracles).tell(script, compare=False))
    except RunFailed as error:
        story = f"(no story: {error})"
    return f"{head}\n\n{story}\n"


# --- The test's file -----------------------------------------------------------------------------


def name_of_test(recorded: Reproducer) -> str:
    """`test_put_get_roots`: of the file, and of its first test."""
    scenario = recorded.scenario.rpartition("::")[2]
    words = f"test {scenario} {recorded.violation.oracle}".lower()
    return "_".join("".join(c if c.isalnum() and c.isascii() else " " for c in words).split())


def text_of_test(recorded: Reproducer) -> str:
    """The whole file."""
    names = ["assert_not_reproduced"]
    if recorded.patch is not None:
        names.append("assert_reproduced_with_its_patch")
    parts = [
        _docstring(recorded),
        f"from harness.explore.regression import {', '.join(names)}",
        _literals(recorded),
        f"def {name_of_test(recorded)}():\n    assert_not_reproduced(REPRODUCER)",
    ]
    if recorded.patch is not None:
        parts.append(
            "def test_the_patch_is_noticed():\n    assert_reproduced_with_its_patch(REPRODUCER)"
        )
    return "\n\n".join(parts[:2]) + "\n\n" + "\n\n\n".join(parts[2:]) + "\n"


def _docstring(recorded: Reproducer) -> str:
    violation = recorded.violation
    lines = [
        f"{recorded.scenario} does not break the rule of {violation.oracle}.",
        "",
        f"    {violation.oracle}: {violation.message}",
        "",
        "It did, under the schedule below.  The test fails and tells the story where the model it",
        "runs on still does.  Made by `tdprace replay FILE --as-test`.",
    ]
    if recorded.patch is not None:
        lines += [
            "",
            "The second test makes sure that the first one can fail: with the patch, it would.",
        ]
    text = "\n".join(lines).replace("\\", "\\\\").replace('"', '\\"')
    return f'"""{text}\n"""'


def _literals(recorded: Reproducer) -> str:
    """PATCH, if any, and REPRODUCER."""
    document = recorded.document()
    steps = [tuple(step[name] for name in STEP_FIELDS) for step in document.pop("steps")]
    lines = []
    if recorded.patch is not None:
        lines += ["PATCH = ("]
        lines += [f"    {_literal(line)}" for line in recorded.patch.diff.splitlines(True)]
        lines += [")", ""]
        document["patch"] = None  # in its place
    lines += ["REPRODUCER = {"]
    for key, value in document.items():
        text = _literal(value)
        if key == "patch" and recorded.patch is not None:
            text = f'{{"file": {_literal(recorded.patch.file)}, "diff": PATCH}}'
        line = f"    {_literal(key)}: {text},"
        if len(line) > LINE_MAX and isinstance(value, dict):
            entries = (f"        {_literal(k)}: {_literal(v)}," for k, v in value.items())
            line = "\n".join([f"    {_literal(key)}: {{", *entries, "    },"])
        lines.append(line)
    lines += ['    "steps": [', f"        # {', '.join(STEP_FIELDS)}"]
    lines += [f"        {_literal(step)}," for step in steps]
    lines += ["    ],", "}"]
    return "\n".join(lines)


def _literal(value: Any) -> str:
    """JSON's values as Python writes them, strings in double quotes."""
    if isinstance(value, str):
        # What JSON escapes in such a text, Python writes the same way.
        return json.dumps(value) if value.isascii() else ascii(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_literal, value)) + ")"
    return repr(value)
