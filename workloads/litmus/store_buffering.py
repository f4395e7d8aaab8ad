"""Store buffering: each of two actors writes one word and then reads the other's.

    tdprace explore workloads/litmus/store_buffering.py::STORE_BUFFERING

Real machines may show both reads 0 (each store still sits in its buffer).  Exploration is
sequentially consistent, so that outcome must never be seen here.
"""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import read_once, write_once
from workloads.scenario import ACCEPTABLE, FORBIDDEN, INTERESTING, Actor, Outcome, Scenario

X, Y, R0, R1 = range(4)


@kernel
def left(cpu: Cpu) -> None:
    """x = 1; r0 = y."""
    write_once(cpu, X, 1)
    write_once(cpu, R0, read_once(cpu, Y))


@kernel
def right(cpu: Cpu) -> None:
    """y = 1; r1 = x."""
    write_once(cpu, Y, 1)
    write_once(cpu, R1, read_once(cpu, X))


STORE_BUFFERING = Scenario(
    name="store-buffering",
    about="two actors write one word each and read the other's",
    actors=(Actor("left", left), Actor("right", right)),
    words=("x", "y", "r0", "r1"),
    outcome=("r0", "r1"),
    outcomes=(
        Outcome((0, 0), FORBIDDEN, "both read before either had written"),
        Outcome((0, 1), ACCEPTABLE, "left was first"),
        Outcome((1, 0), ACCEPTABLE, "right was first"),
        Outcome((1, 1), INTERESTING, "they met"),
    ),
    otherwise=FORBIDDEN,
)
