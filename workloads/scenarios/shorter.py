"""Shorter things to do: what may stand for an actor's kernel when a reproducer is shrunk.

A guest's access begins with an entry and a walk by the hardware, and ends with an exit.  Few
races need all of that: often the page fault handler alone is enough.  What is left out at the
beginning is done by the set-up instead, unwatched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mmu.fault import handle_page_fault
from mmu.guest import vcpu_load, vcpu_put, vm_exit
from mmu.machine.blocking import again
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import stopped
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from mmu.tdp.map import RET_PF_RETRY, RET_PF_WRITE_PROTECTED
from workloads.scenario import Body
from workloads.scenarios.common import (
    execute_page_0,
    execute_page_1,
    fill_caches,
    map_for_executing,
    map_for_reading,
    map_for_writing,
    read_page_0,
    read_page_1,
    touch,
    write_page_0,
    write_page_1,
)


@dataclass(frozen=True)
class Shorter:
    """One possibility: its name in reproducers, what the actor does, what set-up does for it."""

    name: str
    body: Body
    before: Body | None = None


@kernel
def outside(cpu: Cpu) -> None:
    """A vCPU that has been in the guest and has left it, as for a fault."""
    vcpu_load(cpu)
    vm_exit(cpu)


@kernel
def _fault(cpu: Cpu, gfn: int, access: int, present: int) -> None:
    """An EPT violation of `gfn`, handled until it is done; the guest is not entered again."""
    while not stopped(cpu):
        result = handle_page_fault(cpu, gfn, access, present)
        if result not in (RET_PF_RETRY, RET_PF_WRITE_PROTECTED):
            break
        again(cpu)


@kernel
def fault_read_0(cpu: Cpu) -> None:
    """The fault of a read of gfn 0."""
    _fault(cpu, 0, ACCESS_READ, 0)


@kernel
def fault_read_1(cpu: Cpu) -> None:
    """The fault of a read of gfn 1."""
    _fault(cpu, 1, ACCESS_READ, 0)


@kernel
def fault_write_0(cpu: Cpu) -> None:
    """The fault of a write of gfn 0, which is not mapped."""
    _fault(cpu, 0, ACCESS_WRITE, 0)


@kernel
def fault_write_1(cpu: Cpu) -> None:
    """The fault of a write of gfn 1, which is not mapped."""
    _fault(cpu, 1, ACCESS_WRITE, 0)


@kernel
def fault_execute_0(cpu: Cpu) -> None:
    """The fault of an execution of gfn 0, which is not mapped."""
    _fault(cpu, 0, ACCESS_EXECUTE, 0)


@kernel
def fault_execute_1(cpu: Cpu) -> None:
    """The fault of an execution of gfn 1, which is not mapped."""
    _fault(cpu, 1, ACCESS_EXECUTE, 0)


@kernel
def permission_write_0(cpu: Cpu) -> None:
    """The fault of a write of gfn 0, which may not be written."""
    _fault(cpu, 0, ACCESS_WRITE, 1)


@kernel
def permission_write_1(cpu: Cpu) -> None:
    """The fault of a write of gfn 1, which may not be written."""
    _fault(cpu, 1, ACCESS_WRITE, 1)


@kernel
def permission_execute_0(cpu: Cpu) -> None:
    """The fault of an execution of gfn 0, which may not be executed."""
    _fault(cpu, 0, ACCESS_EXECUTE, 1)


@kernel
def permission_execute_1(cpu: Cpu) -> None:
    """The fault of an execution of gfn 1, which may not be executed."""
    _fault(cpu, 1, ACCESS_EXECUTE, 1)


@kernel
def _inside(cpu: Cpu, gfn: int, access: int) -> None:
    """From inside the guest to a last exit: nobody waits for a vCPU that will not come."""
    touch(cpu, gfn, access)
    vcpu_put(cpu)


@kernel
def inside_read_0(cpu: Cpu) -> None:
    """A guest that is in the guest already reads gfn 0 and leaves."""
    _inside(cpu, 0, ACCESS_READ)


@kernel
def inside_read_1(cpu: Cpu) -> None:
    """A guest that is in the guest already reads gfn 1 and leaves."""
    _inside(cpu, 1, ACCESS_READ)


@kernel
def inside_write_0(cpu: Cpu) -> None:
    """A guest that is in the guest already writes gfn 0 and leaves."""
    _inside(cpu, 0, ACCESS_WRITE)


@kernel
def inside_write_1(cpu: Cpu) -> None:
    """A guest that is in the guest already writes gfn 1 and leaves."""
    _inside(cpu, 1, ACCESS_WRITE)


@kernel
def inside_execute_0(cpu: Cpu) -> None:
    """A guest that is in the guest already executes gfn 0 and leaves."""
    _inside(cpu, 0, ACCESS_EXECUTE)


@kernel
def inside_execute_1(cpu: Cpu) -> None:
    """A guest that is in the guest already executes gfn 1 and leaves."""
    _inside(cpu, 1, ACCESS_EXECUTE)


# From the shortest; each is another thing to do, so that the failure has to show again with it.
_TABLE: Final[dict[Body, tuple[Body, ...]]] = {
    read_page_0: (fault_read_0, inside_read_0),
    read_page_1: (fault_read_1, inside_read_1),
    write_page_0: (fault_write_0, permission_write_0, inside_write_0),
    write_page_1: (fault_write_1, permission_write_1, inside_write_1),
    execute_page_0: (
        fault_execute_0,
        permission_execute_0,
        inside_execute_0,
    ),
    execute_page_1: (
        fault_execute_1,
        permission_execute_1,
        inside_execute_1,
    ),
}
_OUTSIDE: Final = ("fault", "permission")  # how the names begin of those that need no guest


def _named(body: Body) -> Shorter:
    name: str = body.__name__
    return Shorter(
        name.replace("_", " "), body, outside if name.startswith(_OUTSIDE) else vcpu_load
    )


SHORTER: Final = {body: tuple(_named(each) for each in bodies) for body, bodies in _TABLE.items()}
BY_NAME: Final = {each.name: each for many in SHORTER.values() for each in many}

# What may be there before anybody begins, from the least; a set-up may be replaced by those above.
SETUPS: Final = {
    "empty": fill_caches,
    "read": map_for_reading,
    "written": map_for_writing,
    "executed": map_for_executing,
}
