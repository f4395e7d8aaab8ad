"""Host pages that handlers in user space install (userfaultfd) while vCPUs need them."""

from __future__ import annotations

from mmu.machine.actors import actor_block
from mmu.machine.blocking import wait_while
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.layout import USERFAULT
from mmu.machine.primitives import read_once, stopped, store_release
from mmu.userfault import answer_userfault, register_userfault, serve_userfault
from mmu.vm import Vm
from workloads.scenario import Actor, Scenario
from workloads.scenarios.common import PAGES, fill_caches, small_vm, write_page_0, write_page_1
from workloads.scenarios.prefault import prefault_two
from workloads.scenarios.slots import delete_slot

ENOUGH = 1 << 40  # as a request: there will be no other


@kernel
def _tell_enough(cpu: Cpu) -> None:
    """The vCPU needs its handler no more."""
    store_release(cpu, cpu.own + USERFAULT, ENOUGH)


@kernel
def write_page_0_and_tell(cpu: Cpu) -> None:
    """The guest writes gfn 0."""
    write_page_0(cpu)
    _tell_enough(cpu)


@kernel
def write_page_1_and_tell(cpu: Cpu) -> None:
    """The guest writes gfn 1."""
    write_page_1(cpu)
    _tell_enough(cpu)


@kernel
def prefault_and_tell(cpu: Cpu) -> None:
    """gfns 0 and 1 ahead of their use."""
    prefault_two(cpu)
    _tell_enough(cpu)


@kernel
def serve(cpu: Cpu, vcpu: int) -> None:
    """The handler of a vCPU, until it needs none."""
    request = actor_block(cpu, vcpu) + USERFAULT
    wait_while(cpu, request, 0)
    while read_once(cpu, request) != ENOUGH and not stopped(cpu):
        serve_userfault(cpu, vcpu, 1)
        answer_userfault(cpu, vcpu)
        wait_while(cpu, request, 0)


@kernel
def serve_vcpu_0(cpu: Cpu) -> None:
    """The handler of vCPU 0."""
    serve(cpu, 0)


@kernel
def serve_vcpu_1(cpu: Cpu) -> None:
    """The handler of vCPU 1."""
    serve(cpu, 1)


def nothing_installed(vm: Vm) -> None:
    """No host page is there: each has to be asked for."""
    fill_caches(vm)
    register_userfault(vm.cpu(vm.config.vcpus), 0, PAGES)


USERFAULT_FAULT = Scenario(
    "userfault-fault",
    "a vCPU writes a page that a handler in user space has to install first",
    (Actor("vcpu 0", write_page_0_and_tell), Actor("handler", serve_vcpu_0)),
    vm=small_vm(1, 1, spare_frames=1),
    setup=nothing_installed,
)
USERFAULT_TWICE = Scenario(
    "userfault-twice",
    "two vCPUs need one huge page from their handlers: one installs it, the other finds it",
    (
        Actor("vcpu 0", write_page_0_and_tell),
        Actor("vcpu 1", write_page_1_and_tell),
        Actor("handler 0", serve_vcpu_0),
        Actor("handler 1", serve_vcpu_1),
    ),
    vm=small_vm(2, 2, spare_frames=1, backing_level=2),
    setup=nothing_installed,
)
USERFAULT_DELETE = Scenario(
    "userfault-delete",
    "a memslot goes while a prefault waits for the handler: it waits for both",
    (
        Actor("vcpu 0", prefault_and_tell),
        Actor("handler", serve_vcpu_0),
        Actor("vmm", delete_slot),
    ),
    vm=small_vm(1, 2, spare_frames=1),
    setup=nothing_installed,
)
