"""A small lock-free stack, with and without the ABA problem.

    tdprace explore workloads/litmus/lock_free_stack.py::ABA
    tdprace explore workloads/litmus/lock_free_stack.py::TAGGED

The stack is a chain of nodes 1 to 3: `top` holds the first node's number, `next[n]` the one below
node n.  `ABA` swaps the number alone: while one actor is about to pop node 1, another one pops 1
and 2 and pushes 1 back; the first actor's cmpxchg succeeds although node 2 has gone.  `TAGGED`
has a counter beside the number that every change increments.
"""

from __future__ import annotations

from mmu.machine.cpu import Cpu
from mmu.machine.kernel import kernel
from mmu.machine.primitives import cmpxchg, fetch_add, read_once, stopped, write_once
from workloads.scenario import Actor, Scenario

TOP = 0
NEXT = 1  # next[0] is not used
TAKEN = 5  # how often each node was popped and not pushed again
NODES = 3
NODE_MASK = 0xFF
TAG = 0x100


@kernel
def pop(cpu: Cpu, tag: int) -> int:
    """Take the first node; its number, 0 if the stack is empty."""
    while not stopped(cpu):
        top = read_once(cpu, TOP)
        node = top & NODE_MASK
        if node == 0:
            return 0
        below = read_once(cpu, NEXT + node)
        if cmpxchg(cpu, TOP, top, (top - node + below + tag)) == top:
            fetch_add(cpu, TAKEN + node, 1)
            return node
    return 0


@kernel
def push(cpu: Cpu, node: int, tag: int) -> None:
    """Put a node on top."""
    fetch_add(cpu, TAKEN + node, -1)
    while not stopped(cpu):
        top = read_once(cpu, TOP)
        write_once(cpu, NEXT + node, top & NODE_MASK)
        if cmpxchg(cpu, TOP, top, top - (top & NODE_MASK) + node + tag) == top:
            return


@kernel
def pop_one(cpu: Cpu) -> None:
    """Untagged."""
    pop(cpu, 0)


@kernel
def pop_two_push_one(cpu: Cpu) -> None:
    """Untagged: take two nodes, give the first one back."""
    first = pop(cpu, 0)
    pop(cpu, 0)
    if first != 0:
        push(cpu, first, 0)


@kernel
def pop_one_tagged(cpu: Cpu) -> None:
    """Tagged."""
    pop(cpu, TAG)


@kernel
def pop_two_push_one_tagged(cpu: Cpu) -> None:
    """Tagged."""
    first = pop(cpu, TAG)
    pop(cpu, TAG)
    if first != 0:
        push(cpu, first, TAG)


@kernel
def count_wrong_nodes(cpu: Cpu) -> int:
    """Check: each node is either taken once or in the chain once; how many are not."""
    wrong = 0
    for node in range(1, NODES + 1):
        found = read_once(cpu, TAKEN + node)
        at = read_once(cpu, TOP) & NODE_MASK
        for _ in range(NODES):
            if at == node:
                found += 1
            if at != 0:
                at = read_once(cpu, NEXT + at)
        wrong += int(found != 1)
    return wrong


_WORDS = ("top", "next[4]", "taken[4]")
_FULL = {"top": 1, "next[1]": 2, "next[2]": 3}

ABA = Scenario(
    name="stack-aba",
    about="a lock-free stack whose top is a bare number",
    actors=(Actor("slow", pop_one), Actor("quick", pop_two_push_one)),
    words=_WORDS,
    initial=_FULL,
    check=count_wrong_nodes,
    check_text="{0} nodes are lost or in two places",
)
TAGGED = Scenario(
    name="stack-tagged",
    about="the same stack with a counter beside the number",
    actors=(Actor("slow", pop_one_tagged), Actor("quick", pop_two_push_one_tagged)),
    words=_WORDS,
    initial=_FULL,
    check=count_wrong_nodes,
    check_text="{0} nodes are lost or in two places",
)
