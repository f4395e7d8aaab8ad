"""Mutants are exact: each diff applies, changes what its name says, and nothing else."""

import ast
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
    BELIEVED,
    DECIDED,
    KINDS,
    LOCKS,
    PLAIN,
    REMOVED,
    WORD_LOCK,
)
from workloads.errors import UsageError

ROOT = Path(__file__).parents[2]
MUTANTS = all_mutants(ROOT)
SECTIONS = {name for _, *pair in LOCKS.values() for name in pair} | set(WORD_LOCK)
# What a mutant of a kind takes away or swaps.
NAMES = {
    kind: {*REMOVED.get(kind, ()), *ANSWERED.get(kind, {}), *DECIDED.get(kind, {})}
    for kind in KINDS
}
NAMES["atomic"] = set(ATOMIC)
NAMES["lock"] |= SECTIONS
NAMES["rcu"] |= {"rcu_read_lock", "rcu_read_unlock"}


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
        module, function, kind, _, number = re.fullmatch(
            r"(\w+)\.(\w+):(\w+)-(removed|weakened):([0-9]+)", mutant.name
        ).groups()
        assert mutant.functions[0].endswith(f".{function}")
        file = mutant.functions[0].rpartition(".")[0].replace(".", "/")
        assert mutant.path == f"{file}.py"
        assert module == mutant.path.removeprefix("mmu/").removesuffix(".py").replace("/", "_")
        assert kind == mutant.kind
        assert int(number) >= 1
    assert {mutant.kind for mutant in MUTANTS} == set(KINDS)
    assert not any(mutant.path.startswith("mmu/machine/") for mutant in MUTANTS)


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
    wanted = NAMES[mutant.kind]
    if "-weakened:" in mutant.name:
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
    if "-removed:" in mutant.name:
        assert len(own) <= len(removed)
    texts = [line[1:] for line in removed]
    assert all(text.strip() for text in texts)
    assert not any(text.lstrip().startswith(("#", '"""', "def ")) for text in texts)
    # One line of context on either side of a change.
    assert not re.search(r"^ .*\n .*\n .*\n", "\n".join(body) + "\n", re.MULTILINE)


def test_no_call_is_forgotten():
    """Calls of the names above in kernels, but for assertions, each belong to a mutant."""
    wanted = set().union(*NAMES.values()) - {"is_frozen"}
    for path in sorted({mutant.path for mutant in MUTANTS}):
        lines = {line for m in MUTANTS if m.path == path for line in m.lines}
        for function in kernels(old_text(path)).values():
            for line, name in told_apart(function):
                assert name not in wanted or line in lines, f"{path}:{line} {name}"


def told_apart(function: ast.FunctionDef) -> list[tuple[int, str]]:
    """(line, name) of calls that are no part of an assertion."""
    found = []
    waiting = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ASSERTIONS:
                continue
            found.append((node.lineno, node.func.id))
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
    warn(cpu, is_frozen(1), 2, "ä")
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


def snippet(name: str) -> str:
    (mutant,) = (each for each in mutants_of("mmu/a.py", SNIPPET) if each.name == name)
    return tree.apply(mutant.diff, {"mmu/a.py": SNIPPET}.__getitem__, "a")["mmu/a.py"]


def test_what_a_snippet_has():
    assert [each.name for each in mutants_of("mmu/a.py", SNIPPET)] == [
        "a.alone:flush-removed:1",
        "a.alone:reference-removed:1",
        "a.asked:frozen-removed:1",
        "a.asked:reference-removed:1",
        "a.asked:atomic-weakened:1",
        "a.asked:stale-removed:1",
        "a.dropped:lock-removed:1",
        "a.dropped:lock-weakened:1",
        "a.dropped:lock-removed:2",
        "a.dropped:lock-weakened:2",
        "a.begins:lock-removed:1",
    ]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (
            "a.alone:flush-removed:1",
            "        flush_remote_tlbs(\n            cpu,\n            0,\n        )\n",
            "        pass\n",
        ),
        ("a.alone:reference-removed:1", "about\n    put_root(cpu, 1)\n", "about\n"),
        ("a.asked:frozen-removed:1", '"ä" and is_frozen(3)', '"ä" and False'),
        ("a.asked:reference-removed:1", "get_root(cpu, xchg(cpu, 4, 5))", "1"),
        ("a.asked:stale-removed:1", "1 if root_invalid(cpu, 7) else", "1 if 0 else"),
    ],
)
def test_an_edit_is_exact(name, old, new):
    assert snippet(name) == SNIPPET.replace(old, new, 1)


def test_a_weakened_step_brings_what_it_needs():
    text = snippet("a.asked:atomic-weakened:1")
    head, tail = text.split("\n\n\nfrom ", 1)
    assert head + "\n" == SNIPPET.replace("xchg(", "plain_xchg(")
    assert tail == (
        "mmu.machine.kernel import inlined_kernel\n"
        "from mmu.machine.primitives import write_once\n"
        "\n\n@inlined_kernel\ndef plain_xchg(cpu: Cpu, addr: int, value: int) -> int:\n"
        "    old = read_once(cpu, addr)\n    write_once(cpu, addr, value)\n    return old\n"
    )


def test_sections_go_together():
    first = snippet("a.dropped:lock-removed:1")
    assert "    wait(cpu)\n    pages_unlock(cpu)\n" in first
    second = snippet("a.dropped:lock-removed:2")
    assert "    pages_lock(cpu)\n    if stopped(cpu):\n        return\n\n\n" in second
    both = kernels(snippet("a.begins:lock-removed:1"))
    assert [ast.unparse(both[name].body) for name in ("begins", "ends")] == ["pass", "pass"]


def test_a_believed_lock_is_noted_and_not_taken():
    text = snippet("a.dropped:lock-weakened:1")
    assert "    set_own(cpu, HELD, own(cpu, HELD) | HELD_PAGES)\n" in text
    assert "    set_own(cpu, HELD, own(cpu, HELD) & ~HELD_PAGES)\n" in text
    bits = {body.split()[-1].strip("~)") for *_, body, _ in BELIEVED.values()}
    layers = ("MMU_READ", "MMU_WRITE", "PAGES", "SLOTS", "HOST", "POOL", "RCU")
    assert bits == {f"HELD_{name}" for name in layers}


def test_choosing():
    some = chosen(MUTANTS, ["zap_all.*:flush-*"])
    assert [each.name for each in some] == ["zap_all.zap_all_fast:flush-removed:1"]
    assert chosen(MUTANTS, []) == MUTANTS
    assert chosen(MUTANTS, ["roots.get_root", "zap_all_fast:flush"]) == [
        each
        for each in MUTANTS
        if "roots.get_root" in each.name or "zap_all_fast:flush" in each.name
    ]
    with pytest.raises(UsageError, match="nothing-like-it"):
        chosen(MUTANTS, ["roots", "nothing-like-it"])
