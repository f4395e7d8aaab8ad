"""Commands of tdprace in fresh interpreters, some at a time, none of whom is left behind.

What is to be done is a *chain*: a generator that yields the words of one command after the other,
gets back how each ended, and returns what it made of that.  Chains run beside each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Generic, TypeVar

from harness.bugs.catalogue import SOURCE_ROOT
from harness.bugs.tree import TREE_VARIABLE
from workloads.errors import MachineError

LOOK_S = 0.05
COMMAND_S_MAX = 900.0  # what a command may take, compiling included, on a busy machine
COLUMNS = 120

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    status: int
    out: str
    errors: str

    @property
    def complaint(self) -> str:
        """Its last words, in one line."""
        lines = self.errors.strip().splitlines()
        return lines[-1].removeprefix("tdprace: ") if lines else f"exit status {self.status}"


Chain = Generator[Sequence[str], Ended, Result]
# `look(names under way, results so far)` says whether to go on.
Look = Callable[[Sequence[str], Mapping[str, Result]], bool]


class Interpreters(Generic[Result]):
    """Runs chains, `jobs` of them at a time; `results` has what those returned that have ended."""

    def __init__(
        self, chains: Mapping[str, Chain[Result]], jobs: int, work: Path, columns: int = COLUMNS
    ) -> None:
        """Commands keep their temporary files in `work`, and tell for so many columns."""
        self.results: dict[str, Result] = {}
        self._waiting = dict(chains)
        self._jobs = jobs
        self._work = work.absolute()
        self._columns = columns
        self._under_way: dict[str, _Running[Result]] = {}

    def run(self, look: Look[Result] = lambda names, results: True) -> bool:
        """Until all have ended: True; or until `look` says no. Then all processes are gone."""
        try:
            while self._waiting or self._under_way:
                while self._waiting and len(self._under_way) < self._jobs:
                    name = next(iter(self._waiting))
                    self._go_on(name, self._waiting.pop(name), None)
                for name, running in list(self._under_way.items()):
                    if running.has_ended():
                        del self._under_way[name]
                        self._go_on(name, running.chain, running.ended())
                if not look(list(self._under_way), self.results):
                    return False
                time.sleep(LOOK_S)
        finally:
            for running in self._under_way.values():
                running.kill()
            self._under_way.clear()
        return True

    def _go_on(self, name: str, chain: Chain[Result], ended: Ended | None) -> None:
        """The chain's next command, or its end."""
        try:
            words = next(chain) if ended is None else chain.send(ended)
        except StopIteration as end:
            self.results[name] = end.value
            return
        self._under_way[name] = _Running(chain, words, self._work, self._columns)


class _Running(Generic[Result]):
    """A command under way."""

    def __init__(
        self, chain: Chain[Result], words: Sequence[str], work: Path, columns: int
    ) -> None:
        self.chain = chain
        self._deadline = time.monotonic() + COMMAND_S_MAX
        self._is_late = False
        paths = [str(SOURCE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "COLUMNS": str(columns),
            # What a command that is killed leaves behind goes with the folder.
            "TMPDIR": str(work),
        }
        environment.pop(TREE_VARIABLE, None)
        python = [sys.executable, "-P", "-m"]
        command = [*python, "harness.run.lifeline", str(os.getpid()), *python, "harness", *words]
        try:
            # Files, not pipes: a pipe that nobody empties stops who writes into it.
            self._out = tempfile.TemporaryFile(dir=work)  # noqa: SIM115 - closed when it has ended
            self._errors = tempfile.TemporaryFile(dir=work)  # noqa: SIM115 - closed as the other
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C is ours
            )
        except OSError as error:
            raise MachineError(f"{work}: cannot run a command: {error.strerror}") from error

    def has_ended(self) -> bool:
        if time.monotonic() > self._deadline:
            self._is_late = True
            self._process.kill()
            self._process.wait()
        return self._process.poll() is not None

    def ended(self) -> Ended:
        out, errors = _text(self._out), _text(self._errors)
        if self._is_late:
            errors += f"\nit did not end within {COMMAND_S_MAX:.0f} s"
        return Ended(self._process.returncode, out, errors)

    def kill(self) -> None:
        """Whatever it has forked dies with it."""
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._errors.close()
        self.chain.close()


def _text(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")
