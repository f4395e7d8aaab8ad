"""All kernels compiled, on all cores, before the first is run."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from inspect import getclosurevars
from multiprocessing import get_context
from types import FunctionType

from numba.core.errors import NumbaError, UnsupportedBytecodeError

from harness.run.lifeline import die_with_parent
from mmu.machine.dispatch import KernelFunction, cache_root, settle_primitives
from mmu.machine.kernel import MODEL_HASH, registry
from workloads.errors import UsageError

HELPERS_MAX = 8  # chains of calls bound what more could gain

Progress = Callable[[int, int, float], None]


def warm(progress: Progress | None = None, kernels: Sequence[KernelFunction] = registry) -> float:
    """Compile or load kernels, or all imported so far; returns the seconds that it took.

    A second process that starts at the same time waits for the first instead of compiling the
    same code again.  `progress(done, total, seconds)` is called only if something has to be
    compiled.  UsageError for a kernel that numba cannot compile: where, which and why.
    """
    began = time.monotonic()

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, len(kernels), time.monotonic() - began)

    cache_root().mkdir(parents=True, exist_ok=True)
    with open(cache_root() / f"{MODEL_HASH}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        settle_all(kernels, tell)
    return time.monotonic() - began


def needed_by(
    functions: Iterable[object], known: Collection[KernelFunction] = ()
) -> list[KernelFunction]:
    """The kernels that functions name, be they kernels or Python, and all that those call.

    Those `known` are left out, with what they call.

    What Python reaches otherwise, as a method, is not among them: it is loaded, or compiled,
    when it is called.
    """
    found: dict[object, None] = {}
    waiting = list(functions)
    while waiting:
        function = waiting.pop()
        if function in found or function in known:
            continue
        if isinstance(function, KernelFunction):
            found[function] = None
            waiting += function.callees()
        elif isinstance(function, FunctionType):
            found[function] = None
            names = getclosurevars(function)
            named = (*names.globals.values(), *names.nonlocals.values())
            waiting += [each for each in named if isinstance(each, KernelFunction | FunctionType)]
    return [each for each in found if isinstance(each, KernelFunction)]


def settle_all(kernels: Sequence[KernelFunction], tell: Callable[[int], None]) -> None:
    """Load the kernels, callees first; what is not kept is compiled by helpers, one for each core.

    `tell(done)` is called from the first on that has to be compiled.
    """
    settle_primitives()
    helpers = _Helpers(kernels)
    try:
        _settle_in_order(kernels, helpers, tell)
    except (BrokenExecutor, CycleError):
        # A helper was killed: we can do it alone.  Or a kernel calls itself: `settle` says so.
        for each in kernels:
            _settle(each)
    finally:
        helpers.end()


def _settle_in_order(
    kernels: Sequence[KernelFunction], helpers: _Helpers, tell: Callable[[int], None]
) -> None:
    """Each kernel as soon as its callees are there: loaded here, but compiled elsewhere."""
    numbers = {each: number for number, each in enumerate(kernels)}
    order = TopologicalSorter(
        {
            number: [numbers[callee] for callee in each.callees() if callee in numbers]
            for each, number in numbers.items()
        }
    )
    order.prepare()
    done = 0
    while order.is_active():
        ready = order.get_ready()
        missing = [number for number in ready if not kernels[number].prepare()]
        for number in missing:
            helpers.compile(number)
        settled = [number for number in ready if number not in missing] or helpers.compiled()
        for number in settled:
            _settle(kernels[number])
            order.done(number)
        done += len(settled)
        if helpers.needed:
            tell(done)


def _settle(kernel: KernelFunction) -> None:
    """Load it, or compile what is not kept; UsageError with numba's first sentence."""
    try:
        kernel.settle()
    except (NumbaError, UnsupportedBytecodeError, NotImplementedError) as error:
        function = kernel.py_func
        where = getattr(error, "loc", None) or function.__code__.co_filename
        lines = [line.strip() for line in str(error).splitlines()]
        said = [line for line in lines if line and not line.startswith("Failed in nopython mode")]
        said[1:] = [line for line in said[1:2] if line.startswith(">>>")]  # an unfit call
        text = f"{where}: numba cannot compile {function.__name__}: {' '.join(said)}"
        raise UsageError(text) from error


class _Helpers:
    """Processes that compile kernels into the cache; they begin when the first is needed."""

    def __init__(self, kernels: Sequence[KernelFunction]) -> None:
        self._kernels = kernels
        self._pool: ProcessPoolExecutor | None = None
        self._running: dict[Future[None], int] = {}

    @property
    def needed(self) -> bool:
        """Whether there was anything to compile."""
        return self._pool is not None

    def compile(self, number: int) -> None:
        """Begin with a kernel whose callees are kept."""
        if self._pool is None:
            cores = len(os.sched_getaffinity(0))
            self._pool = ProcessPoolExecutor(
                min(cores, HELPERS_MAX),
                get_context("fork"),
                _begin,
                (self._kernels, os.getpid()),
            )
        # The first submit forks them all: Ctrl-C must not meet one that does not ignore it yet.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._running[self._pool.submit(_compile, number)] = number
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def compiled(self) -> list[int]:
        """Wait for the next; also those that a helper failed to compile.  May be BrokenExecutor."""
        ended = wait(self._running, return_when=FIRST_COMPLETED).done
        for each in ended:
            each.result()
        return [self._running.pop(each) for each in ended]

    def end(self) -> None:
        """They end with the kernel that they are at."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


_kernels: Sequence[KernelFunction] = ()  # in a helper


def _begin(kernels: Sequence[KernelFunction], parent_pid: int) -> None:
    global _kernels
    die_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who ends us
    gc.freeze()  # what the parent had loaded would be looked through again: a tenth of the time
    _kernels = kernels


def _compile(number: int) -> None:
    # What is wrong is said when the parent, who finds nothing kept, compiles it.
    with suppress(Exception):
        _kernels[number].settle()
