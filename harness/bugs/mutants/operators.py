"""What is taken away or weakened, kind by kind, in one module of the model.

flush       a flush, or asking vCPUs and waiting for them, does not happen
rcu         a read section, a grace period, or the deferring of a free does not happen
lock        a lock is not taken, nor released
reference   a root's reference is not taken (but believed to be), or not given back
atomic      one atomic step becomes a read and a write
frozen      nothing is taken for frozen
stale       nothing is taken for stale or invalid, nor looked at for that
dirty       nobody is told that a page was written

What counts as which is said by patterns of names: the field's words, which a new kernel follows.
"""

from __future__ import annotations

import ast
import fnmatch
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from harness.bugs.mutants.edits import Edit, Source
from harness.bugs.mutants.vocabulary import Lock, Vocabulary, kernels_of

KINDS = ("flush", "rcu", "lock", "reference", "atomic", "frozen", "stale", "dirty")

# Statements that go, by kind.
REMOVED = {
    "flush": ("*flush*", "*request_all", "*wait_for_vcpu", "structure_drop"),
    "rcu": ("synchronize_*", "defer_*"),
    "reference": ("put_*",),
    "stale": ("*stale*", "*obsolete*"),
    "dirty": ("mark_*", "tell_*", "*_pml", "pml_*"),
}
# Calls whose answer is believed to be known, by kind.  mark_frame: no folio was told.
ANSWERED = {
    "reference": {"get_*": "1"},
    "frozen": {"*frozen*": "False"},
    "stale": {"*stale*": "0", "*obsolete*": "0", "*invalid*": "0"},
    "dirty": {"mark_*": "-1"},
}
# How a lock is taken and released that is only a word; which one, its argument says.
WORD_LOCK = ("acquire_when", "release")
ASSERTIONS = {"warn", "emit"}  # what is only told to observers is no part of the model
PLAIN = "plain_"

# What stands for a call that is weakened: more parameters, result, body, names that it needs.
_Need = tuple[str, tuple[str, ...]]  # a module, names of it
_Plain = tuple[str, str, str, tuple[_Need, ...]]
_READ_WRITE = ("mmu.machine.primitives", ("read_once", "write_once"))
_FUNNEL = ("mmu.tdp_mmu", ("DONE", "handle_changed_spte"))
_RMW = "    old = read_once(cpu, addr)\n    write_once(cpu, addr, {})\n    return old\n"
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


@dataclass
class Mutation:
    """One change, in the order of the source; `functions` are those that it changes.

    `call` is the number of the call among those of the same name in its kernel.
    """

    kind: str
    verb: str
    functions: tuple[str, ...]
    call: str
    number: int
    edits: list[Edit] = field(default_factory=list)


@dataclass(frozen=True)
class _Call:
    """A call that may be mutated, and what stands around it."""

    node: ast.Call
    name: str
    number: int
    function: ast.FunctionDef
    statement: ast.stmt

    @property
    def is_statement(self) -> bool:
        """Nobody uses what it returns."""
        return isinstance(self.statement, ast.Expr) and self.statement.value is self.node


def mutations(source: Source, vocabulary: Vocabulary) -> list[Mutation]:
    """All mutations of a module, those of one kind in the order of the source."""
    calls = [call for function in kernels_of(source.tree) for call in _calls(function)]
    found = [each for call in calls for each in _simple(source, vocabulary, call)]
    found += _locks(source, vocabulary, calls)
    return sorted(found, key=lambda each: (each.edits[0].start, KINDS.index(each.kind)))


def kind_of(name: str, is_statement: bool, vocabulary: Vocabulary) -> str:
    """Of what kind a call of this name is when it is removed, "" if of none."""
    for kind, patterns in REMOVED.items():
        if is_statement and _fits(name, patterns):
            return kind
    for kind, answers in ANSWERED.items():
        if not is_statement and _fits(name, answers):
            # Who only gets something takes nothing: it must be possible to give it back.
            if kind == "reference" and f"put_{name.removeprefix('get_')}" not in vocabulary.kernels:
                continue
            return kind
    return ""


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, each) for each in patterns)


# --- Calls ---------------------------------------------------------------------------------------


def _calls(function: ast.FunctionDef) -> Iterator[_Call]:
    """Calls by name, in the order of the source, but for what only assertions see."""
    numbers: Counter[str] = Counter()
    for statement in function.body:
        for node, around in _found_in(statement, statement):
            assert isinstance(node.func, ast.Name)
            name = node.func.id
            numbers[name] += 1
            yield _Call(node, name, numbers[name], function, around)


def _found_in(node: ast.AST, statement: ast.stmt) -> Iterator[tuple[ast.Call, ast.stmt]]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ASSERTIONS:
            return
        yield node, statement
    for child in ast.iter_child_nodes(node):
        around = child if isinstance(child, ast.stmt) else statement
        yield from _found_in(child, around)


def _targets(node: ast.stmt) -> set[str]:
    """Names that a statement assigns to."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return {each.id for each in targets if isinstance(each, ast.Name)}


def _loads(node: ast.AST, names: set[str]) -> int:
    found = (each for each in ast.walk(node) if isinstance(each, ast.Name) and each.id in names)
    return sum(isinstance(each.ctx, ast.Load) for each in found)


def _is_only_told(call: _Call) -> bool:
    """What it says goes into a name that nothing but assertions look at."""
    names = _targets(call.statement)
    told = sum(
        _loads(node, names)
        for node in ast.walk(call.function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in ASSERTIONS
    )
    return bool(names) and told == _loads(call.function, names)


# --- Single calls --------------------------------------------------------------------------------


def _simple(source: Source, vocabulary: Vocabulary, call: _Call) -> Iterator[Mutation]:
    """What is done to a single call."""
    kind = kind_of(call.name, call.is_statement, vocabulary)
    # What only reads its arguments is nothing to the model where only assertions look at it.
    told = kind == "frozen" and _is_only_told(call)
    if kind and not told and call.name not in vocabulary.locks:
        if call.is_statement:
            edit = source.removed(call.statement)
        else:
            answers = ANSWERED[kind].items()
            answer = next(text for pattern, text in answers if _fits(call.name, (pattern,)))
            edit = source.replaced(call.node, answer)
        yield _mutation(kind, "removed", [call], [edit])
    if call.name in ATOMIC:
        edits = _weakened(source, [call], {call.name: ATOMIC[call.name]})
        yield _mutation("atomic", "weakened", [call], edits)


def _mutation(kind: str, verb: str, calls: Sequence[_Call], edits: list[Edit]) -> Mutation:
    functions = tuple(dict.fromkeys(each.function.name for each in calls))
    return Mutation(kind, verb, functions, calls[0].name, calls[0].number, edits)


def _weakened(source: Source, calls: Sequence[_Call], plain: dict[str, _Plain]) -> list[Edit]:
    """Other kernels are called, which follow at the module's end with the imports they need."""
    edits = [source.replaced(call.node.func, PLAIN + call.name) for call in calls]
    needs: list[_Need] = [("mmu.machine.kernel", ("inlined_kernel",))]
    bodies = []
    for name in dict.fromkeys(call.name for call in calls):
        parameters, result, body, needed = plain[name]
        needs += [each for each in needed if each not in needs]
        bodies.append(
            f"\n\n@inlined_kernel\ndef {PLAIN}{name}(cpu: Cpu{parameters}) -> {result}:\n{body}"
        )
    return [*edits, source.appended("".join([*_imports(source.tree, needs), *bodies]))]


def _imports(tree: ast.Module, needs: Iterable[_Need]) -> list[str]:
    """Lines that import what the module neither imports nor has."""
    known = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    known |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    known |= {name for node in tree.body if isinstance(node, ast.Assign) for name in _targets(node)}
    lines = [
        f"from {module} import {', '.join(missing)}\n"
        for module, names in needs
        if (missing := [each for each in names if each not in known])
    ]
    return ["\n\n", *lines] if lines else []


# --- Locks ---------------------------------------------------------------------------------------


def _locks(source: Source, vocabulary: Vocabulary, calls: list[_Call]) -> Iterator[Mutation]:
    """Sections: what takes a lock and what releases it go together.

    A section begins with a taking, or with a release where a lock is dropped for a while; it
    goes on to the last call of the other sort before it begins again.  What has no counterpart
    in its function has it in another one of the module.
    """
    lonely: dict[tuple[str, str], list[_Call]] = {}
    for kind, key, section in _sections(vocabulary, calls):
        if len({each.name for each in section}) > 1:
            yield from _section_gone(source, vocabulary, kind, section)
        else:
            lonely.setdefault((kind, key), []).extend(section)
    for (kind, _), section in lonely.items():
        yield from _section_gone(source, vocabulary, kind, section)


def _sections(vocabulary: Vocabulary, calls: list[_Call]) -> Iterator[tuple[str, str, list[_Call]]]:
    """(kind, lock, calls) of each section, function by function."""
    by_lock: dict[tuple[str, str, str], list[_Call]] = {}
    for call in calls:
        if call.name in vocabulary.locks:
            lock = vocabulary.locks[call.name]
            by_lock.setdefault((call.function.name, lock.kind, lock.take), []).append(call)
        if call.name in WORD_LOCK:
            word = ast.unparse(call.node.args[1])
            by_lock.setdefault((call.function.name, "lock", word), []).append(call)
    for (_, kind, key), ours in by_lock.items():
        section: list[_Call] = []
        for call in ours:
            if section and call.name == section[0].name and section[-1].name != call.name:
                yield kind, key, section
                section = []
            section.append(call)
        yield kind, key, section


def _section_gone(
    source: Source, vocabulary: Vocabulary, kind: str, section: list[_Call]
) -> Iterator[Mutation]:
    """The section removed; and, where the actor's own word says what it holds, believed."""
    edits = [source.removed(each.statement) for each in section]
    yield _mutation(kind, "removed", section, edits)
    lock = vocabulary.locks.get(section[0].name)
    if lock is not None and lock.held:
        plain = _believed(lock)
        yield _mutation(kind, "weakened", section, _weakened(source, section, plain))


def _believed(lock: Lock) -> dict[str, _Plain]:
    """What only notes that the lock is held, and that it is not."""
    needs: tuple[_Need, ...] = (
        ("mmu.machine.layout", ("HELD",)),
        (lock.home, (lock.held,)),
        ("mmu.machine.primitives", ("own", "set_own")),
    )
    values = {
        lock.take: f"own(cpu, HELD) | {lock.held}",
        lock.release: f"own(cpu, HELD) & ~{lock.held}",
    }
    return {
        name: ("", "None", f"    set_own(cpu, HELD, {value})\n", needs)
        for name, value in values.items()
    }
