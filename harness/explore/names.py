"""What the words of a VM are called, in stories and in reproducers.

A name says what the word means, not where it lies: it stays when the layout changes.
"""

from __future__ import annotations

from mmu.machine import layout as at
from mmu.vm import Vm

_LOCK_PARTS = {
    0: "",
    at.GATE: " event count",
    at.SLEEPERS: " sleepers",
    at.PHASES: " phases",
    at.OWNER: " owner",
}
_HEADER = {
    at.MMU_LOCK: "mmu_lock",
    at.PAGES_LOCK: "tdp_mmu_pages_lock",
    at.SLOTS_LOCK: "slots_lock",
    at.POOL_LOCK: "page allocator",
    at.POOL: "free pages",
    at.HOST_LOCK: "mmap_lock",
    at.HOST: "free frames",
    at.ROOTS: "tdp_mmu_roots",
    at.USERS: "users_count",
    at.ZAP_QUEUED: "zap worker: queued",
    at.ZAP_FINISHED: "zap worker: finished",
    at.NOTIFIERS: "mn_active_invalidate_count",
    at.SLOTS_GENERATION: "memslots generation",
    at.STAT_PAGES_4K: "pages_4k",
    at.STAT_PAGES_2M: "pages_2m",
    at.STAT_PAGES_1G: "pages_1g",
    at.STAT_TABLES: "tables",
    at.STAT_NX_SPLITS: "nx_lpage_splits",
    at.NX_LIST: "possible_nx_huge_pages",
    at.LOGGING: "nr_memslots_dirty_logging",
    at.WAITERS: "waiters",
    at.STOP_WORD: "stop word",
    at.FINISHED: "finished",
}
_INVALIDATE = {
    at.INVALIDATE_SEQ: "mmu_invalidate_seq",
    at.IN_PROGRESS: "mmu_invalidate_in_progress",
    at.RANGE_START: "mmu_invalidate_range_start",
    at.RANGE_END: "mmu_invalidate_range_end",
}
# Of a root the same words count references and so on (a union in the kernel, too).
_RECORD = {
    at.SP_GFN: "gfn or role",
    at.SP_LEVEL: "level",
    at.SP_PARENT: "parent or references",
    at.SP_NX_DISALLOWED: "nx_huge_page_disallowed or invalid",
    at.SP_NX_NEXT: "next in list",
    at.SP_NX_PREVIOUS: "previous in list or scheduled",
    at.SP_STATE: "state",
    at.SP_GENERATION: "generation",
}
_SLOT = {
    at.SLOT_PLACE: "place",
    at.SLOT_HOME: "home",
    at.SLOT_PAGES: "pages",
    at.SLOT_LOGGED: "logged",
    at.SLOT_BITMAP: "bitmap",
    at.SLOT_HARVEST: "harvest",
}
_ACTOR = {
    at.VCPU_STATE: "state",
    at.VCPU_STATE + at.GATE: "state event count",
    at.VCPU_STATE + at.SLEEPERS: "state sleepers",
    at.REQUEST: "request",
    at.FLUSH_BLOCK: "flush block",
    at.RCU_SECTION: "RCU section",
    at.HELD: "held locks",
}
# Regions whose words are numbered as their users number them.
_PLAIN = {
    "pool": "free page {}",
    "workload": "workload word {}",
    "mapping": "host mapping of gfn {}",
    "frames": "frame {}",
    "marks": "marks of frame {}",
    "newest": "newest value at gfn {}",
    "disk": "disk copy of gfn {}",
    "free frames": "free frame {}",
    "write tracked": "trackers of gfn {}",
}


def vm_word_name(vm: Vm, word: int, actors: tuple[str, ...] = ()) -> str:
    """Name of a word; `actors` are the names of the VM's actors."""
    for region in vm.layout.regions.values():
        if region.start <= word < region.end:
            return _region_name(vm, region.name, word - region.start, actors)
    if word in _INVALIDATE:
        return _INVALIDATE[word]
    line, part = word - word % at.LINE, word % at.LINE
    if line in _HEADER:
        return _HEADER[line] + _LOCK_PARTS.get(part, f" word {part}")
    return f"header word {word}"


def _region_name(vm: Vm, region: str, offset: int, actors: tuple[str, ...]) -> str:
    if region == "actors":
        number, inner = divmod(offset, vm.layout.actor_stride)
        name = actors[number] if number < len(actors) else f"actor {number}"
        return f"{name}: {_ACTOR.get(inner, f'own word {inner}')}"
    if region == "tables":
        page, index = divmod(offset, 1 << vm.config.bits)
        return f"table {page} entry {index}"
    if region == "records":
        page, inner = divmod(offset, at.RECORD_WORDS)
        return f"table {page}: {_RECORD[inner]}"
    if region == "slots":
        number, inner = divmod(offset, at.SLOT_WORDS)
        return f"slot {number}: {_SLOT.get(inner, f'word {inner}')}"
    if region in _PLAIN:
        shift = vm.config.gfn_base if "gfn" in _PLAIN[region] else 0
        return _PLAIN[region].format(offset + shift)
    kind, _, number_text = region.partition(" ")
    names = {"bitmap": "dirty bitmap", "harvest": "harvest"}
    return f"{names[kind]} {number_text} word {offset}"
