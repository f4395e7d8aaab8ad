"""`tdprace explore --from RUN`: look for what a stress run has shown, in small scenarios."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from harness.cli.common import compile_model, enter_patched_tree, notice, patch_of, write_json
from harness.cli.findings import store_findings
from harness.cli.speaker import Speaker
from harness.explore.explorer import Bounds, Result, compile_engine
from harness.explore.reproducer import Patch
from harness.rebuild.candidates import Candidate, candidates
from harness.rebuild.finding import Finding, patch_file, read_finding
from harness.rebuild.recover import Done, recover
from harness.rebuild.search import Outcome, Tried, search
from harness.report import store
from harness.report.document import new_document
from harness.report.tables import count, duration_ns
from harness.run.measure import cores
from mmu.machine.kernel import MODEL_HASH
from workloads.errors import UsageError
from workloads.scenarios.generated import NAME, Program, Words

PROGRESS_S = 5.0
SHOWN_MAX = 12  # candidates that a failed search lists; the document has all


def explore_run(args: argparse.Namespace, seconds: float) -> int:
    """Rebuild, search, print, store; the exit status."""
    path = store.find(args.results, args.run)
    finding = read_finding(path)
    given = args.patch is not None
    if not given:
        args.patch = patch_file(store.load(path), finding.folder)
    enter_patched_tree(args)
    folder = store.open_run(args.results, "explore", NAME)
    compile_model(args.quiet, "the model and what is rebuilt")
    compile_engine("auto", notice(args.quiet))
    say = Speaker(silent=args.json == "-")
    patch = patch_of(args) if given else finding.patch
    _say_finding(finding, patch, say)
    done = recover(finding)
    tries = list(candidates(finding, done))
    if not tries:
        raise UsageError(f"{finding.folder}: its last events tell of no operation that is known")
    outcome = search(
        tries,
        finding.oracles,
        Bounds(seconds=args.seconds or seconds, steps=args.steps),
        seed=args.seed or 1,
        jobs=args.jobs or cores(),
        look=_Progress(args.quiet, len(tries)).look,
    )
    return _finish(args, finding, patch, outcome, folder, say)


class _Progress:
    """A line on stderr now and then."""

    def __init__(self, quiet: bool, candidates_count: int) -> None:
        self._quiet = quiet
        self._count = candidates_count
        self._said = time.monotonic()

    def look(self, number: int, candidate: Candidate, result: Result) -> None:
        """Say which candidate is being explored, if it is time."""
        now = time.monotonic()
        if self._quiet or now - self._said < PROGRESS_S:
            return
        self._said = now
        print(
            f"candidate {number} of {self._count}: {_play_text(candidate.program)}",
            file=sys.stderr,
            flush=True,
        )


# --- What is said --------------------------------------------------------------------------------


def _say_finding(finding: Finding, patch: Patch | None, say: Speaker) -> None:
    who = f" ({', '.join(finding.actors[:4])})" if finding.actors else ""
    say(f"from {finding.folder}")
    say(f"looking for {' or '.join(finding.oracles)}: {finding.message}{who}")
    if patch is not None:
        say(f"the model is patched with {patch.file}")
    if finding.model != MODEL_HASH:
        say(f"note: the model is {MODEL_HASH}, the run's was {finding.model}")


def _finish(
    args: argparse.Namespace,
    finding: Finding,
    patch: Patch | None,
    outcome: Outcome,
    folder: store.RunFolder,
    say: Speaker,
) -> int:
    """What was found or tried, the reproducer, the stored run."""
    document = _document(args, finding, patch, outcome)
    tried = [each for each in outcome.tried if each.executions or each.error]
    executions = sum(each.executions for each in tried)
    effort = (
        f"{len(tried)} of {len(outcome.tried)} candidates, {count(executions)} executions,"
        f" {outcome.seconds:.1f} s"
    )
    if outcome.found is not None and outcome.finding is not None and outcome.result is not None:
        program = outcome.found.program
        _say_program(outcome.found, finding, say)
        say(f"reproduced: {effort}")
        document["violations"] = store_findings(
            program.scenario(),
            [outcome.finding],
            folder,
            say,
            reference=NAME,
            patch=patch,
            strategy=outcome.result.strategy,
            seed=args.seed or 1,
            program=program,
            shrinks=args.shrink,
            quiet=args.quiet,
        )
    else:
        how = "interrupted" if outcome.interrupted else "not reproduced"
        say(f"{how}: {effort}; tried were")
        _say_tried(tried, say)
    folder.write(document)
    folder.write_text(store.TABLE_FILE, say.text)
    say(f"stored: {folder.path}")
    write_json(args.json, document)
    if outcome.found is not None:
        return 1
    return 130 if outcome.interrupted else 0


def _say_program(candidate: Candidate, finding: Finding, say: Speaker) -> None:
    """Who does what, and whom and what of the run that stands for."""
    program = candidate.program
    say("\nrebuilt:")
    for name, words in program.before:
        say(f"  before      {name}: {_words_text(words)}")
    for part in program.parts:
        texts = ", ".join(_words_text(words) for words in part.operations) or "nothing"
        run_name, done = candidate.cast.get(part.name, ("", ()))
        stands = "; ".join(_done_text(each, finding) for each in done)
        origin = f"   <- {run_name}: {stands}" if run_name else ""
        say(f"  {part.name:<10}  {texts}{origin}")
    if program.probes:
        say(f"  injected    {', '.join(program.probes)}")
    say("")


def _say_tried(tried: list[Tried], say: Speaker) -> None:
    for each in tried[:SHOWN_MAX]:
        how = "exhausted" if each.exhausted else f"{each.seconds:.1f} s"
        how = each.error or f"{count(each.executions)} executions, {how}"
        say(f"  {_play_text(each.candidate.program)}: {how}")
    if len(tried) > SHOWN_MAX:
        say(f"  and {len(tried) - SHOWN_MAX} more, see {store.RUN_FILE}")


def _words_text(words: Words) -> str:
    return " ".join(str(each) for each in words)


def _play_text(program: Program) -> str:
    """`vcpu 0: write 0 | host: move 0, after vcpu 0: write 0`."""
    parts = [
        f"{part.name}: {', '.join(_words_text(words) for words in part.operations)}"
        for part in program.parts
        if part.operations
    ]
    before = [f"{name}: {_words_text(words)}" for name, words in program.before]
    probes = [f"{name} injected" for name in program.probes]
    return ", ".join([" | ".join(parts), *(f"after {each}" for each in before), *probes])


def _done_text(done: Done, finding: Finding) -> str:
    """`move host page 0x706, 145 us before`."""
    what = done.readings[0]
    if done.guessed:
        return f"{what} of any page (a guess)"
    if done.page >= 0:
        what += f" host page {done.page:#x}"
    if done.slot >= 0:
        what += f" of slot {done.slot}"
    if done.ns == 0:
        return what
    return f"{what}, {duration_ns(abs(done.ns))} {'before' if done.ns < 0 else 'after'}"


# --- The document --------------------------------------------------------------------------------


def _document(
    args: argparse.Namespace, finding: Finding, patch: Patch | None, outcome: Outcome
) -> dict[str, Any]:
    document = new_document("explore", NAME, vars(args))
    document["scenario"] = document.pop("workload")
    if patch is not None:
        document["patch"]["file"] = patch.file
    document["from"] = {
        "run": finding.folder.name,
        "oracles": list(finding.oracles),
        "message": finding.message,
    }
    ended = "interrupted" if outcome.interrupted else "clean"
    document["outcome"] = "violation" if outcome.found is not None else ended
    document["strategy"] = "auto"
    document["executions"] = sum(each.executions for each in outcome.tried)
    document["seconds"] = outcome.seconds
    document["executions_per_second"] = document["executions"] / max(outcome.seconds, 1e-9)
    document["program"] = None if outcome.found is None else outcome.found.program.document()
    document["tried"] = [
        {
            "program": each.candidate.program.document(),
            "executions": each.executions,
            "seconds": each.seconds,
            "exhausted": each.exhausted,
            "error": each.error,
        }
        for each in outcome.tried
        if each.executions or each.error
    ]
    return document
