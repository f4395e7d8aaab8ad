"""`@kernel`: the one door to numba, and the list of all kernels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

from llvmlite import binding

from mmu.machine.dispatch import (
    SOURCE_ROOT,
    CompiledFunction,
    KernelFunction,
    toolchain,
)

# Inline assembly aborts the process unless the assembly parser was initialised first.
binding.initialize_native_asmparser()

Function = TypeVar("Function", bound=Callable[..., Any])


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
