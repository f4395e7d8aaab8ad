"""LLVM building blocks of the primitives: word pointers, the hook's cold branch, libc calls.

Only `primitives.py` uses this.  Each builder here makes exactly one shape of code: *ask the
hook if there is one, then act*; without a hook that is one predicted branch on a register.

An observer of tracepoints only gives its hook's address negated (see `Cpu`).  Steps and questions
ask "is it positive?", tracepoints "is it 0?": neither costs more than the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing import signature
from numba.extending import lower_builtin, type_callable

from mmu.machine.cpu import cpu_type
from mmu.machine.events import STOP

I64 = ir.IntType(64)
I32 = ir.IntType(32)
HOOK = ir.FunctionType(I64, [I64] * 6)

Values = list[Any]
Action = Callable[[Any, Any, Values], Any]


def constant(value: int) -> Any:
    """An i64."""
    return ir.Constant(I64, value)


def zero() -> Any:
    """What an unwatched question is answered with."""
    return constant(0)


def word_pointer(builder: Any, base: Any, index: Any) -> Any:
    """Pointer to word `index` of the block at address `base`."""
    address = builder.add(base, builder.shl(index, constant(3)))
    return builder.inttoptr(address, I64.as_pointer())


def own_pointer(builder: Any, cpu: Any, offset: Any) -> Any:
    """Pointer to a word of the actor's own block."""
    return word_pointer(builder, cpu.base, builder.add(cpu.own, offset))


def _call_hook(builder: Any, cpu: Any, address: Any, kind: Any, operands: Values) -> Any:
    """Call the observer: `hook(ctx, actor, kind, a, b, c)`."""
    padded = [*operands, *[constant(0)] * (3 - len(operands))]
    function = builder.inttoptr(address, HOOK.as_pointer())
    return builder.call(function, [cpu.ctx, cpu.id, kind, *padded])


def _branch(builder: Any, condition: Any) -> tuple[Any, Any]:
    """Split here: (block with an observer, block without one), the former marked cold."""
    watched = builder.append_basic_block("watched")
    alone = builder.append_basic_block("alone")
    builder.cbranch(condition, watched, alone).set_weights([1, 1 << 20])
    return watched, alone


def _branch_on_hook(builder: Any, cpu: Any) -> tuple[Any, Any]:
    """Split by whether somebody watches every step."""
    return _branch(builder, builder.icmp_signed(">", cpu.hook, constant(0)))


def tell(builder: Any, cpu: Any, kind: Any, operands: Values, frequent: Any) -> None:
    """Call whoever watches tracepoints, of `frequent` ones (i1) only who watches steps as well.

    The answer means nothing.
    """
    steps = builder.icmp_signed(">", cpu.hook, constant(0))
    somebody = builder.icmp_signed("!=", cpu.hook, constant(0))
    watched, alone = _branch(builder, builder.select(frequent, steps, somebody))
    builder.position_at_end(watched)
    address = builder.select(steps, cpu.hook, builder.neg(cpu.hook))
    _call_hook(builder, cpu, address, kind, operands)
    builder.branch(alone)
    builder.position_at_end(alone)


def ask(builder: Any, cpu: Any, kind: Any, operands: Values, unwatched: Callable[[], Any]) -> Any:
    """The hook's answer, or `unwatched()` when nobody watches."""
    watched, alone = _branch_on_hook(builder, cpu)
    done = builder.append_basic_block("done")
    builder.position_at_end(watched)
    answer = _call_hook(builder, cpu, cpu.hook, kind, operands)
    builder.branch(done)
    builder.position_at_end(alone)
    value = unwatched()
    builder.branch(done)
    builder.position_at_end(done)
    result = builder.phi(I64)
    result.add_incoming(answer, watched)
    result.add_incoming(value, alone)
    return result


def observed(
    builder: Any, cpu: Any, kind: int, operands: Values, act: Callable[[], Any], stopped: Any
) -> Any:
    """`act()` unless the observer says STOP, in which case the value is `stopped`.

    The STOP test sits on the watched path, so that code without a hook pays one branch only.
    """
    watched, go = _branch_on_hook(builder, cpu)
    done = builder.append_basic_block("done")
    builder.position_at_end(watched)
    verdict = _call_hook(builder, cpu, cpu.hook, constant(kind), operands)
    end = builder.block
    builder.cbranch(builder.icmp_signed("==", verdict, constant(STOP)), done, go)
    builder.position_at_end(go)
    value = act()
    acted = builder.block
    builder.branch(done)
    builder.position_at_end(done)
    result = builder.phi(I64)
    result.add_incoming(stopped, end)
    result.add_incoming(value, acted)
    return result


def libc(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Declare and call a C function; the arguments' types make its (fixed) prototype."""
    prototype = ir.FunctionType(result, [value.type for value in arguments])
    function = cgutils.get_or_insert_function(builder.module, prototype, name)
    return builder.call(function, arguments)


def lowers(
    function: Callable[..., Any], integers: int, returns_value: bool = True
) -> Callable[[Action], Action]:
    """Give a plain Python function of `(cpu, *integers)` its machine code.

    The decorated `action(builder, cpu, operands)` returns the i64 result (or None).
    """
    result = types.int64 if returns_value else types.void

    @type_callable(function)
    def typer_factory(context: Any) -> Any:
        if integers == 0:
            return lambda cpu: signature(result, cpu)
        if integers == 1:
            return lambda cpu, a: signature(result, cpu, types.int64)
        if integers == 2:
            return lambda cpu, a, b: signature(result, cpu, types.int64, types.int64)
        if integers == 3:
            return lambda cpu, a, b, c: signature(result, cpu, *[types.int64] * 3)
        return lambda cpu, a, b, c, d: signature(result, cpu, *[types.int64] * 4)

    def register(action: Action) -> Action:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            cpu = cgutils.create_struct_proxy(cpu_type)(context, builder, value=args[0])
            value = action(builder, cpu, list(args[1:]))
            return context.get_dummy_value() if not returns_value else value

        lower_builtin(function, type(cpu_type), *[types.int64] * integers)(generate)
        return action

    return register
