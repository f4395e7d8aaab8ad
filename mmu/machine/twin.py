"""The interpreted twin: the same kernels run as plain Python, step for step the same.

A kernel's Python function still holds the names of compiled kernels in its globals.  Here it is
rebuilt around the same code object with globals of its own, in which every kernel is replaced by
its twin, and so on down the call graph.  Primitives stay what they are: their Python bodies are
their meaning, and ask `Cpu.observer` where compiled code calls `Cpu.hook`.

Rejected: `NUMBA_DISABLE_JIT=1`, which is for a whole process and still compiles callbacks; and
swapping names inside the modules, which would change the model under whoever runs it compiled.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast

from numba.core.dispatcher import Dispatcher

from mmu.machine.dispatch import global_names

Function = TypeVar("Function", bound=Callable[..., Any])
Substitutes = Mapping[Callable[..., Any], Callable[..., Any]]


class TwinError(TypeError):
    """A kernel is written in a way that its twin could not follow: the message says what."""


class _Loader:
    """The twins of all kernels that were asked for, each built once."""

    def __init__(self, substitutes: Substitutes) -> None:
        self._substitutes = dict(substitutes)
        self._twins: dict[Any, FunctionType] = {}

    def load(self, kernel: Any) -> FunctionType:
        """The twin of one kernel and, before it is first run, of all that it calls."""
        if kernel in self._twins:
            return self._twins[kernel]
        source: FunctionType = kernel.py_func
        _refuse_unfollowable(source)
        names: dict[str, Any] = {"__name__": source.__module__, "__builtins__": builtins}
        twin = FunctionType(source.__code__, names, source.__name__, source.__defaults__)
        twin.__kwdefaults__ = source.__kwdefaults__
        twin.__qualname__ = source.__qualname__
        twin.__doc__ = source.__doc__
        # Known before its callees are looked at: kernels may call each other in a circle.
        self._twins[kernel] = twin
        for name, attribute in global_names(source.__code__):
            if name in source.__globals__:
                value = source.__globals__[name]
                if isinstance(value, ModuleType):
                    _refuse_function_of_module(source, value, attribute)
                names[name] = self._counterpart(value)
            elif not hasattr(builtins, name):
                raise TwinError(f"{_where(source)}: name {name!r} is not defined")
        return twin

    def _counterpart(self, value: Any) -> Any:
        """What stands for `value` in interpreted code."""
        if isinstance(value, Dispatcher):
            substitute = self._substitutes.get(value)
            return self.load(value) if substitute is None else substitute
        if callable(value):
            return self._substitutes.get(value, value)
        return value


_shared = _Loader({})


def interpreted(kernel: Function, substitutes: Substitutes | None = None) -> Function:
    """The twin of `kernel`: same source, same arguments, no machine code.

    It takes a `Cpu` whose `observer` it asks in place of `hook`.  What compiled code returns as
    0 or 1 may come back as a bool.  `substitutes` gives other callables for some of the kernels
    or primitives, by the original: tests prove with it that a difference would be seen.

    Raises TwinError if the kernel, or one that it calls, nests functions, closes over names, or
    takes anything but a number from a module.
    """
    if not isinstance(kernel, Dispatcher):
        raise TwinError(f"{kernel!r} is no kernel: only what `@kernel` made has a twin")
    loader = _shared if substitutes is None else _Loader(substitutes)
    return cast("Function", loader.load(kernel))


def _refuse_function_of_module(source: FunctionType, module: ModuleType, attribute: str) -> None:
    """Raise TwinError unless the attribute is a plain number: a kernel would run compiled."""
    if not isinstance(getattr(module, attribute, None), int):
        raise TwinError(
            f"{_where(source)}: takes {attribute or 'something'!r} from module"
            f" {module.__name__}; import the name itself, so that its twin can take its place"
        )


def _refuse_unfollowable(source: FunctionType) -> None:
    """Raise TwinError for code whose globals cannot all be seen and replaced."""
    code = source.__code__
    if any(isinstance(constant, CodeType) for constant in code.co_consts):
        raise TwinError(f"{_where(source)}: holds a nested function, lambda or comprehension")
    if code.co_freevars:
        names = ", ".join(code.co_freevars)
        raise TwinError(f"{_where(source)}: closes over {names}; pass values as arguments")


def _where(source: FunctionType) -> str:
    return f"kernel {source.__module__}.{source.__qualname__}"
