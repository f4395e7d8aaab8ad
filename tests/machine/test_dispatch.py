"""Kernels compiled alone: what their digests follow, and that no old code is ever run."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mmu.machine.cpu import Cpu
from mmu.machine.dispatch import (
    SOURCE_ROOT,
    DependencyError,
    KernelFunction,
    callback,
    callback_is_kept,
    digest_of,
)
from mmu.machine.kernel import registry

Load = Callable[[str], ModuleType]

# `large` is called by name, `small` is linked in; `body` is what the digest is taken of.
LONG = "\n".join(["    a = a * 3 + 1"] * 12)
SAMPLE = f"""
from mmu.machine.dispatch import KernelFunction

LIMIT = 3
STEP = 1
FACTOR = 7
UNUSED = 1

@KernelFunction
def small(cpu, a):
    return a + STEP

@KernelFunction
def large(cpu, a):
    # A comment.
{LONG}
    return a * FACTOR

def body(cpu, a):
    return small(cpu, a) + large(cpu, a) + LIMIT
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Makes a module called `sample` of a source text; compiled code goes to a folder of its own.

    Its kernels are no part of the registry: nobody else compiles them.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    numbers = iter(range(1000))

    def load(source: str) -> ModuleType:
        path = tmp_path / str(next(numbers)) / "sample.py"
        path.parent.mkdir()
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("sample", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def changed(load: Load, old: str, new: str) -> bool:
    """Whether the digest of `body` differs when `old` is replaced in the sample."""
    assert SAMPLE.count(old) == 1
    digests = [digest_of(load(text).body) for text in (SAMPLE, SAMPLE.replace(old, new))]
    assert all(len(digest) == 24 for digest in digests)
    return digests[0] != digests[1]


def test_one_is_called_by_name_and_one_is_linked_in(load: Load) -> None:
    module = load(SAMPLE)
    assert not module.large.linked_in
    assert module.small.linked_in
    assert KernelFunction(module.large.py_func, inlined=True).linked_in
    assert module.large.text_for_callers() == "tdprace:sample.large/2:int64"
    assert module.small.text_for_callers() == digest_of(module.small.py_func)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("+ LIMIT", "- LIMIT"),
        ("return a + STEP", "return a - STEP"),
        ("STEP = 1", "STEP = 2"),  # named by what is linked in
        ("return a * FACTOR", "return a > FACTOR"),  # another type
        ("return a * FACTOR", "return None if a else None"),
    ],
)
def test_a_digest_changes_with(load: Load, old: str, new: str) -> None:
    assert changed(load, old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return a * FACTOR", "return a - FACTOR"),  # the body of what is called by name
        ("FACTOR = 7", "FACTOR = 8"),  # ... and what only that names
        ("UNUSED = 1", "UNUSED = 2"),
        ("    # A comment.\n", ""),
        ("def body(cpu, a):\n", "\n\n\ndef body(cpu, a):\n    # Two, and other lines.\n"),
        ("def small(cpu, a):\n", "\n\ndef small(cpu, a):\n    # And a comment.\n"),
    ],
)
def test_a_digest_does_not_change_with(load: Load, old: str, new: str) -> None:
    assert not changed(load, old, new)


def test_a_flavour_has_code_of_its_own(load: Load) -> None:
    body = load(SAMPLE).body
    assert digest_of(body) == digest_of(body)
    assert digest_of(body) != digest_of(body, "inlined")


@pytest.mark.parametrize("value", ["[1, 2]", "{1: 2}", "object()"])
@pytest.mark.parametrize("place", ["LIMIT = 3", "STEP = 1"])
def test_what_cannot_be_followed_is_refused(load: Load, value: str, place: str) -> None:
    name = place.split()[0]
    module = load(SAMPLE.replace(place, f"{name} = {value}"))
    kind = type(eval(value)).__name__
    who = "body" if name == "LIMIT" else "small"
    with pytest.raises(DependencyError, match=rf"sample\.{who} names {name}\., a {kind}: compiled"):
        digest_of(module.body)


@pytest.mark.parametrize(
    "source",
    [
        "@KernelFunction\ndef one(cpu, a):\n    return one(cpu, a - 1) if a > 0 else 0\n",
        "@KernelFunction\ndef one(cpu, a):\n    return two(cpu, a - 1) if a > 0 else 0\n"
        "@KernelFunction\ndef two(cpu, a):\n    return one(cpu, a - 1) if a > 0 else 1\n",
    ],
    ids=["itself", "a circle"],
)
def test_a_kernel_that_calls_itself_is_refused(load: Load, source: str) -> None:
    module = load("from mmu.machine.dispatch import KernelFunction\n" + source)
    with pytest.raises(DependencyError, match=r"sample\.one calls itself"):
        module.one.settle()


def test_one_signature_and_no_other(load: Load) -> None:
    module = load(SAMPLE)
    module.large.settle()
    cpu = Cpu(np.zeros(8, np.int64))
    assert module.large(cpu, True) == module.large(cpu, 1)
    assert len(module.large.signatures) == 1
    with pytest.raises(TypeError):
        module.large(cpu, 1.5, 2)
    assert module.large not in registry


def test_a_callback_is_kept(load: Load) -> None:
    body = load("def body(a, b):\n    return a * 10 + b\n").body
    assert not callback_is_kept(body)
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(callback(body, 2))
    assert call(3, 4) == 34
    assert callback_is_kept(body)
    assert not callback_is_kept(load("def body(a, b):\n    return a * 20 + b\n").body)


# --- New processes -------------------------------------------------------------------------------

CALLEE = f"""
from mmu.machine.kernel import kernel

@kernel
def callee(cpu, a):
{LONG}
    return a * 0 + 5
"""
CALLER = """
from callee import callee
from mmu.machine.kernel import kernel

@kernel
def caller(cpu, a):
    return callee(cpu, a) + 100
"""
WAITER = """
from mmu.machine.blocking import release, spin_while, wait_while
from mmu.machine.conditions import warn
from mmu.machine.kernel import kernel

@kernel
def caller(cpu, a):
    spin_while(cpu, a, 0)
    wait_while(cpu, a, 0)
    release(cpu, a, -1)
    warn(cpu, a, 1, 0, 0, 0)
    return a
"""
RUN = """
import json, sys, threading, time
import numpy as np
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import settle
from caller import caller

compiled = settle(caller)
words = np.zeros(1024, np.int64)
def change():
    time.sleep(0.1)
    words[8] = 1
threading.Thread(target=change).start()
result = compiled(Cpu(words, own=512), 8)
print(json.dumps({
    "result": int(result),
    "loaded": sorted(
        each.__name__ for name in ("caller", "callee") if name in sys.modules
        for each in [getattr(sys.modules[name], name)] if each.stats.cache_hits
    ),
}))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all processes of this module keep the primitives' kernels."""
    return tmp_path_factory.mktemp("cache")


def run_new(folder: Path, cache: Path) -> dict[str, Any]:
    """What a new process finds that settles `caller` alone, and runs it."""
    path = os.pathsep.join([str(folder), str(SOURCE_ROOT)])
    environment = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_an_unchanged_caller_runs_the_changed_callee(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)

    def run(callee: str) -> dict[str, Any]:
        (tmp_path / "callee.py").write_text(callee)
        return run_new(tmp_path, cache)

    assert run(CALLEE) == {"result": 105, "loaded": []}
    assert run(CALLEE) == {"result": 105, "loaded": ["callee", "caller"]}
    assert run(CALLEE.replace("+ 5", "+ 6")) == {"result": 106, "loaded": ["caller"]}
    # Another type returned: the caller's code would take a byte for a word.
    assert run(CALLEE.replace("* 0 + 5", "> 0")) == {"result": 101, "loaded": []}
    assert run("# moved\n" + CALLEE) == {"result": 105, "loaded": ["callee", "caller"]}


def test_what_primitives_call_is_there_when_a_kernel_is_loaded_alone(
    tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "caller.py").write_text(WAITER)
    assert run_new(tmp_path, cache) == {"result": 8, "loaded": []}
    assert run_new(tmp_path, cache) == {"result": 8, "loaded": ["caller"]}
