"""`@kernel`: the one door to numba, and the cache that never runs yesterday's code.

numba keys a cached function by its own file only: an edit in an imported file keeps old machine
code alive.  So compiled code lives in a folder named after a hash of *all* sources that it can be
made of, plus the versions that produce code.  There is one such folder per layer: the model, the
workloads' kernels above it, the harness' observers, and files of users; an edit of an observer
does not compile the model again.  The root must be set before numba is imported, which is why
this module sets it at import and imports numba afterwards.
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
_MODEL = ("mmu",)
_WORKLOADS = (
    *_MODEL,
    "workloads/actors",
    "workloads/litmus",
    "workloads/scenarios",
    "workloads/traces",
)
_HARNESS = (*_MODEL, "harness/watch", "harness/oracles", "harness/explore")
# What compiled code of each layer can come from.
KERNEL_FOLDERS = {
    "mmu": _MODEL,
    "workloads": _WORKLOADS,
    "harness": _HARNESS,
    "": tuple(dict.fromkeys((*_WORKLOADS, *_HARNESS))),  # files of users and tests
}


def source_hash(folders: tuple[str, ...] = _MODEL) -> str:
    """16 hex digits over every source file in `folders`, and the versions that compile them."""
    digest = hashlib.sha256()
    for package in ("numba", "llvmlite", "numpy"):
        digest.update(f"{package} {version(package)} ".encode())
    digest.update(f"{sys.version} {platform.machine()}".encode())
    for folder in folders:
        for path in sorted((SOURCE_ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(SOURCE_ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def cache_root() -> Path:
    """Where compiled code and patched trees are kept: `$XDG_CACHE_HOME/tdprace`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tdprace"


MODEL_HASH = source_hash()
CACHE_DIR = cache_root() / MODEL_HASH
_LAYER_DIRS = {
    layer: CACHE_DIR / f"{layer or 'user'}-{source_hash(folders)}"
    for layer, folders in KERNEL_FOLDERS.items()
}
os.environ["NUMBA_CACHE_DIR"] = str(CACHE_DIR)

import numba  # noqa: E402  (the cache folder is read when numba is imported)
from llvmlite import binding  # noqa: E402  (as above)

from mmu.machine.cpu import cpu_type  # noqa: E402  (it imports numba)

# Inline assembly aborts the process unless the assembly parser was initialised first.
binding.initialize_native_asmparser()

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


def use_layer_cache(function: Callable[..., Any]) -> Path:
    """Have what numba decorates next cached in its own layer's folder, which is returned.

    Cached code names its module: a file that is imported under another name than its place gives
    it (a user's scenario, a test) has a folder for each of its names.
    """
    path = Path(function.__code__.co_filename).resolve()
    layer, name = "", ""
    if path.is_relative_to(SOURCE_ROOT):
        parts = path.relative_to(SOURCE_ROOT).with_suffix("").parts
        layer, name = parts[0] if parts[0] in _LAYER_DIRS else "", ".".join(parts)
    folder = _LAYER_DIRS[layer]
    if function.__module__ != name:
        folder /= function.__module__
    numba.config.CACHE_DIR = str(folder)
    return folder


def _compiled(function: Callable[..., Any], **options: bool) -> Any:
    use_layer_cache(function)
    return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)


def kernel(function: Function) -> Function:
    """Compile `function` with numba; every argument is int64 but a first one called `cpu`.

    The result is called as the function was; `interpreted` (see `twin`) runs the same source
    uncompiled.  Kernels never raise: they return codes, and `warn` reports what must not be.
    """
    compiled = _compiled(function)
    registry.append(compiled)
    return cast("Function", compiled)


def inlined_kernel(function: Function) -> Function:
    """A `kernel` that its callers swallow whole: the few functions that each guest access runs.

    LLVM would leave them out of line for their size; every call costs about 3 ns here, since the
    machine's state is passed by value and each return carries a status.
    """
    compiled = _compiled(function, forceinline=True)
    registry.append(compiled)
    return cast("Function", compiled)


def array_kernel(function: Function) -> Function:
    """Compile a function over arrays or addresses (parsing, observers): no part of the model."""
    return cast("Function", _compiled(function))


def inlined_array_kernel(function: Function) -> Function:
    """An `array_kernel` that its callers swallow whole."""
    return cast("Function", _compiled(function, forceinline=True))


def signature_of(compiled: Kernel) -> tuple[Any, ...]:
    """The one signature that a kernel has, by its parameters' names."""
    names = inspect.signature(compiled.py_func).parameters
    return tuple(cpu_type if name == "cpu" else numba.int64 for name in names)


def _name(compiled: Kernel) -> str:
    function = compiled.py_func
    folder = use_layer_cache(function).relative_to(CACHE_DIR)
    return f"{folder}:{function.__module__}.{function.__qualname__}"


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
