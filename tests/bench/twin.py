"""The C twin from Python: its constants generated, built by gcc, called on a VM's own words.

`layout.h` is written from the model's modules at build time; a test may change one constant, to see
that a wrong twin is caught.
"""

from __future__ import annotations

import ctypes
import importlib
import pkgutil
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import mmu
from mmu.machine.cpu import Cpu
from mmu.machine.layout import VCPU_ROOT
from mmu.reload import load_root
from mmu.vm import Vm
from workloads.actors import memstress

SOURCES = Path(__file__).parent
FLAGS = ("-O2", "-std=gnu11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
BUILD_TIMEOUT_S = 60


def compiler() -> str | None:
    """Path of gcc, None if this machine has none."""
    return shutil.which("gcc")


def constants() -> dict[str, int]:
    """Every integer constant of the model and of memstress, by its name in C.

    Where modules mean different things by one name, the module's own name goes before it.
    """
    names = [each.name for each in pkgutil.walk_packages(mmu.__path__, "mmu.")]
    values: dict[str, dict[str, int]] = {}
    for module in (*(importlib.import_module(name) for name in names), memstress):
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, int):
                values.setdefault(name, {})[module.__name__.rpartition(".")[2]] = value
    found: dict[str, int] = {}
    for name, by_module in values.items():
        if len(set(by_module.values())) == 1:
            found[name] = next(iter(by_module.values()))
        else:
            found |= {f"{module.upper()}_{name}": value for module, value in by_module.items()}
    return found


def header(changed: Mapping[str, int]) -> str:
    """`layout.h`: every constant, those in `changed` with another value."""
    known = constants()
    unknown = changed.keys() - known.keys()
    if unknown:
        raise ValueError(f"no such constants: {', '.join(sorted(unknown))}")
    lines = ["#pragma once"]
    lines += [f"#define {name} INT64_C({known[name]})" for name in known if name not in changed]
    lines += [f"#define {name} INT64_C({value})" for name, value in changed.items()]
    return "\n".join(lines) + "\n"


def _build(changed: Mapping[str, int]) -> ctypes.CDLL:
    gcc = compiler()
    if gcc is None:
        raise FileNotFoundError("gcc")
    # A loaded library needs its file no more.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "layout.h").write_text(header(changed))
        library = Path(folder) / "twin.so"
        command = [gcc, *FLAGS, f"-I{folder}", str(SOURCES / "twin.c"), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
        if done.returncode != 0:
            raise RuntimeError(f"gcc could not build the twin:\n{done.stderr}")
        return ctypes.CDLL(str(library))


class Twin:
    """The C twin's functions, called as the model's; `changed` constants make it a wrong one."""

    def __init__(self, changed: Mapping[str, int] | None = None) -> None:
        self._library = _build(changed or {})
        for name, arguments, result in (
            ("twin_vcpu_load", 4, None),
            ("twin_memstress_batch", 11, ctypes.c_int64),
            ("twin_cas_loop", 3, None),
        ):
            function = getattr(self._library, name)
            function.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * (arguments - 1)]
            function.restype = result

    def vcpu_load(self, cpu: Cpu) -> None:
        """As `mmu.guest.vcpu_load`, whose root is loaded by the model: no hot path does that."""
        if cpu.words[cpu.own + VCPU_ROOT] == 0:
            load_root(cpu)
        self._library.twin_vcpu_load(cpu.base, cpu.own, cpu.id, cpu.geometry)

    def memstress_batch(
        self,
        cpu: Cpu,
        first: int,
        pages: int,
        write_percent: int,
        at_random: int,
        kind: int,
        regions: int,
        limit: int,
    ) -> int:
        """As `workloads.actors.memstress.memstress_batch`."""
        head = (cpu.base, cpu.own, cpu.id, cpu.geometry)
        batch = self._library.twin_memstress_batch
        return int(batch(*head, first, pages, write_percent, at_random, kind, regions, limit))

    def cas_loop(self, cpu: Cpu, word: int, wanted: int) -> None:
        """As `tests.bench.kernels.cas_loop`."""
        self._library.twin_cas_loop(cpu.base, word, wanted)


def differences(one: Vm, other: Vm) -> list[str]:
    """Every word in which two VMs of one layout differ: where it is, and both values."""
    words = np.flatnonzero(one.words != other.words)
    return [
        f"{_place(one, int(word))}: {int(one.words[word]):#x}, {int(other.words[word]):#x}"
        for word in words
    ]


def _place(vm: Vm, word: int) -> str:
    for region in vm.layout.regions.values():
        if region.start <= word < region.end:
            offset = word - region.start
            if region.name == "actors":
                actor, offset = divmod(offset, vm.layout.actor_stride)
                return f"actor {actor} word {offset}"
            return f"{region.name} word {offset}"
    return f"header word {word}"
