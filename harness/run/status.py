"""Live status of a run: one block that redraws itself in a terminal, a plain line elsewhere.

Drawn by the supervisor's own loop: no refresh thread, since workers are forked from this process.
Everything goes to stderr; stdout holds results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import psutil
from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.report.tables import rate, size
from harness.run.measure import actor_matrix
from mmu.machine import layout as at
from mmu.machine.cpu import Words
from mmu.vm import Vm

REDRAW_S = 0.25
PLAIN_LINE_S = 5.0
SHOWN_PROCESSES_MAX = 8


class Status:
    """Shows how far a phase is; `quiet` shows nothing."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._live: Live | None = None
        if not quiet and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start(refresh=False)
        self._processes: list[tuple[str, psutil.Process]] = []
        self._began = self._drawn = time.monotonic()
        self._last = (self._began, 0, 0)
        self._phase = ""

    def watch(self, names: Sequence[str], pids: Sequence[int]) -> None:
        """Whose memory and CPU time to show."""
        self._processes = []
        for name, pid in zip(names, pids, strict=True):
            try:
                process = psutil.Process(pid)
                process.cpu_percent()
            except psutil.Error:
                continue
            self._processes.append((name, process))

    def phase(self, title: str) -> None:
        """A new phase begins."""
        self._phase = title
        self._began = self._drawn = time.monotonic()
        self._last = (self._began, 0, 0)

    def tick(self, vm: Vm) -> None:
        """Redraw if it is time."""
        now = time.monotonic()
        every = REDRAW_S if self._live is not None else PLAIN_LINE_S
        if self._quiet or now - self._drawn < every:
            return
        self._drawn = now
        text = self._text(vm, now)
        if self._live is not None:
            self._live.update(Text(text), refresh=True)
        else:
            print(text.splitlines()[0], file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _text(self, vm: Vm, now: float) -> str:
        rows = actor_matrix(vm)
        accesses = int(rows[:, at.N_ACCESSES].sum())
        faults = int(rows[:, at.N_PF_TAKEN].sum())
        then, accesses_then, faults_then = self._last
        self._last = (now, accesses, faults)
        line = f"{self._phase}: {now - self._began:.0f} s"
        if accesses_then:
            elapsed = now - then
            line += f", {rate((accesses - accesses_then) / elapsed)} accesses"
            line += f", {rate((faults - faults_then) / elapsed)} faults"
        line += self._time_left(rows, now)
        line += f", {size(vm.block.bytes_backed())} shared"
        return line + "\n" + "\n".join(self._process_lines())

    def _time_left(self, rows: Words, now: float) -> str:
        work, done = int(rows[:, at.PHASE_WORK].sum()), int(rows[:, at.WORK_DONE].sum())
        if not 0 < done <= work:
            return ""
        left = (now - self._began) * (work - done) / done
        return f", {100 * done // work} %, {left:.0f} s left"

    def _process_lines(self) -> list[str]:
        cpu: list[float] = []
        lines = []
        resident = 0
        for name, process in self._processes:
            try:
                cpu.append(process.cpu_percent())
                memory = process.memory_info()
            except psutil.Error:
                continue
            private = memory.rss - memory.shared
            resident += private
            if len(self._processes) <= SHOWN_PROCESSES_MAX:
                lines.append(f"  {name:<10} {cpu[-1]:5.0f} % cpu  {size(private)} resident")
        if cpu and not lines:
            lines.append(
                f"  {len(cpu)} processes: {sum(cpu):.0f} % cpu in total, each"
                f" {min(cpu):.1f} to {max(cpu):.1f} %; {size(resident)} resident, shared by fork"
            )
        return lines
