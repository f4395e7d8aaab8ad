"""`tdprace mutants`: take away one thing after the other, and see who notices."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.bugs.mutants.campaign import Budget, Campaign, Record, file_name
from harness.bugs.mutants.catalogue import Mutant, all_mutants, chosen
from harness.bugs.mutants.explained import explained_text, explanations
from harness.bugs.mutants.hunt import STRATEGIES
from harness.bugs.mutants.reach import reach_map
from harness.bugs.mutants.table import how_far, kill_table, oracle_table, remainders
from harness.cli.common import add_output_arguments, compile_model, notice, write_json
from harness.cli.live import LiveLine
from harness.cli.speaker import Speaker
from harness.explore.explorer import compile_engine
from harness.report import store
from harness.report.document import new_document
from harness.run.measure import cores
from harness.run.session import SignalFlag
from mmu.machine.dispatch import SOURCE_ROOT
from mmu.machine.kernel import MODEL_HASH
from workloads import registry as workloads
from workloads.errors import UsageError
from workloads.scenarios.registry import SCENARIOS, load
from workloads.units import parse_duration

SECONDS_DEFAULT = 24.0
TORTURE_DEFAULT = 10.0
PLAIN_LINE_S = 10.0
REDRAW_S = 0.5
EPILOG = """\
examples:
  tdprace mutants --list --only roots.                 what there is to take away from the roots
  tdprace mutants --list --diff --only NAME > bug.diff  one of them, for --patch
  tdprace mutants --only ':flush-'                      hunt those of one kind
  tdprace mutants --run results/RUN                     go on where that run was interrupted

A survivor is a gap in scenarios and oracles, or changes nothing that anybody could notice.
exit status: 0 all were hunted, survivors or not; 130 interrupted: go on with --run
"""


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Which mutants, and how long each is hunted."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="mutants whose name holds PATTERN, or fits it (*, ?); several: any of them",
    )
    parser.add_argument("--list", action="store_true", help="name them, and hunt none")
    parser.add_argument("--diff", action="store_true", help="with --list: their diffs too")
    parser.add_argument(
        "--explained", action="store_true", help="say why survivors survive, and hunt none"
    )
    parser.add_argument(
        "--seconds",
        type=_duration,
        metavar="TIME",
        help="explore the scenarios that dpor does not exhaust at once for so long in all"
        f" (default {SECONDS_DEFAULT:.0f}s; 0: do not)",
    )
    parser.add_argument(
        "--torture",
        type=_duration,
        metavar="TIME",
        help="then run `torture`, whose variants share so long"
        f" (default {TORTURE_DEFAULT:.0f}s; 0: do not)",
    )
    parser.add_argument(
        "-j", "--jobs", type=_jobs, metavar="N", help="mutants at once (default: all cores)"
    )
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="go on with an interrupted run, with its options"
    )
    add_output_arguments(parser)


def _duration(text: str) -> float:
    return 0.0 if text == "0" else parse_duration(text)


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """List or hunt; the exit status."""
    if args.diff and not args.list:
        raise UsageError("--diff is for --list; a run keeps its diffs beside its results")
    if args.explained:
        print(explained_text(explanations()), end="")
        return 0
    if args.list:
        return _list(chosen(all_mutants(SOURCE_ROOT), args.only), args.diff)
    folder, document = _folder(args)
    config = document["config"]
    mutants = chosen(all_mutants(SOURCE_ROOT), config["only"])
    _compile(args.quiet)
    say = notice(args.quiet)

    def mapping(done: int, total: int) -> None:
        if say is not None and done % 20 == 0:
            say(f"which scenario executes what: {done}/{total}")

    reach = reach_map(mapping)
    campaign = Campaign(folder, Budget(config["seconds"], config["torture"]), reach)
    status = Progress(mutants, campaign.records, args.quiet)
    with SignalFlag() as flag:
        try:
            done = campaign.run(
                mutants,
                args.jobs or cores(),
                lambda under_way, records: status.look(under_way, records) and not flag.raised,
            )
        finally:
            status.close()
    return _finish(args, folder, document, mutants, campaign.records, done)


def _list(mutants: Sequence[Mutant], with_diff: bool) -> int:
    for mutant in mutants:
        print(mutant.name)
        if with_diff:
            print(mutant.diff)
    return 0


def _folder(args: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The run's folder and document, new or that of --run."""
    if args.run is None:
        args.seconds = SECONDS_DEFAULT if args.seconds is None else args.seconds
        args.torture = TORTURE_DEFAULT if args.torture is None else args.torture
        chosen(all_mutants(SOURCE_ROOT), args.only)
        folder = store.open_run(args.results, "mutants", "model")
        document = new_document("mutants", "", vars(args))
        del document["workload"]
        folder.write(document)
        return folder.path, document
    given = [
        name for name in ("only", "seconds", "torture") if getattr(args, name) not in ([], None)
    ]
    if given:
        raise UsageError(f"--run goes on with the run's own options; leave out --{given[0]}")
    path = store.find(args.results, str(args.run))
    document = store.load(path)
    if document.get("command") != "mutants":
        raise UsageError(f"{path}: a run of `{document.get('command')}`, not of `mutants`")
    if document["model"] != MODEL_HASH:
        raise UsageError(
            f"{path}: a run of another model ({document['model']}, this is {MODEL_HASH}): its"
            " mutants are not these; start a new run"
        )
    return path, document


def _compile(quiet: bool) -> None:
    """What all hunters share, once; then each compiles only what its diff touches."""
    for name in SCENARIOS:
        load(name)
    workloads.load("torture")
    compile_model(quiet, "the scenarios and the model")
    for strategy in STRATEGIES:
        compile_engine(strategy, notice(quiet))


class Progress:
    """How far the campaign is, and how long the rest may take."""

    def __init__(
        self, mutants: Sequence[Mutant], records: Mapping[str, Record], quiet: bool
    ) -> None:
        self._mutants = mutants
        self._before = sum(each.name in records for each in mutants)
        self._began = time.monotonic()
        self._line = LiveLine(quiet, plain_s=PLAIN_LINE_S, redraw_s=REDRAW_S)

    def look(self, under_way: Sequence[Mutant], records: Mapping[str, Record]) -> bool:
        """Redraw if it is time; always True."""
        self._line.show(lambda: self._text(under_way, records))
        return True

    def _text(self, under_way: Sequence[Mutant], records: Mapping[str, Record]) -> str:
        names = ", ".join(each.name for each in under_way)
        return f"{how_far(self._mutants, records)}{self._left(records)}; now {names}"

    def _left(self, records: Mapping[str, Record]) -> str:
        done = sum(each.name in records for each in self._mutants)
        if done == self._before:
            return ""
        each = (time.monotonic() - self._began) / (done - self._before)
        minutes = each * (len(self._mutants) - done) / 60
        return f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._line.close()


def _finish(
    args: argparse.Namespace,
    path: Path,
    document: dict[str, Any],
    mutants: Sequence[Mutant],
    records: Mapping[str, Record],
    done: bool,
) -> int:
    """Tables, the stored run, the exit status."""
    say = Speaker(silent=args.json == "-")
    explained = explanations()
    for text in remainders(mutants, records, explained):
        say(text)
    say(kill_table(mutants, records, explained) + "\n")
    say(oracle_table(records) + "\n")
    document["outcome"] = "clean" if done else "interrupted"
    document["mutants"] = [
        {**records[each.name], "diff": file_name(each)} for each in mutants if each.name in records
    ]
    if not done:
        say(f"interrupted; go on with: tdprace mutants --run {path}")
    store.replace_text(path / store.RUN_FILE, store.dump(document))
    store.replace_text(path / store.TABLE_FILE, say.text)
    say(f"stored: {path}")
    write_json(args.json, document)
    return 0 if done else 130
