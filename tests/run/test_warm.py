"""Kernels compiled by helpers: callees first, each once, and nobody left behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from harness.run import warm
from mmu.machine.dispatch import SOURCE_ROOT, DependencyError, KernelFunction
from workloads.errors import UsageError

LONG = "\n".join(["    a = a * 3 + 1"] * 12)
CHAIN = f"""
from mmu.machine.dispatch import KernelFunction

@KernelFunction
def left(cpu, a):
{LONG}
    return a

@KernelFunction
def right(cpu, a):
{LONG}
    return a - 1

@KernelFunction
def both(cpu, a):
    return left(cpu, a) + right(cpu, a)
"""
WRONG = f"{CHAIN}\n@KernelFunction\ndef wrong(cpu, a):\n    return both(cpu, a) + 'text'\n"
CIRCLE = f"{CHAIN}\n@KernelFunction\ndef circle(cpu, a):\n    return circle(cpu, a - 1)\n"
WARM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" ignores it
from harness.run.warm import warm
import mmu.vm
warm(lambda done, total, seconds: print(done, total, flush=True))
"""
ENDED_S = 30.0

Load = Callable[[str], list[KernelFunction]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Makes kernels of a source text, last first; what is compiled goes to a folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def load(source: str) -> list[KernelFunction]:
        path = tmp_path / "sample.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("sample", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "sample", module)  # what is kept names its module
        spec.loader.exec_module(module)
        made = [each for each in vars(module).values() if isinstance(each, KernelFunction)]
        return made[::-1]

    return load


def compiled_here(kernels: list[KernelFunction]) -> int:
    return sum(sum(each.stats.cache_misses.values()) for each in kernels)


def test_helpers_compile_and_the_next_process_finds_it_kept(load: Load) -> None:
    told: list[int] = []
    kernels = load(CHAIN)
    warm.settle_all(kernels, told.append)
    assert all(each.overloads for each in kernels)
    assert compiled_here(kernels) == 0
    assert told == sorted(told)
    assert told[-1] == len(kernels)
    again = load(CHAIN)
    warm.settle_all(again, lambda done: pytest.fail("all of it is kept"))
    assert all(each.overloads for each in again)


def test_each_is_compiled_once(load: Load, tmp_path: Path) -> None:
    warm.settle_all(load(CHAIN), lambda done: None)
    kept = sorted(path.name.split("-")[0] for path in (tmp_path / "cache").rglob("*.nbc"))
    assert kept == ["sample.both", "sample.left", "sample.right"]


@pytest.mark.parametrize(
    ("source", "error", "says"),
    [(WRONG, UsageError, "sample.py.*cannot compile wrong"), (CIRCLE, DependencyError, "itself")],
)
def test_what_cannot_be_compiled_is_said_here(
    load: Load, source: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        warm.settle_all(load(source), lambda done: None)


def test_what_functions_need(load: Load) -> None:
    both, right, left = load(CHAIN)
    assert set(warm.needed_by([both])) == {both, right, left}
    assert warm.needed_by([right]) == [right]
    assert warm.needed_by([both], {right}) == [both, left]

    def setup() -> object:
        return then()

    def then() -> object:
        return left(None, 1)

    assert warm.needed_by([setup, setup]) == [left]


def test_without_helpers_it_is_compiled_here(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "die_with_parent", lambda parent_pid: os._exit(1))
    kernels = load(CHAIN)
    warm.settle_all(kernels, lambda done: None)
    assert compiled_here(kernels) == len(kernels)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_helpers_end_with_their_parent(tmp_path: Path, how: signal.Signals) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(SOURCE_ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", WARM],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        helpers = psutil.Process(process.pid).children()
        assert len(helpers) == min(len(os.sched_getaffinity(0)), warm.HELPERS_MAX)
        if how is signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, how)  # as a terminal does
        said = process.communicate(timeout=ENDED_S)[1]
        assert psutil.wait_procs(helpers, ENDED_S)[1] == []
        assert said.count("Traceback") == (how is signal.SIGINT)
    finally:
        process.kill()
        process.wait()
