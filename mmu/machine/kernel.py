"""`@kernel`: the one door to numba, and all kernels compiled before the first is run."""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from llvmlite import binding

from mmu.machine.dispatch import (
    SOURCE_ROOT,
    CompiledFunction,
    KernelFunction,
    cache_root,
    toolchain,
)

# Inline assembly aborts the process unless the assembly parser was initialised first.
binding.initialize_native_asmparser()

Function = TypeVar("Function", bound=Callable[..., Any])
Progress = Callable[[int, int, float], None]


def _model_hash() -> str:
    digest = hashlib.sha256(toolchain().encode())
    for path in sorted((SOURCE_ROOT / "mmu").rglob("*.py")):
        digest.update(str(path.relative_to(SOURCE_ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


MODEL_HASH = _model_hash()  # names the model in documents: 16 hex digits

registry: list[KernelFunction] = []


def _registered(function: Callable[..., Any], inlined: bool) -> Any:
    compiled = KernelFunction(function, inlined)
    registry.append(compiled)
    return compiled


def kernel(function: Function) -> Function:
    """Compile `function` with numba; every argument is int64 but a first one called `cpu`.

    The result is called as the function was; `interpreted` (see `twin`) runs the same source
    uncompiled.  Kernels never raise: they return codes, and `warn` reports what must not be.
    """
    return cast("Function", _registered(function, inlined=False))


def inlined_kernel(function: Function) -> Function:
    """A `kernel` that its callers swallow whole: the few functions that each guest access runs.

    LLVM would leave them out of line for their size; every call costs about 3 ns here, since the
    machine's state is passed by value and each return carries a status.
    """
    return cast("Function", _registered(function, inlined=True))


def array_kernel(function: Function) -> Function:
    """Compile a function over arrays or addresses (parsing, observers): no part of the model."""
    return cast("Function", CompiledFunction(function))


def inlined_array_kernel(function: Function) -> Function:
    """An `array_kernel` that its callers swallow whole."""
    return cast("Function", CompiledFunction(function, inlined=True))


def settle(function: Callable[..., Any]) -> KernelFunction:
    """The compiled kernel behind a function that `kernel` returned: loaded or compiled now."""
    compiled = cast("KernelFunction", function)
    compiled.settle()
    return compiled


def warm(progress: Progress | None = None) -> float:
    """Compile or load every kernel imported so far; returns the seconds that it took.

    A second process that starts at the same time waits for the first instead of compiling the
    same code again.  `progress(done, total, seconds)` is called only if something has to be
    compiled.
    """
    began = time.monotonic()
    cache_root().mkdir(parents=True, exist_ok=True)
    with open(cache_root() / f"{MODEL_HASH}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = False
        for done, each in enumerate(registry):
            told = told or not each.prepare()
            if told and progress is not None:
                progress(done, len(registry), time.monotonic() - began)
            each.settle()
        if told and progress is not None:
            progress(len(registry), len(registry), time.monotonic() - began)
    return time.monotonic() - began
