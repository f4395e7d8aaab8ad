"""`Cpu`: what every kernel takes first, a handful of integers that travel in registers.

Rejected: a numpy array argument (seven registers and a reference count per call) and one raw
base pointer with everything else read from memory (a load per step to learn whether anybody
watches).  Compiled code sees a plain struct; interpreted code sees this object itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.core import cgutils
from numba.extending import (
    NativeValue,
    make_attribute_wrapper,
    models,
    register_model,
    typeof_impl,
    unbox,
)

FIELDS = ("base", "id", "hook", "ctx", "geometry", "own")

Words = npt.NDArray[np.int64]
Observer = Callable[[int, int, int, int], int]


class Cpu:
    """One actor's view of the machine.

    Attributes:
        base: address of word 0 of the shared block.
        id: the actor's number, 0 to `ACTORS_MAX` - 1.
        hook: address of the observer's compiled callback, 0 if nobody watches; negated if it is to
            hear of broken rules and tracepoints only (but the `FREQUENT` ones): all else then costs
            what it costs unwatched.
        ctx: address of the observer's own block (never inside the model's memory).
        geometry: bits per level, `levels << 8` above them.
        own: index of the first word of the actor's own block.
        words: the shared block as an array, for interpreted code (int64, shape (words,)).
        observer: what interpreted code calls in place of `hook`.
    """

    __slots__ = (*FIELDS, "observer", "words")

    def __init__(
        self,
        words: Words,
        *,
        actor: int = 0,
        own: int = 0,
        geometry: int = 9 | 4 << 8,
        hook: int = 0,
        ctx: int = 0,
        observer: Observer | None = None,
    ) -> None:
        self.base = int(words.ctypes.data)
        self.id = actor
        self.hook = hook
        self.ctx = ctx
        self.geometry = geometry
        self.own = own
        self.words = words
        self.observer = observer


class CpuType(types.Type):
    """The compiled side of `Cpu`."""

    def __init__(self) -> None:
        super().__init__(name="Cpu")


cpu_type = CpuType()


@typeof_impl.register(Cpu)
def _typeof_cpu(value: Cpu, context: Any) -> CpuType:
    return cpu_type


@register_model(CpuType)
class _CpuModel(models.StructModel):
    def __init__(self, manager: Any, fe_type: CpuType) -> None:
        super().__init__(manager, fe_type, [(name, types.int64) for name in FIELDS])


for _name in FIELDS:
    make_attribute_wrapper(CpuType, _name, _name)


@unbox(CpuType)
def _unbox_cpu(typ: CpuType, obj: Any, context: Any) -> NativeValue:
    struct = cgutils.create_struct_proxy(typ)(context.context, context.builder)
    for name in FIELDS:
        attribute = context.pyapi.object_getattr_string(obj, name)
        setattr(struct, name, context.pyapi.long_as_longlong(attribute))
        context.pyapi.decref(attribute)
    is_error = cgutils.is_not_null(context.builder, context.pyapi.err_occurred())
    return NativeValue(struct._getvalue(), is_error=is_error)
