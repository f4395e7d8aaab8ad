"""Every oracle is proved: each mutation of `proofs` is reported under its oracle's name.

`python -m tests.oracles.check` (make check-oracles) explores and stresses every mutated model, and
the clean model under the same scenarios and commands, which must not be accused.  `-j` runs so many
at once; ORACLE words restrict it to these.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.oracles.proofs import PROOFS, Proof, diff_of

EXPLORE_S = 20
CLEAN_S = 5
RUN_TIMEOUT_S = 600


@dataclass(frozen=True)
class Job:
    """One run of tdprace; without a mutation the clean model's."""

    command: str  # explore, stress
    words: tuple[str, ...]
    mutation: str = ""
    keep_going: bool = False


@dataclass(frozen=True)
class Done:
    """What it reported: oracles by name, executions (explore), how long it took."""

    oracles: frozenset[str]
    executions: int
    seconds: float
    error: str = ""


def jobs_of(proof: Proof) -> list[Job]:
    """The runs that must report it."""
    jobs = []
    if proof.scenario:
        jobs.append(Job("explore", (proof.scenario,), proof.mutation, proof.keep_going))
    if proof.stress:
        jobs.append(Job("stress", proof.stress, proof.mutation))
    return jobs


def run(job: Job) -> Done:
    """Run it; what it found."""
    words = [sys.executable, "-m", "harness", job.command, *job.words, "--quiet", "--json", "-"]
    if job.command == "explore":
        words += ["-j", "1", "--seconds", str(EXPLORE_S if job.mutation else CLEAN_S)]
    if job.mutation:
        words += ["--patch", str(diff_of(job.mutation))]
    if job.keep_going:
        words += ["--keep-going"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [*words, "--results", folder],
                capture_output=True,
                text=True,
                timeout=RUN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Done(frozenset(), 0, RUN_TIMEOUT_S, "it did not end")
    try:
        document = json.loads(done.stdout)
    except json.JSONDecodeError:
        return Done(frozenset(), 0, 0, (done.stderr.splitlines() or ["nothing was printed"])[-1])
    found = frozenset(violation["oracle"] for violation in document["violations"])
    error = "" if done.returncode in (0, 1) else (done.stderr.splitlines() or [""])[-1]
    if job.command == "explore":
        return Done(found, document["executions"], document["seconds"], error)
    return Done(found, 0, sum(phase["seconds"] for phase in document["phases"]), error)


def run_all(jobs: Iterable[Job], at_once: int) -> dict[Job, Done]:
    """Run each once, some at a time; a line of progress for each on stderr."""
    unique = list(dict.fromkeys(jobs))
    results: dict[Job, Done] = {}
    began = time.monotonic()

    def one(job: Job) -> None:
        results[job] = done = run(job)
        what = " ".join((job.command, *job.words, *([job.mutation] if job.mutation else [])))
        said = ", ".join(sorted(done.oracles)) or done.error or "nothing"
        passed = time.monotonic() - began
        print(
            f"[{len(results)}/{len(unique)}, {passed:.0f} s] {what}: {said}",
            file=sys.stderr,
            flush=True,
        )

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, unique))
    return results


def cell(oracle: str, job: Job, results: dict[Job, Done]) -> tuple[str, bool]:
    """What a table says about a run, and whether it is as it must be."""
    done = results[job]
    words = " ".join(job.words)
    if oracle not in done.oracles:
        instead = ", ".join(sorted(done.oracles)) or done.error or "nothing"
        return f"NOT by {job.command} {words} ({instead})", False
    if job.command == "explore":
        many = "" if done.executions == 1 else "s"
        return f"{words}, {done.executions:,} execution{many}, {done.seconds:.1f} s", True
    return f"{words}, {done.seconds:.1f} s", True


def report(results: dict[Job, Done], oracles: list[str]) -> int:
    """One line for each oracle and mutation, then the clean model; how many are wrong."""
    wrong = 0
    for oracle in oracles:
        for proof in PROOFS[oracle]:
            texts = {"explore": "-", "stress": "-"}
            for job in jobs_of(proof):
                texts[job.command], right = cell(oracle, job, results)
                wrong += not right
            print(
                f"{oracle:11}  {proof.mutation:42}"
                f"  explore: {texts['explore']}  stress: {texts['stress']}"
            )
    clean = [job for job in results if not job.mutation]
    for job in clean:
        done = results[job]
        if done.oracles or done.error:
            wrong += 1
            said = ", ".join(sorted(done.oracles)) or done.error
            print(f"clean model ACCUSED by {job.command} {' '.join(job.words)}: {said}")
    print(f"clean model: {len(clean)} scenarios and commands")
    return wrong


def main() -> int:
    """Run and report; 1 if an oracle is not proved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("oracles", nargs="*", metavar="ORACLE", help="these only (default: all)")
    parser.add_argument("-j", dest="at_once", type=int, default=os.cpu_count() or 1, metavar="N")
    args = parser.parse_args()
    oracles = args.oracles or list(PROOFS)
    for unknown in sorted(set(oracles) - set(PROOFS)):
        parser.error(f"no oracle is called {unknown}; there are {', '.join(PROOFS)}")
    began = time.monotonic()
    mutated = [job for oracle in oracles for proof in PROOFS[oracle] for job in jobs_of(proof)]
    clean = [Job(job.command, job.words) for job in mutated]
    results = run_all([*clean, *mutated], args.at_once)
    wrong = report(results, oracles)
    said = "all as it must be" if wrong == 0 else f"{wrong} WRONG"
    print(f"{len(results)} runs in {time.monotonic() - began:.0f} s: {said}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
