"""`@kernel`: the one door to numba, and the cache that never runs yesterday's code.

numba keys a cached function by its own file only: an edit in an imported file keeps old machine
code alive.  So the cache lives in a folder named after a hash of *all* sources that kernels can
be made of, plus the versions that produce code.  That must be set before numba is imported,
which is why this module sets it at import and imports numba afterwards.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

SOURCE_ROOT = Path(__file__).resolve().parents[2]
KERNEL_FOLDERS = ("mmu", "workloads/actors", "workloads/traces", "harness/watch")


def model_hash() -> str:
    """16 hex digits over every source file that compiled code can come from, and versions."""
    digest = hashlib.sha256()
    for package in ("numba", "llvmlite", "numpy"):
        digest.update(f"{package} {version(package)} ".encode())
    digest.update(f"{sys.version} {platform.machine()}".encode())
    for folder in KERNEL_FOLDERS:
        for path in sorted((SOURCE_ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(SOURCE_ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_root() -> Path:
    """Where compiled code and patched trees are kept: `$XDG_CACHE_HOME/tdprace`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tdprace"


MODEL_HASH = model_hash()
CACHE_DIR = cache_root() / MODEL_HASH
os.environ["NUMBA_CACHE_DIR"] = str(CACHE_DIR)

import numba  # noqa: E402  (the cache folder is read when numba is imported)
from llvmlite import binding  # noqa: E402  (as above)

from mmu.machine.cpu import cpu_type  # noqa: E402  (it imports numba)

# Inline assembly aborts the process unless the assembly parser was initialised first.
binding.initialize_native_asmparser()
numba.config.CACHE_DIR = str(CACHE_DIR)

Function = TypeVar("Function", bound=Callable[..., Any])
Progress = Callable[[int, int, float], None]


class Kernel(Protocol):
    """What `kernel` returns, as far as others may rely on it."""

    py_func: Callable[..., Any]

    signatures: list[Any]

    def compile(self, signature: Any) -> Any:
        """Compile for one signature, or load it from the cache."""

    def disable_compile(self) -> None:
        """Refuse every other signature."""


registry: list[Kernel] = []


def kernel(function: Function) -> Function:
    """Compile `function` with numba; every argument is int64 but a first one called `cpu`.

    The result is called as the function was; `interpreted` (see `twin`) runs the same source
    uncompiled.  Kernels never raise: they return codes, and `warn` reports what must not be.
    """
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    registry.append(compiled)
    return cast("Function", compiled)


def inlined_kernel(function: Function) -> Function:
    """A `kernel` that its callers swallow whole: the few functions that each guest access runs.

    LLVM would leave them out of line for their size; every call costs about 3 ns here, since the
    machine's state is passed by value and each return carries a status.
    """
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(
        function
    )
    registry.append(compiled)
    return cast("Function", compiled)


def array_kernel(function: Function) -> Function:
    """Compile a function over numpy arrays (trace parsing and the like): no part of the model."""
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast("Function", compiled)


def signature_of(compiled: Kernel) -> tuple[Any, ...]:
    """The one signature that a kernel has, by its parameters' names."""
    names = inspect.signature(compiled.py_func).parameters
    return tuple(cpu_type if name == "cpu" else numba.int64 for name in names)


def _name(compiled: Kernel) -> str:
    return f"{compiled.py_func.__module__}.{compiled.py_func.__qualname__}"


def warm(progress: Progress | None = None) -> float:
    """Compile or load every kernel imported so far; returns the seconds that it took.

    Always all of them, callees first: a caller that is compiled before its cached callee is
    loaded would have the callee compiled once more for literals and bools.  A second process
    that starts at the same time waits for the first instead of compiling the same code again.
    `progress(done, total, seconds)` is called only if something has to be compiled.
    """
    began = time.monotonic()
    CACHE_DIR.mkdir(parents=True, exist_ok=True)
    with open(CACHE_DIR / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compiled_list = CACHE_DIR / "compiled.txt"
        known = set(compiled_list.read_text().split()) if compiled_list.exists() else set()
        names = {_name(each) for each in registry}
        missing = names - known
        done = 0
        for each in registry:
            if progress is not None and _name(each) in missing:
                progress(done, len(missing), time.monotonic() - began)
                done += 1
            _compile(each)
        if missing:
            compiled_list.write_text("\n".join(sorted(known | names)))
            if progress is not None:
                progress(done, len(missing), time.monotonic() - began)
    return time.monotonic() - began


def _compile(compiled: Kernel) -> None:
    """Compile for the one signature; callers with bools or small integers convert to it."""
    if signature_of(compiled) not in compiled.signatures:
        compiled.compile(signature_of(compiled))
    compiled.disable_compile()
