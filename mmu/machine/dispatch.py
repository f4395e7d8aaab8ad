"""How kernels are compiled, kept and put together: each alone, and called by name.

numba links the machine code of all callees into each caller and optimises it there once more: a
model of 300 kernels is compiled many times over, and an edit of one compiles all of its callers.
Here a kernel is compiled by itself.  Its callers know its name and what it returns, and find it
when they are loaded; only small kernels, and those that say so, are linked in to be inlined.

Compiled code is kept under a digest of what it was made of: the kernel's bytecode, the values of
the constants that it names, the digests of what is linked into it, names and results of what it
calls, and the sources of the primitives.  So an edit, or a diff of a user, compiles what it
touches and nothing else, and yesterday's code can never run.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import os
import platform
import sys
from collections.abc import Callable, Iterator
from copy import copy
from functools import cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import BuiltinFunctionType, CodeType, ModuleType
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.ccallback import CFunc
from numba.core.dispatcher import Dispatcher
from numba.core.registry import CPUDispatcher

from mmu.machine.cpu import cpu_type

SOURCE_ROOT = Path(__file__).resolve().parents[2]
SMALL = 48  # bytecode instructions; LLVM may inline what is not larger
_LIBRARIES = ("builtins", "math", "numba", "numpy")  # what a kernel may call besides


class DependencyError(TypeError):
    """A kernel names something that its digest could not follow: the message says what."""


def cache_root() -> Path:
    """Where compiled code and patched trees are kept: `$XDG_CACHE_HOME/tdprace`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tdprace"


def global_names(code: CodeType) -> list[tuple[str, str]]:
    """Names that the code looks up outside itself, each with the attribute that it takes there.

    `co_names` would not do: it mixes them with the names of attributes.  The attribute is empty
    where the value itself is used.
    """
    instructions = [each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG"]
    names = set()
    for lookup, after in pairwise(instructions):
        if lookup.opname == "LOAD_GLOBAL":
            takes = after.opname in ("LOAD_ATTR", "LOAD_METHOD")
            names.add((str(lookup.argval), str(after.argval) if takes else ""))
    return sorted(names)


def _named_values(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """What the function and what is nested in it name outside: (name, value)."""
    scope = inspect.getclosurevars(function).nonlocals
    yield from scope.items()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for name, attribute in global_names(code):
            if name not in function.__globals__:
                continue  # a builtin
            value = function.__globals__[name]
            if isinstance(value, ModuleType):
                value = getattr(value, attribute)
            yield f"{name}.{attribute}", value


def _code_text(code: CodeType) -> str:
    """What the code does, without where it stands."""
    constants = [
        _code_text(each) if isinstance(each, CodeType) else each for each in code.co_consts
    ]
    parts = (code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars)
    return repr((*parts, code.co_cellvars, code.co_argcount, code.co_flags))


@cache
def _sources(path: Path) -> str:
    """Digest of a source file, or of all of a folder."""
    digest = hashlib.sha256()
    for each in [path] if path.is_file() else sorted(path.rglob("*.py")):
        digest.update(each.name.encode() + each.read_bytes())
    return digest.hexdigest()


@cache
def toolchain() -> str:
    """What makes all machine code: versions, and the primitives of this folder."""
    packages = [f"{name} {version(name)}" for name in ("numba", "llvmlite", "numpy")]
    return repr((packages, sys.version, platform.machine(), _sources(Path(__file__).parent)))


def _callable_text(value: Any) -> str:
    """A function that is no kernel: one of a library, or a primitive with its module's source."""
    home = inspect.getmodule(value)
    if isinstance(value, BuiltinFunctionType) or home is None:
        return repr(value)
    path = Path(inspect.getfile(home)).resolve() if hasattr(home, "__file__") else None
    if home.__name__.split(".")[0] in _LIBRARIES or path is None:
        return f"{home.__name__}.{value.__qualname__}"
    return f"{home.__name__}.{value.__qualname__} {_sources(path)}"


def _value_text(owner: Callable[..., Any], name: str, value: Any) -> str:
    """What compiled code knows of a value that it names."""
    if isinstance(value, CompiledFunction):
        return value.text_for_callers()
    if isinstance(value, Dispatcher):
        return digest_of(value.py_func)
    if isinstance(value, bool | int | float | str | bytes | tuple | type(None)):
        return repr(value)
    if isinstance(value, np.ndarray):
        # numba copies a table that is named into the code, as it is now.
        return f"{value.dtype.str} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if callable(value):
        return _callable_text(value)
    raise DependencyError(
        f"{owner.__module__}.{owner.__qualname__} names {name}, a {type(value).__name__}: compiled"
        " code may name numbers, texts, tuples and arrays of them, and functions"
    )


def digest_of(function: Callable[..., Any], flavour: str = "") -> str:
    """24 hex digits over all that the function's machine code depends on.

    Raises `DependencyError` if it names what cannot be followed.  Kernels that it calls must be
    compiled: what they return is part of it.
    """
    texts = [
        f"{name}={_value_text(function, name, value)}" for name, value in _named_values(function)
    ]
    whole = repr((toolchain(), flavour, _code_text(function.__code__), sorted(texts)))
    return hashlib.sha256(whole.encode()).hexdigest()[:24]


# --- Files ---------------------------------------------------------------------------------------


class _Locator(_CacheLocator):  # type: ignore[misc]  # numba is untyped
    """Compiled code lies under its module's name and digest, whatever file it came from."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._digest = _digests[function]
        self._folder = cache_root() / "compiled" / function.__module__

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return self._digest

    def get_disambiguator(self) -> str:
        return self._digest

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> _Locator:
        locator = cls(function)
        locator.ensure_cache_path()
        return locator


class _Files(CompileResultCacheImpl):  # type: ignore[misc]  # numba is untyped
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):  # type: ignore[misc]  # numba is untyped
    _impl_class = _Files


_digests: dict[Callable[..., Any], str] = {}


_primitive_kernels: list[KernelFunction] = []


def settle_primitives(before: Any = None) -> None:
    """Have the kernels of this folder, all or those `before` one, ready.

    The code of a primitive may call them, and no name in its caller's bytecode says so.
    """
    for each in _primitive_kernels:
        if each is before:
            return
        each.settle()


def _is_kept(files: _Cache) -> bool:
    return Path(files._cache_file._index_path).exists()


def _cache_for(function: Callable[..., Any], flavour: str) -> _Cache:
    _digests[function] = digest_of(function, flavour)
    return _Cache(function)


# --- Functions -----------------------------------------------------------------------------------


class CompiledFunction(CPUDispatcher):  # type: ignore[misc]  # numba is untyped
    """A numba function that is kept under its digest, and linked into what calls it."""

    def __init__(self, function: Callable[..., Any], inlined: bool = False) -> None:
        options = {
            "nopython": True,
            "nogil": True,
            "error_model": "numpy",
            "no_cfunc_wrapper": True,
        }
        if inlined:
            options["forceinline"] = True
        self._ready = self._preparing = self._settled = False
        self._flavour = "inlined" if inlined else ""
        super().__init__(function, targetoptions=options)

    def compile(self, signature: Any) -> Any:
        """Compile for a signature, or load what is kept; callees come first."""
        self.prepare()
        return super().compile(signature)

    def prepare(self) -> bool:
        """Compile or load what it calls, and know where it is kept itself: whether it is there."""
        if not self._ready:
            if self._preparing:
                raise DependencyError(f"{self.__module__}.{self.__qualname__} calls itself")
            self._preparing = True
            try:
                settle_primitives(before=self)
                self._cache = _cache_for(self.py_func, self._flavour)
            finally:
                # What is wrong is said at each call, not "calls itself" from the second on.
                self._preparing = False
            self._ready = True
        return _is_kept(self._cache)

    def text_for_callers(self) -> str:
        """What a caller's machine code depends on: all of it, since it is linked in."""
        self.prepare()
        return _digests[self.py_func]

    def signature(self) -> tuple[Any, ...]:
        """Of all integers, but for a first parameter called `cpu`."""
        names = inspect.signature(self.py_func).parameters
        return tuple(cpu_type if name == "cpu" else numba.int64 for name in names)

    def settle(self) -> None:
        """Compile it for its signature and refuse all others: bools and small integers convert."""
        if self._settled:
            return
        if self.signature() not in self.overloads:
            self.compile(self.signature())
        self.disable_compile()
        self._settled = True


class KernelFunction(CompiledFunction):
    """A kernel: one signature, `(cpu, int64...)`; unless it is small, callers call it by name."""

    def __init__(self, function: Callable[..., Any], inlined: bool = False) -> None:
        super().__init__(function, inlined)
        size = sum(1 for _ in dis.get_instructions(function.__code__))
        # What a function makes has no name of its own.
        self.linked_in = inlined or size <= SMALL or "<locals>" in function.__qualname__
        if function.__module__.startswith(f"{__package__}."):
            _primitive_kernels.append(self)

    def text_for_callers(self) -> str:
        """Name and result, which callers are compiled for; all of it where it is linked in."""
        self.settle()
        if self.linked_in:
            return super().text_for_callers()
        return self._symbol(self.overloads[self.signature()])

    def callees(self) -> list[KernelFunction]:
        """The kernels that it names itself; primitives may come in besides."""
        return [
            value for _, value in _named_values(self.py_func) if isinstance(value, KernelFunction)
        ]

    def add_overload(self, result: Any) -> None:
        """Let callers call it by name, wherever it lies, in place of linking it in."""
        super().add_overload(result)
        if self.linked_in or tuple(result.signature.args) != self.signature():
            return
        symbol = self._symbol(result)
        address = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
        binding.add_symbol(symbol, address)
        named = copy(result.fndesc)
        named.mangled_name = symbol
        self.targetctx.remove_user_function(result.entry_point)
        self.targetctx.insert_user_function(result.entry_point, named, [])

    def _symbol(self, result: Any) -> str:
        function = self.py_func
        arguments = len(result.signature.args)
        returned = result.signature.return_type
        return f"tdprace:{function.__module__}.{function.__qualname__}/{arguments}:{returned}"


def callback_is_kept(function: Callable[..., int]) -> bool:
    """Whether `callback` has its code already (its kernels are compiled for this answer)."""
    return _is_kept(_cache_for(function, "callback"))


class _Callback(CFunc):
    """A C function that is kept under its digest."""

    def __init__(self, function: Callable[..., int], arguments: int) -> None:
        signature = numba.int64(*[numba.int64] * arguments)
        super().__init__(function, (signature.args, signature.return_type), {}, {})
        settle_primitives()
        self._cache = _cache_for(function, "callback")
        self.compile()


def callback(function: Callable[..., int], arguments: int) -> int:
    """Address of the C function made of a Python function of int64 arguments; kept for good."""
    made = _Callback(function, arguments)
    _callbacks.append(made)
    assert made.address is not None, "numba gave no address"
    return int(made.address)


_callbacks: list[Any] = []
