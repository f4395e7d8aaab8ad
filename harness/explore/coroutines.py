"""Actors as coroutines: own stacks, a switch of a dozen instructions, calls by address.

Compiled actors call the observer's hook deep inside the model; to run somebody else there, the
hook changes stacks.  An actor can be dropped half-way: the next execution writes a fresh first
frame on its stack.  x86-64 System V only.

Rejected: greenlet (a switch costs 132 ns and needs the interpreter's lock, dropping an actor
inside compiled code crashes) and threads (a futex hand-over costs microseconds).
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing import signature
from numba.extending import lower_builtin, type_callable

from mmu.machine.cpu import cpu_type
from mmu.machine.dispatch import KernelFunction
from workloads.errors import UsageError

STACK_BYTES = 128 << 10
GUARD_BYTES = 4096
PROT_NONE = 0
_WORD = ir.IntType(64)
_I64 = types.int64

_SWITCH = """
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    retq
"""
# A fresh stack's first return address: r12 is the function, rbx its argument.  It never returns.
_ENTRY = """
    movq %rbx, %rdi
    callq *%r12
    ud2
"""


def switch_stack(save: int, stack: int) -> None:
    """Store the stack pointer at address `save`, go on where `stack` was left."""
    raise NotImplementedError("only compiled")


def entry_address() -> int:
    """Where a fresh stack begins."""
    raise NotImplementedError("only compiled")


def call_body(
    body: int, base: int, actor: int, hook: int, ctx: int, geometry: int, own: int
) -> int:
    """Run an actor's kernel (see `body_address`); 0, or not 0 if it raised."""
    raise NotImplementedError("only compiled")


def call_check(check: int, base: int, hook: int, ctx: int, geometry: int, own: int) -> int:
    """Run a kernel that returns a number (see `check_address`); the number, -1 if it raised."""
    raise NotImplementedError("only compiled")


def call(function: int, ctx: int, argument: int) -> int:
    """Call a compiled `function(ctx, argument)` by its address (see `compiled_function`)."""
    raise NotImplementedError("only compiled")


def copy_words(target: int, source: int, words: int) -> None:
    """memcpy."""
    ctypes.memmove(target, source, 8 * words)


def _naked(builder: Any, name: str, arguments: int, text: str) -> Any:
    """A function of the module that is nothing but `text`: no prologue, no red zone."""
    prototype = ir.FunctionType(ir.VoidType(), [_WORD] * arguments)
    found = builder.module.globals.get(name)
    if found is not None:
        return found
    function = ir.Function(builder.module, prototype, name)
    function.linkage = "internal"
    for attribute in ("naked", "noinline"):
        function.attributes.add(attribute)
    inner = ir.IRBuilder(function.append_basic_block("entry"))
    inner.asm(ir.FunctionType(ir.VoidType(), []), text, "", [], side_effect=True)
    inner.unreachable()
    return function


def _generate_switch(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    function = _naked(builder, "tdprace_switch", 2, _SWITCH)
    builder.call(function, args)
    return context.get_dummy_value()


def _generate_entry(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.ptrtoint(_naked(builder, "tdprace_entry", 0, _ENTRY), _WORD)


def _call_numba(builder: Any, address: Any, result: Any, cpu: list[Any]) -> tuple[Any, Any]:
    """Call a numba function of `(cpu)` by its address; (status, pointer to its result)."""
    status = ir.IntType(32)
    byte_pointer = ir.IntType(8).as_pointer()
    prototype = ir.FunctionType(
        status, [result.as_pointer(), byte_pointer.as_pointer(), *[_WORD] * 6]
    )
    with builder.goto_entry_block():
        place = builder.alloca(result)
        error = builder.alloca(byte_pointer)
    builder.store(ir.Constant(result, None), place)  # a bool is written to its first byte only
    function = builder.inttoptr(address, prototype.as_pointer())
    return builder.call(function, [place, error, *cpu]), place


def _generate_body(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    status, _ = _call_numba(builder, args[0], ir.IntType(8).as_pointer(), list(args[1:]))
    return builder.sext(status, _WORD)


def _generate_check(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    check, base, hook, ctx, geometry, own = args
    actor = ir.Constant(_WORD, 0)
    status, place = _call_numba(builder, check, _WORD, [base, actor, hook, ctx, geometry, own])
    fine = builder.icmp_signed("==", status, ir.Constant(ir.IntType(32), 0))
    return builder.select(fine, builder.load(place), ir.Constant(_WORD, -1))


def _generate_call(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    prototype = ir.FunctionType(_WORD, [_WORD, _WORD])
    return builder.call(builder.inttoptr(args[0], prototype.as_pointer()), list(args[1:]))


def _generate_copy(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    byte_pointer = ir.IntType(8).as_pointer()
    memcpy = builder.module.declare_intrinsic("llvm.memcpy", [byte_pointer, byte_pointer, _WORD])
    target, source = (builder.inttoptr(each, byte_pointer) for each in args[:2])
    size = builder.shl(args[2], ir.Constant(_WORD, 3))
    builder.call(memcpy, [target, source, size, ir.Constant(ir.IntType(1), 0)])
    return context.get_dummy_value()


# Called, not written as decorators: mypy cannot see numba's types there.
type_callable(switch_stack)(lambda context: lambda save, stack: signature(types.void, _I64, _I64))
lower_builtin(switch_stack, _I64, _I64)(_generate_switch)
type_callable(entry_address)(lambda context: lambda: signature(_I64))
lower_builtin(entry_address)(_generate_entry)
type_callable(call_body)(
    lambda context: lambda body, base, actor, hook, ctx, geometry, own: signature(_I64, *[_I64] * 7)
)
lower_builtin(call_body, *[_I64] * 7)(_generate_body)
type_callable(call_check)(
    lambda context: lambda check, base, hook, ctx, geometry, own: signature(_I64, *[_I64] * 6)
)
lower_builtin(call_check, *[_I64] * 6)(_generate_check)
type_callable(call)(lambda context: lambda function, ctx, argument: signature(_I64, *[_I64] * 3))
lower_builtin(call, *[_I64] * 3)(_generate_call)
type_callable(copy_words)(
    lambda context: lambda target, source, words: signature(types.void, *[_I64] * 3)
)
lower_builtin(copy_words, *[_I64] * 3)(_generate_copy)


def body_address(body: Any) -> int:
    """Machine code address of a kernel of `(cpu)`, compiled if need be.

    numba's own calling convention (result pointer, error pointer, the six words of `Cpu`):
    a C wrapper per body would be one more function to compile and cache for each of them.
    """
    compiled: KernelFunction = body
    wanted = compiled.signature()
    if wanted != (cpu_type,):
        raise UsageError(f"kernel {compiled.py_func.__name__} must take one argument, called cpu")
    compiled.settle()
    result = compiled.overloads[wanted]
    address: int = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    if not address:
        raise RuntimeError(f"numba has no machine code for {compiled.py_func.__name__}")
    return address


def check_address(check: Any) -> int:
    """The same of a scenario's `check`: what it returns has to fit into the word for it."""
    address = body_address(check)
    returned = check.overloads[(cpu_type,)].signature.return_type
    if not isinstance(returned, types.Integer | types.Boolean):
        name = check.py_func.__name__
        raise UsageError(f"check {name} returns {returned}: it must always return an int or a bool")
    return address


class Stacks:
    """`count` stacks with a guard page below each; freed with this object."""

    def __init__(self, count: int) -> None:
        each = STACK_BYTES + GUARD_BYTES
        self._map = mmap.mmap(-1, count * each, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._bytes = np.frombuffer(self._map, np.uint8)  # keeps the mapping while in use
        start = int(self._bytes.ctypes.data)
        libc = ctypes.CDLL(None, use_errno=True)
        for i in range(count):
            low = ctypes.c_void_p(start + i * each)
            if libc.mprotect(low, ctypes.c_size_t(GUARD_BYTES), PROT_NONE) != 0:
                raise OSError(ctypes.get_errno(), "mprotect of a guard page failed")
        self.tops = [start + (i + 1) * each for i in range(count)]


Compiled = Callable[[int, int], int]
