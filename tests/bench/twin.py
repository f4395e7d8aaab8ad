"""The C twin from Python: its constants generated, built by gcc, called on a VM's own words.

`layout.h` is written from the model's modules at build time; a test may change one constant, to see
that a wrong twin is caught.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from mmu import guest, spte, tdp_mmu
from mmu.host import frames
from mmu.hw import tlb, vcpu, walker
from mmu.machine import blocking, conditions, layout, lock
from mmu.machine.cpu import Cpu
from mmu.tdp import map as tdp_map
from mmu.vm import Vm
from workloads.actors import memstress

SOURCES = Path(__file__).parent
FLAGS = ("-O2", "-std=gnu11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
BUILD_TIMEOUT_S = 60

# Modules whose constants the twin may use; a prefix where two of them use one name.
_MODULES: tuple[tuple[ModuleType, str], ...] = (
    (layout, ""),
    (blocking, ""),
    (lock, ""),
    (conditions, ""),
    (spte, ""),
    (tlb, "TLB_"),
    (vcpu, ""),
    (walker, ""),
    (frames, ""),
    (tdp_mmu, ""),
    (tdp_map, ""),
    (guest, ""),
    (memstress, ""),
)


def compiler() -> str | None:
    """Path of gcc, None if this machine has none."""
    return shutil.which("gcc")


def constants() -> dict[str, int]:
    """Every constant of the model that the twin may use, by its name in C."""
    found: dict[str, int] = {}
    for module, prefix in _MODULES:
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, int):
                known = found.setdefault(_c_name(name, prefix), value)
                if known != value:
                    raise ValueError(f"{module.__name__}.{name} is {value}, another one is {known}")
    return found


def _c_name(name: str, prefix: str) -> str:
    return name if name.startswith(prefix) else prefix + name


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
        """As `mmu.guest.vcpu_load`."""
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
