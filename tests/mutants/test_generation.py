"""Mutants are exact: each diff applies, changes what its name says, and nothing else."""

import ast
import fnmatch
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from harness.bugs import tree
from harness.bugs.mutants.catalogue import Mutant, all_mutants, chosen, mutants_of
from harness.bugs.mutants.operators import (
    ANSWERED,
    ASSERTIONS,
    ATOMIC,
    KINDS,
    PLAIN,
    REMOVED,
    WORD_LOCK,
    kind_of,
)
from harness.bugs.mutants.vocabulary import kernels_of, read_sources, vocabulary_of
from workloads.errors import UsageError

ROOT = Path(__file__).parents[2]
MUTANTS = all_mutants(ROOT)
VOCABULARY = vocabulary_of(read_sources(ROOT))
SECTIONS = set(VOCABULARY.locks) | set(WORD_LOCK)
CALLED = {mutant.name.split(":")[1].split("#")[0] for mutant in MUTANTS}


@cache
def old_text(path: str) -> str:
    return (ROOT / path).read_text()


@cache
def new_text(mutant: Mutant) -> str:
    changed = tree.apply(mutant.diff, old_text, mutant.name)
    assert list(changed) == [mutant.path]
    return changed[mutant.path]


def kernels(text: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def calls(node: ast.AST) -> Counter[str]:
    found = (each for each in ast.walk(node) if isinstance(each, ast.Call))
    return Counter(each.func.id for each in found if isinstance(each.func, ast.Name))


def test_names_say_where_and_what_and_are_different():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names) > 150
    for mutant in MUTANTS:
        module, function, call, number, kind, verb = re.fullmatch(
            r"([\w.]+)\.(\w+):(\w+)#([0-9]+):([a-z]+)-(removed|weakened)", mutant.name
        ).groups()
        assert mutant.functions[0] == f"mmu.{module}.{function}"
        assert mutant.path == f"mmu/{module.replace('.', '/')}.py"
        assert (kind, f"{kind}-{verb}") == (mutant.kind, mutant.operator)
        calls_there = calls(kernels(old_text(mutant.path))[function])
        assert 1 <= int(number) <= calls_there[call]
    assert {mutant.kind for mutant in MUTANTS} == set(KINDS)
    assert not any(mutant.path.startswith("mmu/machine/") for mutant in MUTANTS)


def wanted_names(mutant: Mutant, lost: Counter[str]) -> set[str]:
    """Those of the lost calls that a mutant of this kind takes away or swaps."""
    if mutant.operator == "atomic-weakened":
        return set(ATOMIC)
    sections = {
        name
        for name in SECTIONS
        if (VOCABULARY.locks[name].kind if name in VOCABULARY.locks else "lock") == mutant.kind
    }
    return sections | {
        name
        for name in lost
        if mutant.kind in {kind_of(name, told, VOCABULARY) for told in (False, True)}
    }


def test_the_same_text_gives_the_same_mutants():
    assert all_mutants(ROOT) == MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_what_its_name_says(mutant):
    old, new = kernels(old_text(mutant.path)), kernels(new_text(mutant))
    ours = {name.rpartition(".")[2] for name in mutant.functions}
    plain = set(new) - set(old)
    assert all(name.startswith(PLAIN) for name in plain)
    for name in old:
        same = ast.dump(old[name]) == ast.dump(new[name])
        assert same == (name not in ours), name
    before = sum((calls(old[name]) for name in ours), Counter())
    after = sum((calls(new[name]) for name in ours), Counter())
    lost, gained = before - after, after - before
    wanted = wanted_names(mutant, lost)
    if mutant.operator.endswith("weakened"):
        assert set(lost) <= wanted
        assert gained == Counter({PLAIN + name: n for name, n in lost.items()})
        assert plain == set(gained)
    else:
        assert not gained
        assert not plain
        assert sum(lost[name] for name in wanted) == len(mutant.lines)
    if SECTIONS & set(lost):
        assert any("unlock" in name or name == "release" for name in lost)
        assert any(name.endswith("_lock") or name == "acquire_when" for name in lost)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_diff_is_minimal(mutant):
    """Every removed line holds a change; added ones stand in their place or at the end."""
    body = [line for line in mutant.diff.splitlines() if line[:3] not in ("---", "+++")]
    removed = [line for line in body if line[0] == "-"]
    assert len(removed) <= len(mutant.lines) * 3  # calls that do not fit into a line
    own = [line for line in body if line[0] == "+" and f"def {PLAIN}" not in line]
    if mutant.operator.endswith("removed"):
        assert len(own) <= len(removed)
    texts = [line[1:] for line in removed]
    assert all(text.strip() for text in texts)
    assert not any(text.lstrip().startswith(("#", '"""', "def ")) for text in texts)
    # One line of context on either side of a change.
    assert not re.search(r"^ .*\n .*\n .*\n", "\n".join(body) + "\n", re.MULTILINE)


def test_no_call_is_forgotten():
    """Calls that the patterns fit, but for what only assertions see, each belong to a mutant."""
    for path, text in read_sources(ROOT).items():
        if path.startswith("mmu/machine/"):
            continue
        lines = {line for m in MUTANTS if m.path == path for line in m.lines}
        for function in kernels_of(ast.parse(text)):
            for line, name, alone in told_apart(function):
                kind = kind_of(name, alone, VOCABULARY)
                # A test for frozen may be for an assertion, by way of a name.
                wanted = name in SECTIONS or name in ATOMIC or kind not in ("", "frozen")
                assert not wanted or line in lines, f"{path}:{line} {name}"


def test_every_pattern_fits_something():
    """A name that the model has given up would leave nothing to take away, and nobody noticed."""
    for patterns in (*REMOVED.values(), *ANSWERED.values()):
        for pattern in patterns:
            assert fnmatch.filter(CALLED, pattern), pattern
    assert set(ATOMIC) - CALLED == set()
    unused = {lock.take for lock in VOCABULARY.locks.values()} - CALLED
    assert {lock.removesuffix("_lock") + "_unlock" for lock in unused} <= CALLED


# What sounds like something to be taken away, and why it is not.
SOUNDS = re.compile("flush|[^b]lock|rcu|request|frozen|stale|obsolete|dirty|pml|^put_|^get_")
SPARED = {
    "_note_locked_retry": "counts for an oracle",
    "_serve_requests": "what it does is taken away one by one",
    "clear_flush_young": "what it does is",
    "next_valid_root_rcu": "what it does is",
    "is_dirty": "says what an entry holds and tells nobody",
    "dirty_bit_of": "says what an entry holds and tells nobody",
    "relax_mmu_lock": "its two sections are",
    "_set_accessed_dirty": "its one step is",
    "mmu_lock_contended": "who does not ask lets nobody in: slow, not wrong",
    "request_pending": "who does not ask is waited for until the next exit: slow, not wrong",
}


def test_what_sounds_like_it_is_taken_away():
    """New kernels that the patterns do not know, called somewhere in the model."""
    for path, text in read_sources(ROOT).items():
        if path.startswith("mmu/machine/"):
            continue
        for function in kernels_of(ast.parse(text)):
            for line, name, _ in told_apart(function):
                known = name in CALLED or name in SECTIONS or name in SPARED
                fits = name in VOCABULARY.kernels and SOUNDS.search(name)
                assert known or not fits, f"{path}:{line} {name}"


def test_locks_are_found_with_what_they_hold():
    held = {lock.take: lock.held for lock in VOCABULARY.locks.values()}
    names = ("mmu_read", "mmu_write", "pages", "slots", "host", "pool")
    assert held.items() >= {f"{name}_lock": f"HELD_{name.upper()}" for name in names}.items()
    assert held["rcu_read_lock"] == "HELD_RCU"
    assert all(held.values())
    assert {lock.kind for name, lock in VOCABULARY.locks.items() if "rcu" in name} == {"rcu"}


def test_every_atomic_primitive_and_setter_can_be_weakened():
    sources = read_sources(ROOT)
    primitives = ast.parse(sources["mmu/machine/primitives.py"])
    atomic = {"cmpxchg", "set_spte_atomic"}
    for node in ast.walk(primitives):  # lowers(xchg, 2)(_lower_rmw(...))
        lowered = isinstance(node, ast.Call) and isinstance(node.func, ast.Call)
        if lowered and ast.unparse(node.args[0]).startswith("_lower_rmw"):
            atomic.add(ast.unparse(node.func.args[0]))
    assert atomic == set(ATOMIC)
    setters = {name for name in VOCABULARY.kernels if re.fullmatch("_?set_.*_atomic", name)}
    assert setters == {"set_spte_atomic"}


def told_apart(function: ast.FunctionDef) -> list[tuple[int, str, bool]]:
    """(line, name, whether it is a statement) of calls that are no part of an assertion."""
    found = []
    alone = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Expr)}
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ASSERTIONS:
                continue
            found.append((node.lineno, node.func.id, id(node) in alone))
        waiting += list(ast.iter_child_nodes(node))
    return found


SNIPPET = '''
"""Ä module: bytes are not characters."""

from mmu.machine.kernel import kernel
from mmu.machine.primitives import read_once


@kernel
def alone(cpu: Cpu) -> None:
    if cpu:
        flush_remote_tlbs(
            cpu,
            0,
        )
    # what it is about
    put_root(cpu, 1)


@kernel
def asked(cpu: Cpu) -> int:
    told = is_frozen(0)
    warn(cpu, is_frozen(1) or told, 2, "ä")
    if "ä" and is_frozen(3) or get_root(cpu, xchg(cpu, 4, 5)):
        return is_frozen(6)
    return 1 if root_invalid(cpu, 7) else 0


@kernel
def dropped(cpu: Cpu) -> None:
    pages_unlock(cpu)
    wait(cpu)
    pages_lock(cpu)
    pages_unlock(cpu)
    if stopped(cpu):
        return
    pages_lock(cpu)


@kernel
def begins(cpu: Cpu) -> None:
    acquire_when(cpu, WORD, 0, 0, 1)


@kernel
def ends(cpu: Cpu) -> None:
    release(cpu, WORD, -1)


def no_kernel(cpu: Cpu) -> None:
    put_root(cpu, 1)
'''


def snippets() -> list[Mutant]:
    return mutants_of("mmu/a.py", SNIPPET, VOCABULARY)


def snippet(name: str) -> str:
    (mutant,) = (each for each in snippets() if each.name == name)
    return tree.apply(mutant.diff, {"mmu/a.py": SNIPPET}.__getitem__, "a")["mmu/a.py"]


def test_what_a_snippet_has():
    assert [each.name for each in snippets()] == [
        "a.alone:flush_remote_tlbs#1:flush-removed",
        "a.alone:put_root#1:reference-removed",
        "a.asked:is_frozen#2:frozen-removed",
        "a.asked:get_root#1:reference-removed",
        "a.asked:xchg#1:atomic-weakened",
        "a.asked:is_frozen#3:frozen-removed",
        "a.asked:root_invalid#1:stale-removed",
        "a.dropped:pages_unlock#1:lock-removed",
        "a.dropped:pages_unlock#1:lock-weakened",
        "a.dropped:pages_unlock#2:lock-removed",
        "a.dropped:pages_unlock#2:lock-weakened",
        "a.begins:acquire_when#1:lock-removed",
    ]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (
            "a.alone:flush_remote_tlbs#1:flush-removed",
            "        flush_remote_tlbs(\n            cpu,\n            0,\n        )\n",
            "        pass\n",
        ),
        ("a.alone:put_root#1:reference-removed", "about\n    put_root(cpu, 1)\n", "about\n"),
        ("a.asked:is_frozen#2:frozen-removed", '"ä" and is_frozen(3)', '"ä" and False'),
        ("a.asked:get_root#1:reference-removed", "get_root(cpu, xchg(cpu, 4, 5))", "1"),
        ("a.asked:root_invalid#1:stale-removed", "1 if root_invalid(cpu, 7) else", "1 if 0 else"),
    ],
)
def test_an_edit_is_exact(name, old, new):
    assert snippet(name) == SNIPPET.replace(old, new, 1)


def test_a_weakened_step_brings_what_it_needs():
    text = snippet("a.asked:xchg#1:atomic-weakened")
    head, tail = text.split("\n\n\nfrom ", 1)
    assert head + "\n" == SNIPPET.replace("xchg(", "plain_xchg(")
    assert tail == (
        "mmu.machine.kernel import inlined_kernel\n"
        "from mmu.machine.primitives import write_once\n"
        "\n\n@inlined_kernel\ndef plain_xchg(cpu: Cpu, addr: int, value: int) -> int:\n"
        "    old = read_once(cpu, addr)\n    write_once(cpu, addr, value)\n    return old\n"
    )


def test_sections_go_together():
    first = snippet("a.dropped:pages_unlock#1:lock-removed")
    assert "    wait(cpu)\n    pages_unlock(cpu)\n" in first
    second = snippet("a.dropped:pages_unlock#2:lock-removed")
    assert "    pages_lock(cpu)\n    if stopped(cpu):\n        return\n\n\n" in second
    both = kernels(snippet("a.begins:acquire_when#1:lock-removed"))
    assert [ast.unparse(both[name].body) for name in ("begins", "ends")] == ["pass", "pass"]


def test_a_believed_lock_is_noted_and_not_taken():
    text = snippet("a.dropped:pages_unlock#1:lock-weakened")
    assert "    set_own(cpu, HELD, own(cpu, HELD) | HELD_PAGES)\n" in text
    assert "    set_own(cpu, HELD, own(cpu, HELD) & ~HELD_PAGES)\n" in text


def test_choosing():
    some = chosen(MUTANTS, ["zap_all.*:flush-*"])
    assert [each.name for each in some] == ["zap_all.zap_all_fast:request_all#1:flush-removed"]
    assert chosen(MUTANTS, []) == MUTANTS
    assert chosen(MUTANTS, ["roots.get_root", "zap_all_fast:req"]) == [
        each for each in MUTANTS if "roots.get_root" in each.name or "zap_all_fast:req" in each.name
    ]
    with pytest.raises(UsageError, match="nothing-like-it"):
        chosen(MUTANTS, ["roots", "nothing-like-it"])
