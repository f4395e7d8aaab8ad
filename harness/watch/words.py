"""What compiled observers are made of: words by address, the clock, and how to compile a hook.

An observer's own state lies outside the model's memory, so it cannot use the model's primitives.
Python bodies say what the machine code does.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing import signature
from numba.extending import lower_builtin, type_callable

from mmu.machine.dispatch import callback

Hook = Callable[[int, int, int, int, int, int], int]


def load_word(address: int, index: int) -> int:
    """Word `index` of the words at `address`."""
    return ctypes.c_int64.from_address(address + 8 * index).value


def store_word(address: int, index: int, value: int) -> None:
    """Change that word."""
    ctypes.c_int64.from_address(address + 8 * index).value = value


def ticks() -> int:
    """The time stamp counter (interpreted: nanoseconds)."""
    return time.monotonic_ns()


@cache
def compiled_hook(function: Hook) -> int:
    """Address of the callback made of `function(ctx, actor, kind, a, b, c)`; kept for good."""
    return compiled_function(function, 6)


@cache
def compiled_function(function: Callable[..., int], arguments: int = 2) -> int:
    """Address of the C function made of `function`, of int64 arguments; kept for good."""
    return callback(function, arguments)


def _pointer(builder: Any, address: Any, index: Any) -> Any:
    word = ir.IntType(64)
    place = builder.add(address, builder.shl(index, ir.Constant(word, 3)))
    return builder.inttoptr(place, word.as_pointer())


def _generate_load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    # Atomic, since other processes may change the word that a step is about.
    return builder.load_atomic(_pointer(builder, args[0], args[1]), "monotonic", 8)


def _generate_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    builder.store_atomic(args[2], _pointer(builder, args[0], args[1]), "monotonic", 8)
    return context.get_dummy_value()


def _generate_ticks(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    word = ir.IntType(64)
    counter = builder.module.declare_intrinsic(
        "llvm.readcyclecounter", (), ir.FunctionType(word, [])
    )
    return builder.call(counter, [])


def _type_ticks(context: Any) -> Any:
    return lambda: signature(types.int64)


def _type_load(context: Any) -> Any:
    return lambda address, index: signature(types.int64, types.int64, types.int64)


def _type_store(context: Any) -> Any:
    return lambda address, index, value: signature(types.void, *[types.int64] * 3)


# Called, not written as decorators: mypy cannot see numba's types there.
type_callable(load_word)(_type_load)
lower_builtin(load_word, types.int64, types.int64)(_generate_load)
type_callable(store_word)(_type_store)
lower_builtin(store_word, types.int64, types.int64, types.int64)(_generate_store)
type_callable(ticks)(_type_ticks)
lower_builtin(ticks)(_generate_ticks)


# --- An observer's own words: nobody else sees them, so the compiler may do as it likes ----------


def get(block: int, index: int) -> int:
    """Word `index` of the observer's own block at address `block`."""
    return load_word(block, index)


def put(block: int, index: int, value: int) -> None:
    """Change that word."""
    store_word(block, index, value)


def _generate_get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.load(_pointer(builder, args[0], args[1]), align=8)


def _generate_put(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    builder.store(args[2], _pointer(builder, args[0], args[1]), align=8)
    return context.get_dummy_value()


type_callable(get)(_type_load)
lower_builtin(get, types.int64, types.int64)(_generate_get)
type_callable(put)(_type_store)
lower_builtin(put, types.int64, types.int64, types.int64)(_generate_put)
