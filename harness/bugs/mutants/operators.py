"""What is taken away or weakened, kind by kind, in one module of the model.

flush       a flush, or asking vCPUs and waiting for them, does not happen
rcu         a read section, a grace period, or the deferring of a free does not happen
lock        a lock is not taken, nor released
reference   a root's reference is not taken (but believed to be), or not given back
atomic      one atomic step becomes a read and a write
frozen      nothing is taken for frozen
stale       nothing is taken for stale or invalid
dirty       nobody is told that a page was written
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from harness.bugs.mutants.edits import Edit, Source

# Statements that go, by kind.
REMOVED = {
    "flush": (
        *("flush_remote_tlbs", "request_all", "flush_own_tlb", "flush_tlb_block"),
        *("structure_drop", "_flush_everything", "_flush_array"),
        *("_ask_for_flush", "_wait_for_vcpu"),
    ),
    "rcu": ("synchronize_rcu", "synchronize_srcu", "defer_free"),
    "reference": ("put_root",),
    "dirty": ("mark_frame", "mark_page_dirty", "tell_host"),
}
# Calls whose answer is believed to be known, by kind.  mark_frame: no folio was told.
ANSWERED = {
    "reference": {"get_root": "1"},
    "stale": dict.fromkeys(
        ("_is_stale", "invalidation_covers", "invalidated_since", "root_invalid"), "0"
    ),
    "dirty": {"mark_frame": "-1"},
}
# The same, but only in a condition that decides where the kernel goes.
DECIDED = {"frozen": {"is_frozen": "False"}}

_READ_WRITE = ("mmu.machine.primitives", ("read_once", "write_once"))
_FUNNEL = ("mmu.tdp_mmu", ("DONE", "handle_changed_spte"))
_RMW = "    old = read_once(cpu, addr)\n    write_once(cpu, addr, {})\n    return old\n"
PLAIN = "plain_"

# How a lock is taken and released; of `acquire_when` the word that it waits for says which.
LOCKS = {
    f"{name}_lock": ("lock", f"{name}_lock", f"{name}_unlock")
    for name in ("mmu_read", "mmu_write", "pages", "slots", "host", "pool")
} | {"rcu_read_lock": ("rcu", "rcu_read_lock", "rcu_read_unlock")}
WORD_LOCK = ("acquire_when", "release")
_OWN = ("mmu.machine.primitives", ("own", "set_own"))
_BELIEVED = {"_lock": "own(cpu, HELD) | {}", "_unlock": "own(cpu, HELD) & ~{}"}

# What stands for a call that is weakened: more parameters, result, body, names that it needs.
_Need = tuple[str, tuple[str, ...]]  # a module, names of it
_Plain = tuple[str, str, str, tuple[_Need, ...]]
ATOMIC: dict[str, _Plain] = {
    "xchg": (", addr: int, value: int", "int", _RMW.format("value"), (_READ_WRITE,)),
    "fetch_add": (", addr: int, amount: int", "int", _RMW.format("old + amount"), (_READ_WRITE,)),
    "fetch_or": (", addr: int, bits: int", "int", _RMW.format("old | bits"), (_READ_WRITE,)),
    "fetch_and": (", addr: int, mask: int", "int", _RMW.format("old & mask"), (_READ_WRITE,)),
    "count": (", addr: int, amount: int", "int", _RMW.format("old + amount"), (_READ_WRITE,)),
    "cmpxchg": (
        ", addr: int, old: int, new: int",
        "int",
        "    seen = read_once(cpu, addr)\n"
        "    if seen == old:\n"
        "        write_once(cpu, addr, new)\n"
        "    return seen\n",
        (_READ_WRITE,),
    ),
    "set_spte_atomic": (
        ", sptep: int, gfn: int, level: int, old: int, new: int",
        "int",
        "    write_once(cpu, sptep, new)\n"
        "    handle_changed_spte(cpu, sptep, gfn, old, new, level)\n"
        "    return DONE\n",
        (("mmu.machine.primitives", ("write_once",)), _FUNNEL),
    ),
}
BELIEVED: dict[str, _Plain] = {
    name: (
        "",
        "None",
        f"    set_own(cpu, HELD, {_BELIEVED[verb].format(bit)})\n",
        (("mmu.machine.layout", ("HELD",)), ("mmu.machine.lock", (bit,)), _OWN),
    )
    for _, *pair in LOCKS.values()
    for name, verb in zip(pair, _BELIEVED, strict=True)
    for bit in ["HELD_" + name.removesuffix(verb).replace("rcu_read", "rcu").upper()]
}
WEAKENED = ATOMIC | BELIEVED

DECORATORS = {"kernel", "inlined_kernel"}
ASSERTIONS = {"warn", "emit"}  # what is only told to observers is no part of the model

KINDS = ("flush", "rcu", "lock", "reference", "atomic", "frozen", "stale", "dirty")


@dataclass
class Mutation:
    """One change, in the order of the source; `functions` are those that it changes."""

    kind: str
    verb: str
    functions: tuple[str, ...]
    edits: list[Edit] = field(default_factory=list)


@dataclass(frozen=True)
class _Call:
    """A call that may be mutated, and what stands around it."""

    node: ast.Call
    name: str
    function: str
    statement: ast.stmt
    decides: bool  # it stands in the condition of an `if` or a `while`

    @property
    def is_statement(self) -> bool:
        """Nobody uses what it returns."""
        return isinstance(self.statement, ast.Expr) and self.statement.value is self.node


def mutations(source: Source) -> list[Mutation]:
    """All mutations of a module, those of one kind in the order of the source."""
    calls = list(_calls(source.tree))
    found = [each for call in calls for each in _simple(source, call)]
    found += _locks(source, calls)
    return sorted(found, key=lambda each: (each.edits[0].start, KINDS.index(each.kind)))


def _calls(tree: ast.Module) -> Iterator[_Call]:
    """Calls by name in kernels, assertions and tracepoints apart, in the order of the source."""
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef):
            continue
        names = {each.id for each in function.decorator_list if isinstance(each, ast.Name)}
        if names & DECORATORS:
            for statement in function.body:
                yield from _calls_in(function.name, statement, statement, False)


def _calls_in(function: str, statement: ast.stmt, node: ast.AST, decides: bool) -> Iterator[_Call]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ASSERTIONS:
            return
        yield _Call(node, node.func.id, function, statement, decides)
    for name, value in ast.iter_fields(node):
        is_test = isinstance(node, ast.If | ast.While | ast.IfExp) and name == "test"
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.stmt):
                yield from _calls_in(function, child, child, False)
            elif isinstance(child, ast.AST):
                yield from _calls_in(function, statement, child, decides or is_test)


def _simple(source: Source, call: _Call) -> Iterator[Mutation]:
    """What is done to a single call."""
    where = (call.function,)
    for kind, names in REMOVED.items():
        if call.name in names and call.is_statement:
            yield Mutation(kind, "removed", where, [source.removed(call.statement)])
    answers = [(kind, names, not call.is_statement) for kind, names in ANSWERED.items()]
    answers += [(kind, names, call.decides) for kind, names in DECIDED.items()]
    for kind, by_name, fits in answers:
        if call.name in by_name and fits:
            edit = source.replaced(call.node, by_name[call.name])
            yield Mutation(kind, "removed", where, [edit])
    if call.name in ATOMIC:
        yield Mutation("atomic", "weakened", where, _weakened(source, [call]))


def _weakened(source: Source, calls: list[_Call]) -> list[Edit]:
    """Other kernels are called, which follow at the module's end with the imports they need."""
    edits = [source.replaced(call.node.func, PLAIN + call.name) for call in calls]
    names = dict.fromkeys(call.name for call in calls)
    needs: list[_Need] = [("mmu.machine.kernel", ("inlined_kernel",))]
    bodies = []
    for name in names:
        parameters, result, body, needed = WEAKENED[name]
        needs += [each for each in needed if each not in needs]
        bodies.append(
            f"\n\n@inlined_kernel\ndef {PLAIN}{name}(cpu: Cpu{parameters}) -> {result}:\n{body}"
        )
    return [*edits, source.appended("".join([*_imports(source.tree, needs), *bodies]))]


def _imports(tree: ast.Module, needs: Iterable[_Need]) -> list[str]:
    """Lines that import what the module does not import yet."""
    known = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lines = [
        f"from {module} import {', '.join(missing)}\n"
        for module, names in needs
        if (missing := [each for each in names if each not in known])
    ]
    return ["\n\n", *lines] if lines else []


# --- Locks ---------------------------------------------------------------------------------------


def _locks(source: Source, calls: list[_Call]) -> Iterator[Mutation]:
    """Sections: what takes a lock and what releases it go together.

    A section begins with a taking, or with a release where a lock is dropped for a while; it
    goes on to the last call of the other sort before it begins again.  What has no counterpart
    in its function has it in another one of the module.
    """
    lonely: dict[tuple[str, str], list[_Call]] = {}
    for kind, key, section in _sections(calls):
        if len({each.name for each in section}) > 1:
            yield from _section_gone(source, kind, section)
        else:
            lonely.setdefault((kind, key), []).extend(section)
    for (kind, _), section in lonely.items():
        yield from _section_gone(source, kind, section)


def _sections(calls: list[_Call]) -> Iterator[tuple[str, str, list[_Call]]]:
    """(kind, lock, calls) of each section, function by function."""
    by_lock: dict[tuple[str, str, str], list[_Call]] = {}
    for call in calls:
        for key, (kind, *pair) in LOCKS.items():
            if call.name in pair:
                by_lock.setdefault((call.function, kind, key), []).append(call)
        if call.name in WORD_LOCK:
            word = ast.unparse(call.node.args[1])
            by_lock.setdefault((call.function, "lock", word), []).append(call)
    for (_, kind, key), ours in by_lock.items():
        section: list[_Call] = []
        for call in ours:
            if section and call.name == section[0].name and section[-1].name != call.name:
                yield kind, key, section
                section = []
            section.append(call)
        yield kind, key, section


def _section_gone(source: Source, kind: str, section: list[_Call]) -> Iterator[Mutation]:
    """The section removed; and, where the actor's own word says what it holds, believed."""
    functions = tuple(dict.fromkeys(each.function for each in section))
    edits = [source.removed(each.statement) for each in section]
    yield Mutation(kind, "removed", functions, edits)
    if section[0].name in BELIEVED:
        yield Mutation(kind, "weakened", functions, _weakened(source, section))
