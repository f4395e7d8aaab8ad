"""`tdprace replay`: see a violation again, compiled or as a story."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.bugs.tree import TREE_VARIABLE, patched_tree, run_in_tree
from harness.cli.common import compile_model, notice, write_json
from harness.explore.chrome import chrome_trace
from harness.explore.explain import explain
from harness.explore.explorer import compile_engine
from harness.explore.load import load_scenario
from harness.explore.regression import name_of_test, text_of_test
from harness.explore.replay import follow_script
from harness.explore.reproducer import OPERATIONS, Reproducer, read
from harness.explore.story import Story, Teller
from harness.explore.trace import Finding, Step
from harness.explore.world import World
from harness.report import store
from harness.run.warm import needed_by
from mmu.machine.dispatch import SOURCE_ROOT, cache_root
from mmu.machine.events import STEP_LAST
from mmu.machine.kernel import MODEL_HASH
from workloads.errors import RunFailed, UsageError

EPILOG = """\
Without --explain the schedule runs compiled, as it was found.  With --explain it runs in the
interpreted twin and is told in columns, one an actor, ending in OOPS and the broken rule.

With --as-test nothing is replayed: a pytest file is written that holds the whole reproducer. It
fails, and tells the story, where the model still does what was recorded.

exit status: 1 the violation was reproduced, 0 the test was written, 2 no such file or no
reproducer, 4 it was not reproduced or the schedule could not be followed (the line says where)
"""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """The file and what to do with it."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("file", type=Path, metavar="FILE", help="a reproducer, as explore stores")
    parser.add_argument("--explain", action="store_true", help="tell it, step by step")
    parser.add_argument("--all", action="store_true", help="with --explain: private steps too")
    parser.add_argument(
        "--brief",
        action="store_true",
        help="with --explain: only steps that must come before or after another actor's, or that"
        " change an entry",
    )
    parser.add_argument("--times", type=int, default=1, metavar="N", help="replay N times")
    parser.add_argument(
        "--chrome-trace", type=Path, metavar="FILE", help="write the story for trace viewers"
    )
    parser.add_argument(
        "--as-test",
        nargs="?",
        const="",
        metavar="OUT.py|-",
        help="write it as a regression test; with -, to stdout (default:"
        " test_<scenario>_<oracle>.py in this folder); a file that is there already is not touched",
    )
    parser.add_argument("--json", metavar="FILE|-", help="write JSON; with -, print nothing else")
    parser.add_argument("--quiet", action="store_true", help="no compile progress")


def run(args: argparse.Namespace) -> int:
    """Replay; 1 if the violation was reproduced."""
    recorded = read(args.file)
    if args.as_test is not None:
        return _write_test(args, recorded)
    _enter_patched_tree(recorded, args.words)
    scenario = load_scenario(
        recorded.scenario, recorded.program, recorded.reduction, str(args.file)
    )
    world = World(scenario)
    try:
        script = recorded.script(world)
    except UsageError as error:
        raise UsageError(f"{args.file}: {error}; {_model_text(recorded)}") from error
    quiet = args.json == "-"
    told = args.explain or args.chrome_trace is not None
    story = _tell(recorded, world, script) if told else None
    if story is not None and args.explain and not quiet:
        columns = shutil.get_terminal_size((120, 24)).columns
        width = max(columns, 100)
        print(explain(world, story, everything=args.all, brief=args.brief, width=width))
    if args.chrome_trace is not None and story is not None:
        store.replace_text(args.chrome_trace, chrome_trace(world, story))
    if story is None:
        compile_model(args.quiet, kernels=needed_by(scenario.functions))
        compile_engine("follow", notice(args.quiet))
        for _ in range(max(args.times, 1)):
            _play(recorded, world, script)
    violation = recorded.violation
    if not quiet:
        times = f", {args.times} times" if args.times > 1 and not told else ""
        print(f"reproduced{times}: {violation.oracle}: {violation.message}")
    write_json(args.json, {"reproduced": True, "oracle": violation.oracle, "times": args.times})
    return 1


def _write_test(args: argparse.Namespace, recorded: Reproducer) -> int:
    """The reproducer as a regression test."""
    given = {
        "--explain": args.explain,
        "--all": args.all,
        "--times": args.times != 1,
        "--chrome-trace": args.chrome_trace,
        "--json": args.json,
    }
    unused = [flag for flag, value in given.items() if value]
    if unused:
        raise UsageError(f"--as-test does not use {', '.join(unused)}")
    text = text_of_test(recorded)
    if args.as_test == "-":
        print(text, end="")
        return 0
    file = Path(args.as_test or f"{name_of_test(recorded)}.py")
    if file.exists():
        raise UsageError(f"{file} is there already: remove it, or name another: --as-test OUT.py")
    store.replace_text(file, text)
    print(f"written: {file}; run it with: pytest {shlex.quote(str(file))}")
    return 0


def _enter_patched_tree(recorded: Reproducer, words: Sequence[str]) -> None:
    """Go on in the patched model that the reproducer was found in."""
    if recorded.patch is None or os.environ.get(TREE_VARIABLE):
        return
    with tempfile.TemporaryDirectory() as folder:
        diff = Path(folder) / Path(recorded.patch.file).name
        diff.write_text(recorded.patch.diff, encoding="utf-8")
        tree = patched_tree(diff, SOURCE_ROOT, cache_root())
    run_in_tree(tree, words)


def _model_text(recorded: Reproducer) -> str:
    if recorded.model == MODEL_HASH:
        return "the model is the same"
    return f"the model is {MODEL_HASH} now, it was {recorded.model}"


def _tell(recorded: Reproducer, world: World, script: list[Step]) -> Story:
    """The story; RunFailed if it is another one."""
    try:
        story = Teller(world, recorded.oracles).tell(script, compare=recorded.model == MODEL_HASH)
    except RunFailed as error:
        raise RunFailed(f"{error}; {_model_text(recorded)}") from error
    if story.oracle != recorded.violation.oracle:
        _not_reproduced(recorded, story.oracle, story.message)
    return story


def _play(recorded: Reproducer, world: World, script: list[Step]) -> Finding:
    """Run it compiled; RunFailed if something else happens."""
    replay = follow_script(world, script, recorded.oracles)
    steps = [step for step in script if step.kind <= STEP_LAST]
    if replay.diverged >= 0:
        step = steps[replay.followed]
        name = world.scenario.actors[step.actor].name
        raise RunFailed(
            f"diverged at step {replay.followed + 1}: {name} was to {OPERATIONS[step.kind]}"
            f" {world.name_of(step.word)} and could not; {_model_text(recorded)}"
        )
    if recorded.model == MODEL_HASH:
        _compare(world, steps, replay.steps)
    if replay.finding is None or replay.finding.oracle != recorded.violation.oracle:
        found = replay.finding
        _not_reproduced(recorded, found.oracle if found else "", found.message if found else "")
    assert replay.finding is not None
    return replay.finding


def _compare(world: World, recorded: list[Step], seen: Sequence[Step]) -> None:
    """RunFailed where a value is another than recorded."""
    real = [step for step in seen if step.kind <= STEP_LAST]
    for number, (one, other) in enumerate(zip(recorded, real, strict=False), start=1):
        if (one.old, one.new) != (other.old, other.new):
            raise RunFailed(
                f"diverged at step {number}: {world.name_of(one.word)} went from {one.old:#x} to"
                f" {one.new:#x} in the recording, from {other.old:#x} to {other.new:#x} now"
            )


def _not_reproduced(recorded: Reproducer, oracle: str, message: str) -> None:
    wanted = recorded.violation
    now = f"{oracle}: {message}" if oracle else "nothing was broken"
    raise RunFailed(
        f"not reproduced: recorded {wanted.oracle}: {wanted.message}; now {now};"
        f" {_model_text(recorded)}"
    )
