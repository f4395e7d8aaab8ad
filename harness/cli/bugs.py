"""`tdprace bugs`: real bugs of KVM's TDP MMU, told, found again, and kept up with the model."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.bugs import book, check, kept, refresh
from harness.bugs.catalogue import SOURCE_ROOT, Bug, bugs_in, chosen
from harness.bugs.check import Clean, Examined
from harness.bugs.interpreters import COLUMNS, Chain, Interpreters, Look
from harness.bugs.tree import CATALOGUE
from harness.cli import bug_strategies
from harness.cli.common import add_output_arguments, compile_model, notice, write_json
from harness.cli.live import LiveLine
from harness.cli.speaker import Speaker
from harness.explore.explorer import compile_engine
from harness.explore.load import load_scenario
from harness.report import store
from harness.report.document import new_document
from harness.report.tables import Cell, render
from harness.run.session import SignalFlag
from workloads.errors import RunFailed, UsageError
from workloads.units import parse_duration, whole

JOBS_DEFAULT = 2
JOBS_MAX = 1024
PLAIN_LINE_S = 10.0
REDRAW_S = 0.5
EPILOG = """\
examples:
  tdprace bugs list               what is in the catalogue
  tdprace bugs show b17           one story, its diff, and how it happens, step by step
  tdprace bugs check b17          explore it, replay what is found; and the clean model is clean
  tdprace bugs check --keep       all of them; keep the shortest schedules beside the stories
  tdprace bugs refresh --check    does every diff still say where its lines are?
  tdprace bugs refresh            after a change of mmu/: write the line numbers again
  tdprace bugs strategies         bugs by strategies: executions to the first finding
  tdprace bugs torture            which of them real processes find within a minute
  tdprace bugs book               write docs/bugs.md: all stories with their explanations

A bug of the catalogue is a diff, for every command that takes one:
  tdprace explore invalidate-top --patch workloads/bugs/b17-iterator-skips-after-yield/patch.diff

exit status: 0 all as it must be; 1 a bug is not found, the clean model is accused, a diff does
not apply or (--check) has moved; 2 wrong usage; 4 a kept reproducer does not show its bug;
130 interrupted
"""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """The actions and their options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="list|show|check|refresh|strategies|torture|book"
    )

    def action(name: str, text: str) -> argparse.ArgumentParser:
        each = actions.add_parser(name, help=text, description=text)
        each.add_argument(
            "--catalogue",
            type=Path,
            default=SOURCE_ROOT / CATALOGUE,
            metavar="DIR",
            help=f"a catalogue of your own (default: {CATALOGUE})",
        )
        return each

    listing = action("list", "all of them in a table")
    listing.add_argument("--json", metavar="FILE|-", help="write JSON; with -, print nothing else")
    showing = action("show", "one of them: story, diff, and how it happens")
    showing.add_argument("id", metavar="ID", help="b17, or the folder's name")
    showing.add_argument(
        "--brief",
        action="store_true",
        help="tell only steps that must come before or after another actor's",
    )
    _add_check(action("check", "is each found, and the clean model not accused?"))
    refreshing = action("refresh", "write the diffs' line numbers again")
    refreshing.add_argument(
        "names",
        nargs="*",
        metavar="ID|FILE",
        help="these only, or any other diff against mmu/ (default: the whole catalogue)",
    )
    refreshing.add_argument(
        "--check",
        "--dry-run",
        action="store_true",
        help="only say what would change; exit status 1 if anything would",
    )
    bug_strategies.add_actions(action)
    writing = action("book", "write the catalogue as a document")
    writing.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help=f"where to; - is stdout (default: {book.NAME} of this checkout)",
    )
    writing.add_argument("--quiet", action="store_true", help="no progress")


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="these only (default: all)")
    parser.add_argument(
        "--seconds",
        type=parse_duration,
        default=check.SECONDS_DEFAULT,
        metavar="TIME",
        help="explore each bug for so long, compiling apart, and the clean model for half of it"
        f" (default {check.SECONDS_DEFAULT:.0f}s)",
    )
    parser.add_argument(
        "-j",
        dest="jobs",
        type=whole("-j", 1, JOBS_MAX),
        default=JOBS_DEFAULT,
        metavar="N",
        help=f"so many at once (default {JOBS_DEFAULT})",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="write what was found beside the story, where it is shorter than what is kept or the"
        " model has changed",
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; the exit status."""
    actions = {
        "list": _list,
        "show": _show,
        "check": _check,
        "refresh": _refresh,
        "book": _book,
        **dict.fromkeys(bug_strategies.NAMES, bug_strategies.run),
    }
    return actions[args.action](args)


# --- list, show, book ----------------------------------------------------------------------------


def _list(args: argparse.Namespace) -> int:
    rows = [_listed(bug) for bug in bugs_in(args.catalogue).values()]
    write_json(args.json, {"schema": store.SCHEMA, "command": "bugs list", "bugs": rows})
    if args.json != "-":
        heads = ["bug", "what goes wrong", "kernel", "fixed in", "CVE", "scenario", "oracle"]
        heads.append("steps kept")
        names = ("id", "title", "kernel", "fixed", "cve", "scenario", "oracle", "steps_kept")
        cells: list[list[Cell]] = [[row[name] for name in names] for row in rows]
        print(render(heads, [["-" if c is None else c for c in r] for r in cells]))
    return 0


def _listed(bug: Bug) -> dict[str, Any]:
    names = ("id", "name", "title", "kernel", "fixed", "commit", "cve", "scenario", "oracle")
    return {
        **{name: getattr(bug, name) for name in names},
        "patch": str(bug.diff),
        "steps_kept": kept.steps_kept(bug),
    }


def _show(args: argparse.Namespace) -> int:
    (bug,) = chosen(bugs_in(args.catalogue), [args.id])
    print(f"{bug.id}: {bug.title}\n")
    for name, value in [*book.facts(bug), ("folder", str(_near(bug.folder)))]:
        print(f"  {name:<9} {value}")
    print(f"\n{bug.text.rstrip()}\n\n{bug.diff.read_text(encoding='utf-8').rstrip()}\n", flush=True)
    if kept.kept(bug) is None:
        print(kept.how_to_keep(bug))
        return 0
    columns = shutil.get_terminal_size((COLUMNS, 24)).columns
    with tempfile.TemporaryDirectory() as work:
        told = kept.told(bug, *(["--brief"] if args.brief else []))
        interpreters = Interpreters({bug.id: told}, 1, Path(work), columns)
        interpreters.run()
    print(interpreters.results[bug.id])
    return 0


def _book(args: argparse.Namespace) -> int:
    target = args.file or str(SOURCE_ROOT / book.NAME)
    if target != "-" and not Path(target).parent.is_dir():
        raise UsageError(f"{target}: its folder is not there; name another FILE, or - for stdout")
    bugs = list(bugs_in(args.catalogue).values())
    with_one = [bug for bug in bugs if kept.kept(bug) is not None]
    chains = {bug.id: _told_or_why_not(bug) for bug in with_one}
    with tempfile.TemporaryDirectory() as work:
        interpreters = Interpreters(chains, JOBS_DEFAULT, Path(work))
        with _progress(args.quiet, len(chains), "told") as look:
            interpreters.run(look)
    told = {id_: each for id_, each in interpreters.results.items() if isinstance(each, str)}
    if wrong := [
        str(each) for each in interpreters.results.values() if isinstance(each, RunFailed)
    ]:
        raise RunFailed("\ntdprace: ".join(sorted(wrong)))
    text = book.book(bugs, told)
    if target == "-":
        print(text, end="")
    else:
        store.replace_text(Path(target), text)
        print(f"{_near(Path(target))}: {len(bugs)} bugs, {len(chains)} with their explanations")
    return 0


@contextmanager
def _progress(quiet: bool, total: int, done: str, *, says: bool = False) -> Iterator[Look[object]]:
    """A live line over what interpreters do; with `says`, a line for each result as it comes."""
    line = LiveLine(quiet, plain_s=PLAIN_LINE_S, redraw_s=REDRAW_S)
    said: set[str] = set()

    def look(names: Sequence[str], results: Mapping[str, object]) -> bool:
        for name in [each for each in results if each not in said]:
            said.add(name)
            if says:
                line.say(str(results[name]))
        line.show(lambda: f"{len(results)} of {total} {done}; now {', '.join(names)}")
        return True

    try:
        yield look
    finally:
        line.close()


def _told_or_why_not(bug: Bug) -> Chain[str | RunFailed]:
    """So that one run names everybody whose reproducer is of no use any more."""
    try:
        return (yield from kept.told(bug, *book.TOLD_WITH))
    except RunFailed as error:
        return error


def _near(path: Path) -> Path:
    """As somebody who stands in the checkout would name it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


# --- refresh -------------------------------------------------------------------------------------


def _refresh(args: argparse.Namespace) -> int:
    found = [
        refresh.refreshed(file, SOURCE_ROOT) for file in refresh.diffs(args.catalogue, args.names)
    ]
    wrong = [each for each in found if each.problem]
    moved = [each for each in found if not each.problem and not each.is_current]
    for each in moved:
        if not args.check:
            each.write()
        again = "would be written again" if args.check else "written again"
        print(f"{_near(each.file)}: {again}: {each.moves}")
    for each in wrong:
        print(f"{_near(each.file)}: DOES NOT APPLY: {each.problem}")
    current = len(found) - len(moved) - len(wrong)
    verb = "have moved" if args.check else "were written again"
    print(f"{len(found)} diffs: {current} current, {len(moved)} {verb}, {len(wrong)} do not apply")
    return 1 if wrong or (args.check and moved) else 0


# --- check ---------------------------------------------------------------------------------------


def _check(args: argparse.Namespace) -> int:
    bugs = chosen(bugs_in(args.catalogue), args.ids)
    scenarios = list(dict.fromkeys(bug.scenario for bug in bugs))
    for bug in bugs:
        try:
            load_scenario(bug.scenario)
        except UsageError as error:
            raise UsageError(f"{bug.folder}: {error}") from error
    folder = store.open_run(args.results, "bugs", "check")
    document = new_document("bugs", "", vars(args))
    del document["workload"]
    # What all interpreters share, once; then each compiles only what its diff touches.
    compile_model(args.quiet, "the scenarios and the model")
    for strategy in ("auto", "follow"):
        compile_engine(strategy, notice(args.quiet))
    work = folder.path.with_name(f"{store.TEMPORARY_PREFIX}{folder.path.name}")
    with SignalFlag() as flag:
        try:
            work.mkdir()
            results, done = _examine(args, bugs, scenarios, work, flag)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return _finish(args, bugs, results, done, folder, document)


def _examine(
    args: argparse.Namespace,
    bugs: Sequence[Bug],
    scenarios: Sequence[str],
    work: Path,
    flag: SignalFlag,
) -> tuple[Mapping[str, Examined | Clean], bool]:
    """What became of each bug and scenario; False if it was interrupted."""
    chains: dict[str, Chain[Examined | Clean]] = {
        bug.id: check.examine(bug, args.seconds, work) for bug in bugs
    }
    for scenario in scenarios:
        chains[f"clean {scenario}"] = check.look_at_clean(scenario, args.seconds, work)
    interpreters = Interpreters(chains, args.jobs, work)
    with _progress(args.quiet, len(chains), "looked at", says=True) as look:
        done = interpreters.run(
            lambda names, results: look(names, results) and not flag.raised,
        )
    return interpreters.results, done


def _finish(
    args: argparse.Namespace,
    bugs: Sequence[Bug],
    results: Mapping[str, Examined | Clean],
    done: bool,
    folder: store.RunFolder,
    document: dict[str, Any],
) -> int:
    """Tables, what is kept, the stored run."""
    say = Speaker(silent=args.json == "-")
    by_id = {each.id: each for each in results.values() if isinstance(each, Examined)}
    examined = [by_id[bug.id] for bug in bugs if bug.id in by_id]
    clean = [each for each in results.values() if isinstance(each, Clean)]
    say(check.bug_table(examined) + "\n")
    say(check.clean_table(clean) + "\n")
    for text in check.problems(examined, clean):
        say(f"NOT AS IT MUST BE: {text}")
    if args.keep:
        _keep(bugs, by_id, say)
    right = sum(not each.problem for each in examined)
    say(f"{right} of {len(bugs)} bugs found, replayed and told; {_clean_text(clean)}")
    all_right = not check.problems(examined, clean)
    document["violations"] = [violation for each in clean for violation in each.violations]
    document["outcome"] = "clean" if all_right else "failed"
    if document["violations"]:
        document["outcome"] = "violation"
    if not done:
        say("interrupted: the rest was not looked at")
        document["outcome"] = "interrupted"
    document["bugs"] = [each.row() for each in examined]
    document["clean"] = [each.row() for each in clean]
    folder.write(document)
    folder.write_text(store.TABLE_FILE, say.text)
    say(f"stored: {folder.path}")
    write_json(args.json, document)
    if not done:
        return 130
    return 0 if all_right else 1


def _clean_text(clean: Sequence[Clean]) -> str:
    wrong = sum(bool(each.problem) for each in clean)
    if wrong:
        return f"{wrong} of {len(clean)} scenarios are not clean"
    return f"the clean model is not accused in {len(clean)} scenarios"


def _keep(bugs: Sequence[Bug], examined: Mapping[str, Examined], say: Speaker) -> None:
    for bug in bugs:
        each = examined.get(bug.id)
        if each is None or each.problem or each.reproducer is None:
            continue
        written = kept.keep(bug, each.reproducer)
        what = f"{each.shrunk_steps} steps" if written else "as it was"
        say(f"kept: {_near(bug.reproducer)}: {what}")
