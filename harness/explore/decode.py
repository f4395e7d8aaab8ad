"""What a value means at its word: entries, locks, vCPU states, bitmaps, frames."""

from __future__ import annotations

from harness.explore.world import World
from mmu import spte
from mmu.host.frames import NOBODY, OWNER_MASK, VALUE_MASK, VALUE_SHIFT
from mmu.hw.vcpu import IN_GUEST_MODE, MODE_MASK, REQUEST_SHIFT, SRCU_HELD
from mmu.machine import layout as at
from mmu.machine.blocking import EXCLUSIVE, SHARED_UNIT
from mmu.machine.twin import interpreted
from mmu.memslots import STATE_BITS, STATE_MASK, UPDATE_IN_PROGRESS
from mmu.tdp_iter import ROOT_LEVEL_BITS
from mmu.vm import Vm

LOCKS = (at.MMU_LOCK, at.PAGES_LOCK, at.SLOTS_LOCK, at.POOL_LOCK, at.HOST_LOCK)
SLOT_STATES = {at.SLOT_ABSENT: "absent", at.SLOT_PRESENT: "present", at.SLOT_INVALID: "invalid"}
SIZES = {1: "huge ", 2: "2M ", 3: "1G "}
DECIMAL_MAX = 4096


def value_text(world: World, word: int, value: int) -> str:
    """The value as a kernel engineer would say it."""
    return number_text(value) if world.vm is None else vm_value_text(world.vm, word, value)


def vm_value_text(vm: Vm, word: int, value: int) -> str:
    """The same, for a word of a VM."""
    name = _region_of(vm, word)
    if name == "tables":
        return entry_text(vm, word, value)
    if word in LOCKS:
        return lock_text(value)
    if word == at.ROOTS:
        return f"root @{value >> ROOT_LEVEL_BITS}" if value else "none"
    if word == at.SLOTS_GENERATION:
        changing = ", a change is under way" if value & UPDATE_IN_PROGRESS else ""
        return f"{value & ~UPDATE_IN_PROGRESS}{changing}"
    if name == "slots" and (word - vm.layout.start("slots")) % at.SLOT_WORDS == at.SLOT_PLACE:
        return place_text(value)
    if name == "actors":
        offset = (word - vm.layout.start("actors")) % vm.layout.actor_stride
        return state_text(value) if offset == at.VCPU_STATE else number_text(value)
    if name.startswith(("bitmap", "harvest")):
        return bitmap_text(vm, value)
    if name == "frames":
        return frame_text(vm, word, value)
    return number_text(value)


def number_text(value: int) -> str:
    """Small ones in decimal."""
    return str(value) if -DECIMAL_MAX < value < DECIMAL_MAX else hex(value)


def entry_text(vm: Vm, word: int, value: int) -> str:
    """`leaf pfn 7 rw-, MMU-writable`, `frozen`, `table @3 level 2`."""
    if value == spte.NONPRESENT:
        return "empty"
    if value == spte.FROZEN:
        return "frozen"
    if value == spte.POISON:
        return "freed"
    if value & spte.RWX == spte.MMIO_VALUE:
        generation = interpreted(spte.mmio_generation)(value)
        return f"MMIO gfn {value >> spte.PFN_SHIFT & spte.PFN_MASK}, generation {generation}"
    if not value & spte.MMU_PRESENT:
        return f"not present {value:#x}"
    pfn = (value >> spte.PFN_SHIFT) & spte.PFN_MASK
    page = (word - vm.layout.start("tables")) >> vm.config.bits
    record = vm.layout.start("records") + page * at.RECORD_WORDS
    # What kind of entry it is, its own bits say; the level is that of the table as it is now, which
    # may have been freed and used again since (1: it is another one).
    level = int(vm.words[record + at.SP_LEVEL]) or 1
    if not value & (spte.PS | spte.IPAT):
        return f"table @{pfn} level {level - 1}" if level > 1 else f"table @{pfn}"
    size = SIZES.get(level, f"level {level} ") if value & spte.PS else ""
    text = f"{size}leaf pfn {pfn} {_rights_text(value)}"
    if value & spte.AD_DISABLED and not value & spte.RWX:
        text += f", access-tracked ({_rights_text(value >> spte.SAVED_SHIFT)} put aside)"
    if value & spte.MMU_WRITABLE and not value & spte.SPTE_W:
        text += ", MMU-writable"
    if value & spte.AD_DISABLED:
        return f"{text}, without A and D"
    flags = [letter for letter, bit in (("A", spte.ACCESSED), ("D", spte.DIRTY)) if value & bit]
    return f"{text}, {''.join(flags)}" if flags else text


def _rights_text(bits: int) -> str:
    """`r-x`."""
    letters = (("r", spte.SPTE_R), ("w", spte.SPTE_W), ("x", spte.SPTE_X))
    return "".join(letter if bits & bit else "-" for letter, bit in letters)


def lock_text(value: int) -> str:
    """`free`, `writer`, `2 readers`."""
    if value == 0:
        return "free"
    readers = value // SHARED_UNIT
    parts = ["writer"] if value & EXCLUSIVE else []
    if readers:
        parts.append(f"{readers} reader" + "s" * (readers != 1))
    return " + ".join(parts) or hex(value)


def place_text(value: int) -> str:
    """`gfn 0, present`."""
    return f"gfn {value >> STATE_BITS}, {SLOT_STATES.get(value & STATE_MASK, '?')}"


def state_text(value: int) -> str:
    """A vCPU's mode and the request that it has served."""
    mode = "in guest" if value & MODE_MASK == IN_GUEST_MODE else "outside"
    srcu = ", SRCU held" if value & SRCU_HELD else ""
    return f"{mode}{srcu}, served {value >> REQUEST_SHIFT}"


def bitmap_text(vm: Vm, value: int) -> str:
    """`{gfn 0, gfn 3}`."""
    gfns = [f"gfn {vm.config.gfn_base + i}" for i in range(at.BITMAP_BITS) if value >> i & 1]
    return "{" + ", ".join(gfns) + "}"


def frame_text(vm: Vm, word: int, value: int) -> str:
    """How often it was written, and whose it is if not its first owner's."""
    frame = word - vm.layout.start("frames")
    owner = (value & OWNER_MASK) ^ frame
    text = f"value {(value >> VALUE_SHIFT) & VALUE_MASK}"
    if owner == NOBODY:
        return f"{text}, free"
    return text if owner == frame else f"{text}, owner gfn {owner}"


def _region_of(vm: Vm, word: int) -> str:
    for region in vm.layout.regions.values():
        if region.start <= word < region.end:
            return region.name
    return "header"
