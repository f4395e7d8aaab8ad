"""Wakeup trees: which step sequences still have to be tried at a row, kept as ordered trees.

A node is one step: its actor and its *place*, the word and conflict class packed in one number.
Children of a node are a list, oldest first; the first child of a row is the branch that is being
explored.  Nodes come from a pool with a free list; number 0 is "none".

A sequence is collected in the same memory before it is inserted.
"""

from __future__ import annotations

from harness.explore import block as at
from harness.explore.block import R_ACTOR, R_ADDR, R_CLASS, R_KIND, row_at
from harness.explore.faults import break_off
from harness.explore.races import is_removed
from harness.explore.steps import READ, classes_conflict
from harness.watch.words import get, put
from mmu.machine.cpu import Words
from mmu.machine.events import AGAIN
from mmu.machine.kernel import array_kernel, inlined_array_kernel

NODES_MAX = 1 << 16
SEQUENCE_MAX = 1 << 14
ANY_WORD = -1  # AGAIN reads many words

N_ACTOR, N_PLACE, N_CHILD, N_NEXT = range(4)
NODE_WORDS = 4
# The strategy's own memory: head of the free list, length of the sequence, sequence, pool.
FREE, LENGTH, SEQUENCE = range(3)
POOL = SEQUENCE + 2 * SEQUENCE_MAX
WORDS = POOL + NODES_MAX * NODE_WORDS


def prepare(words: Words) -> None:
    """All nodes are free."""
    nodes = words[POOL:].reshape(-1, NODE_WORDS)
    nodes[:-1, N_NEXT] = range(1, NODES_MAX)
    words[FREE] = 1


@inlined_array_kernel
def _memory(ctx: int) -> int:
    return get(ctx, at.H_STRATEGY_BLOCK)


@inlined_array_kernel
def _node(ctx: int, number: int) -> int:
    """Address of a node."""
    return _memory(ctx) + 8 * (POOL + number * NODE_WORDS)


@inlined_array_kernel
def pack(addr: int, access: int) -> int:
    """A step's place."""
    return addr << 3 | access


@inlined_array_kernel
def places_conflict(one: int, other: int) -> int:
    """Whether steps at two places do not commute."""
    if one == ANY_WORD or other == ANY_WORD:
        met = other if one == ANY_WORD else one
        return int(met != ANY_WORD and met & 7 != READ)
    return int(one >> 3 == other >> 3 and classes_conflict(one & 7, other & 7) != 0)


@inlined_array_kernel
def actor_of(ctx: int, number: int) -> int:
    """Whose step a node is."""
    return get(_node(ctx, number), N_ACTOR)


@array_kernel
def new_node(ctx: int, actor: int, place: int) -> int:
    """A node without children; 0 (and the end of the execution) if the pool is empty."""
    number = get(_memory(ctx), FREE)
    if number == 0:
        break_off(ctx, at.FAULT_MEMORY, actor, NODES_MAX, 0)
        return 0
    node = _node(ctx, number)
    put(_memory(ctx), FREE, get(node, N_NEXT))
    put(node, N_ACTOR, actor)
    put(node, N_PLACE, place)
    put(node, N_CHILD, 0)
    put(node, N_NEXT, 0)
    return number


@array_kernel
def _free(ctx: int, number: int) -> None:
    put(_node(ctx, number), N_NEXT, get(_memory(ctx), FREE))
    put(_memory(ctx), FREE, number)


@array_kernel
def take_children(ctx: int, number: int) -> int:
    """The first node's children, which belong to the next row from now on."""
    if number == 0:
        return 0
    children = get(_node(ctx, number), N_CHILD)
    put(_node(ctx, number), N_CHILD, 0)
    return children


@array_kernel
def drop_first(ctx: int, number: int) -> int:
    """Free the first node of a list with all below it; the rest of the list."""
    if number == 0:
        return 0
    rest = get(_node(ctx, number), N_NEXT)
    child = get(_node(ctx, number), N_CHILD)
    while child != 0:
        # Its children take its place in the list: no recursion.
        following = get(_node(ctx, child), N_NEXT)
        grandchild = get(_node(ctx, child), N_CHILD)
        _free(ctx, child)
        child = following
        if grandchild != 0:
            last = grandchild
            while get(_node(ctx, last), N_NEXT) != 0:
                last = get(_node(ctx, last), N_NEXT)
            put(_node(ctx, last), N_NEXT, following)
            child = grandchild
    _free(ctx, number)
    return rest


@inlined_array_kernel
def _add(ctx: int, actor: int, place: int) -> None:
    memory = _memory(ctx)
    length = get(memory, LENGTH)
    if length >= SEQUENCE_MAX:
        break_off(ctx, at.FAULT_MEMORY, actor, SEQUENCE_MAX, 0)
        return
    put(memory, SEQUENCE + 2 * length, actor)
    put(memory, SEQUENCE + 2 * length + 1, place)
    put(memory, LENGTH, length + 1)


@array_kernel
def collect(ctx: int, early: int, late: int, end: int, late_class: int) -> None:
    """The sequence that puts row `late` before row `early`.

    All rows behind `early`, up to `end`, that stay (see `races.remove`), then `late` itself, whose
    class may be another there.
    """
    put(_memory(ctx), LENGTH, 0)
    for d in range(early + 1, end):
        if is_removed(ctx, d) == 0:
            row = row_at(ctx, d)
            place = pack(get(row, R_ADDR), get(row, R_CLASS))
            _add(ctx, get(row, R_ACTOR), ANY_WORD if get(row, R_KIND) == AGAIN else place)
    row = row_at(ctx, late)
    place = pack(get(row, R_ADDR), late_class)
    _add(ctx, get(row, R_ACTOR), ANY_WORD if get(row, R_KIND) == AGAIN else place)


@array_kernel
def _first_of(ctx: int, actor: int, place: int) -> int:
    """Where in the sequence the actor's first step is if it could begin; -1: not in it but could
    begin all the same; -2: it could not."""
    memory = _memory(ctx)
    for i in range(get(memory, LENGTH)):
        if get(memory, SEQUENCE + 2 * i) == actor:
            return i
        if places_conflict(get(memory, SEQUENCE + 2 * i + 1), place):
            return -2
    return -1


@array_kernel
def could_begin(ctx: int, actor: int, place: int) -> int:
    """Whether some equivalent of the sequence (or of one that extends it) begins so."""
    return int(_first_of(ctx, actor, place) != -2)


@array_kernel
def _remove(ctx: int, index: int) -> None:
    memory = _memory(ctx)
    length = get(memory, LENGTH) - 1
    for i in range(index, length):
        put(memory, SEQUENCE + 2 * i, get(memory, SEQUENCE + 2 * i + 2))
        put(memory, SEQUENCE + 2 * i + 1, get(memory, SEQUENCE + 2 * i + 3))
    put(memory, LENGTH, length)


@array_kernel
def _branch(ctx: int) -> int:
    """A chain of new nodes for what is left of the sequence."""
    memory = _memory(ctx)
    below = 0
    for i in range(get(memory, LENGTH) - 1, -1, -1):
        number = new_node(ctx, get(memory, SEQUENCE + 2 * i), get(memory, SEQUENCE + 2 * i + 1))
        if number == 0:
            return below
        put(_node(ctx, number), N_CHILD, below)
        below = number
    return below


@array_kernel
def insert(ctx: int, children: int) -> int:
    """Have the sequence tried below a list of children; the list, which may have been empty."""
    parent, number, last = 0, children, 0
    while number != 0:
        node = _node(ctx, number)
        place = _first_of(ctx, get(node, N_ACTOR), get(node, N_PLACE))
        if place == -2:
            last = number
            number = get(node, N_NEXT)
            continue
        if place >= 0:
            _remove(ctx, place)
        if get(node, N_CHILD) == 0:
            return children  # a leaf: all that begins so will be explored
        parent, number, last = number, get(node, N_CHILD), 0
    branch = _branch(ctx)
    if last != 0:
        put(_node(ctx, last), N_NEXT, branch)
    elif parent != 0:
        put(_node(ctx, parent), N_CHILD, branch)
    else:
        return branch
    return children
