"""From an actor's last events to the operations that it did.

Relied on are tracepoints: faults, accesses, invalidations, freed frames, roots, harvests, zaps.
Steps tell more where they were kept (which memslot, where a page went); without them an operation
has several readings, and each of them is tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.rebuild.finding import GFN, Finding, Memory, Record
from mmu.host.frames import MAPPING_RWX
from mmu.machine.layout import SLOT_INVALID, SLOT_PRESENT
from mmu.memslots import STATE_MASK
from mmu.spte import ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE
from workloads.plan import HOST, IDLE_SCAN, MIGRATION, NX_RECOVERY, VCPU, VMM, ZAP_WORKER

ACCESSES = {ACCESS_READ: "read", ACCESS_WRITE: "write", ACCESS_EXECUTE: "execute"}
ANY_ACCESS = ("write", "read", "execute")
SWITCH = "switch root"
SLOT_CHANGES = ("create slot", "delete slot", "move slot")
WHOLE_VM = (*SLOT_CHANGES, SWITCH, "recover nx", "log", "stop logging", "harvest")
_STORES = ("store_release", "write", "xchg")
_SLOT_WORD = re.compile(r"slot ([0-9]+): (place|logged)$")
_MAPPING_WORD = re.compile(r"host mapping of gfn ([0-9]+)$")


@dataclass(frozen=True)
class Done:
    """An operation, as an actor's events tell of it.

    Attributes:
        ns: when it was first seen at work, from the violation.
        readings: what it may have been, the likeliest first; names of `OPERATIONS`.
        page, slot: what it was about, -1: nothing, or not known.
        faulted: a guest access that needed a fault.
        ended: seen to its end; else the run ended in the midst of it.
        guessed: nothing tells of it but that its actor did something.
    """

    ns: int
    actor: str
    readings: tuple[str, ...]
    page: int = -1
    slot: int = -1
    faulted: bool = False
    ended: bool = True
    guessed: bool = False

    @property
    def of_whole_vm(self) -> bool:
        """Whoever uses the VM is touched by it."""
        return self.readings[0] in WHOLE_VM


def recover(finding: Finding) -> dict[str, list[Done]]:
    """{actor: its operations, oldest first}, of actors that did any; zap workers only serve.

    A migration's thread is one more of the monitor's: their operations are told as one's.
    """
    by_actor: dict[str, list[Record]] = {}
    for record in finding.records:
        by_actor.setdefault(record["actor"], []).append(record)
    invalidations = [r["ns"] for r in finding.records if r["do"] == "zap_all_fast"]
    found = {}
    for name, records in by_actor.items():
        if name.startswith(VCPU):
            found[name] = _of_vcpu(name, records, finding.memory, invalidations)
        elif name == ZAP_WORKER:
            found[name] = []
        elif name == HOST or any(r["do"].startswith("invalidate_range") for r in records):
            # Whoever invalidates is a thread of the host: reclaim, ksm, khugepaged.
            found[name] = _of_host(name, records, finding)
        elif name == NX_RECOVERY:
            zaps = [record["ns"] for record in records if record["do"] == "prepare_zap"]
            found[name] = [Done(ns, name, ("recover nx",)) for ns in zaps[-1:]]
        elif name == IDLE_SCAN:
            # What it has changed names entries: the page is the one that matters, if any.
            page = next(iter(finding.pages), 0)
            looks = [record["ns"] for record in records if record["do"] == "spte_changed"]
            found[name] = [Done(ns, name, ("age",), page) for ns in looks[-1:]]
    both = (by_actor.get(VMM, []), by_actor.get(MIGRATION, []))
    found[VMM] = _of_vmm(VMM, sorted((r for records in both for r in records), key=_moment))
    return {name: done for name, done in found.items() if done or name == ZAP_WORKER}


def _moment(record: Record) -> int:
    return int(record["ns"])


# --- vCPUs ---------------------------------------------------------------------------------------


def _of_vcpu(
    name: str, records: Sequence[Record], memory: Memory, invalidations: Sequence[int]
) -> list[Done]:
    """Accesses, with the faults that they needed in one; changes of root that nobody asked for."""
    found: list[Done] = []
    put = False
    since = records[0]["ns"]
    broke: int | None = None  # when a rule was broken by an operation that is not known yet
    for record in records:
        do, ns = record["do"], record["ns"]
        if do == "VIOLATION":
            page = _page_in(record["text"], memory)
            if page >= 0:
                _add_access(found, Done(ns, name, ANY_ACCESS, page, ended=False))
            elif broke is None:
                broke = ns
        elif do in ("page_fault", "guest_access") and record["b"] in ACCESSES:
            began, broke = (ns if broke is None else broke), None
            reading = (ACCESSES[record["b"]],)
            page = memory.page_of(record["a"])
            fault = do == "page_fault"
            _add_access(found, Done(began, name, reading, page, faulted=fault, ended=not fault))
        elif do == "root_put":
            put = True
        elif do == "root_get":
            if put and not _asked(invalidations, since, ns):
                found.append(Done(ns if broke is None else broke, name, (SWITCH,)))
                broke = None
            put, since = False, ns
    if put and not _asked(invalidations, since, records[-1]["ns"]):
        found.append(Done(records[-1]["ns"], name, (SWITCH,), ended=False))
    elif broke is not None or not found:
        # Its first fault, or the one that broke a rule, did not end: any page will do.
        ns = records[-1]["ns"] if broke is None else broke
        found.append(Done(ns, name, ANY_ACCESS, 0, faulted=True, ended=False, guessed=True))
    return found


def _asked(invalidations: Sequence[int], since: int, until: int) -> bool:
    """Whether a vCPU that has had its root `since` then had to load another one."""
    return any(since <= moment <= until for moment in invalidations)


def _page_in(text: str, memory: Memory) -> int:
    """The page whose gfn a message names first, -1: none."""
    match = GFN.search(text)
    return -1 if match is None else memory.page_of(int(match[1], 16))


def _add_access(found: list[Done], done: Done) -> None:
    """Join what belongs to one access: faults that were sent back, the access itself, its verdict.

    A verdict does not say which access it was; the access that follows it at once does.
    """
    last = found[-1] if found else None
    same = last is not None and last.page == done.page and not last.ended
    if last is not None and same and set(last.readings) & set(done.readings):
        readings = tuple(each for each in last.readings if each in done.readings)
        faulted = last.faulted or done.faulted
        found[-1] = replace(done, ns=last.ns, readings=readings, faulted=faulted)
    else:
        found.append(done)


# --- The host ------------------------------------------------------------------------------------


def _of_host(name: str, records: Sequence[Record], finding: Finding) -> list[Done]:
    """One operation for each invalidation, and what was begun when all ended."""
    found: list[Done] = []
    part: list[Record] = []
    for record in records:
        part.append(record)
        if record["do"] == "invalidate_range_end":
            found.append(_host_operation(name, part, finding))
            part = []
    begun = _host_begun(part, finding)
    if begun >= 0:
        one = {"do": "begun", "a": begun, "b": begun + 1, "ns": part[-1]["ns"]}
        done = _host_operation(name, [*part, one], finding)
        found.append(replace(done, ended=False))
    return found


def _host_begun(part: Sequence[Record], finding: Finding) -> int:
    """The page of an operation that did not end, -1 if none had begun."""
    for record in reversed(part):
        mapping = _MAPPING_WORD.match(record.get("name", ""))
        if record["do"] == "invalidate_range_start":
            return int(record["a"])
        if record["do"] == "frame_free":
            return finding.memory.page_of(finding.memory.gfn_base + int(record["b"]))
        if record["do"] == "VIOLATION" and finding.pages:
            return finding.pages[0]
        if mapping is not None:
            return finding.memory.page_of(int(mapping[1]))
    return -1


def _host_operation(name: str, part: Sequence[Record], finding: Finding) -> Done:
    """What was done to the pages of the invalidation that `part` ends with."""
    first, end = part[-1]["a"], part[-1]["b"]
    freed = any(record["do"] == "frame_free" for record in part)
    told = any(record["do"] == "frame_free" for record in finding.records)
    huge = finding.vm["backing_level"] > 1
    readings: tuple[str, ...]
    if end - first > 1:
        readings = ("split", "collapse") if not freed else ("collapse", "split")
        if not huge:
            readings = ("discard",)
    elif freed:
        readings = _moved_or_swapped(part)
    elif part[-1]["do"] == "begun" or not told:
        readings = ("swap out", "move", "write-protect")
    else:
        readings = ("write-protect",)
    return Done(part[0]["ns"], name, readings, int(first))


def _moved_or_swapped(part: Sequence[Record]) -> tuple[str, ...]:
    """Where the page's new mapping was seen, it says which."""
    for record in part:
        if record["do"] in _STORES and _MAPPING_WORD.match(record.get("name", "")):
            return ("move",) if record["b"] & MAPPING_RWX else ("swap out",)
    return ("swap out", "move")


# --- The monitor ---------------------------------------------------------------------------------


def _of_vmm(name: str, records: Sequence[Record]) -> list[Done]:
    """Memslot changes, or at least what they invalidate; logging switched on and off; harvests."""
    found: list[Done] = []
    # Tracepoints if there are any, else steps on the memslots' words: not both.
    changes = {number: change for number, r in enumerate(records) if (change := _told_change(r))}
    changes = changes or {
        number: change for number, r in enumerate(records) if (change := _seen_change(r))
    }
    placed = any(word == "place" for _, word, _ in changes.values())
    for number, record in enumerate(records):
        do, ns = record["do"], record["ns"]
        if number in changes:
            slot, word, value = changes[number]
            if word == "place":
                _add_slot_change(found, name, ns, slot, value)
            else:
                found.append(Done(ns, name, ("log" if value else "stop logging",), slot=slot))
        elif do == "zap_all_fast" and not placed:
            found.append(Done(ns, name, ("delete slot", "move slot")))
        elif do == "dirty_log_returned" and not (found and found[-1].readings == ("harvest",)):
            found.append(Done(ns, name, ("harvest",), slot=int(record["c"])))
    return found


def _told_change(record: Record) -> tuple[int, str, int] | None:
    """(memslot, word, value) of a tracepoint that tells of a memslot's change."""
    word = {"memslot_changed": "place", "dirty_log_changed": "logged"}.get(record["do"])
    return None if word is None else (record["a"], word, record["b"])


def _seen_change(record: Record) -> tuple[int, str, int] | None:
    """The same of a step on a memslot's word."""
    match = _SLOT_WORD.match(record.get("name", "")) if record["do"] in _STORES else None
    return None if match is None else (int(match[1]), match[2], record["b"])


def _add_slot_change(found: list[Done], name: str, ns: int, slot: int, place: int) -> None:
    """A memslot's word says: about to go, gone, or there; the last two end what the first began."""
    state = place & STATE_MASK
    last = found[-1] if found else None
    begun = last is not None and last.slot == slot and not last.ended
    if state == SLOT_INVALID:
        found.append(Done(ns, name, ("delete slot", "move slot"), slot=slot, ended=False))
        return
    if last is not None and begun:
        ns = found.pop().ns
        reading = "move slot" if state == SLOT_PRESENT else "delete slot"
    else:
        # Its beginning lies before the ring's.
        reading = "create slot" if state == SLOT_PRESENT else "delete slot"
    found.append(Done(ns, name, (reading,), slot=slot))


def last_before(done: Iterable[Done], ns: int) -> list[Done]:
    """Operations that had begun at a moment."""
    return [each for each in done if each.ns <= ns or not each.ended]
