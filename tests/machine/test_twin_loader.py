"""How the twin's loader rebuilds functions, and what it refuses since it could not follow it."""

from __future__ import annotations

from typing import Any

import pytest
from numba import njit

from mmu.machine import blocking, events, primitives
from mmu.machine.twin import TwinError, interpreted


def test_what_a_twin_cannot_follow_is_refused() -> None:
    def build(source: str, **names: Any) -> Any:
        scope: dict[str, Any] = {"__name__": "sample", **names}
        exec(source, scope)
        return njit(scope["body"])

    assert interpreted(build("def body(cpu): return LIMIT + 1", LIMIT=2))(None) == 3
    assert interpreted(build("def body(cpu): return events.STOP", events=events))(None) > 0
    with pytest.raises(TwinError, match=r"sample\.body: holds a nested function"):
        interpreted(build("def body(cpu): return (lambda x: x)(cpu)"))
    with pytest.raises(TwinError, match=r"sample\.body: takes 'again' from module"):
        interpreted(build("def body(cpu): blocking.again(cpu)", blocking=blocking))
    with pytest.raises(TwinError, match=r"sample\.body: takes 'something' from module"):
        interpreted(build("def body(cpu):\n m = blocking\n m.again(cpu)", blocking=blocking))
    with pytest.raises(TwinError, match="name 'absent' is not defined"):
        interpreted(build("def body(cpu): return absent(cpu)"))
    with pytest.raises(TwinError, match="is no kernel"):
        interpreted(primitives.cmpxchg)

    def closing(free: int) -> Any:
        def body(cpu: Any) -> int:
            return free

        return njit(body)

    with pytest.raises(TwinError, match="closes over free"):
        interpreted(closing(3))


def test_kernels_may_call_each_other_in_a_circle() -> None:
    scope: dict[str, Any] = {"__name__": "sample"}
    exec(
        "def even(n): return 1 if n == 0 else odd(n - 1)\n"
        "def odd(n): return 0 if n == 0 else even(n - 1)\n",
        scope,
    )
    scope["even"], scope["odd"] = njit(scope["even"]), njit(scope["odd"])
    even = interpreted(scope["even"])
    assert [even(n) for n in range(4)] == [1, 0, 1, 0]
    assert interpreted(scope["even"]) is even
    assert even.__globals__["odd"] is interpreted(scope["odd"])
