"""The last events of a run in words: a row of the stored file each, and the end of it printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.explore.decode import number_text, place_text, vm_value_text
from harness.explore.names import vm_word_name
from harness.explore.reproducer import OPERATIONS
from harness.oracles.sentences import tell
from harness.report.tables import duration_ns
from harness.watch.block import KINDS as INJECTED
from harness.watch.ring import Event
from mmu.machine import events as on
from mmu.machine.blocking import EXCLUSIVE, SHARED_UNIT
from mmu.vm import Vm

STORED_MAX = 1 << 16
SHOWN_BEFORE = 24
SHOWN_AFTER = 4
SHOWN_OF_OTHERS = 3
OTHERS_MAX = 8
ACTOR_WIDTH = 10
DO_WIDTH = 14

_TRACEPOINTS = (
    "spte_changed",
    "page_fault",
    "tlb_flush",
    "dirty_log_returned",
    "guest_access",
    "rcu_enter",
    "rcu_leave",
    "table_alloc",
    "table_free",
    "split_huge_page",
    "prepare_zap",
    "root_get",
    "root_put",
    "zap_all_fast",
    "invalidate_range_start",
    "invalidate_range_end",
    "frame_free",
    "root_zapped",
    "memslot_changed",
    "dirty_log_changed",
    "track_write",
)
TRACEPOINTS = dict(enumerate(_TRACEPOINTS, start=on.SPTE_CHANGED))
_QUESTIONS = {on.AGAIN: "again", on.BLOCK: "sleep"}
_WRITES = (on.WRITE_ONCE, on.STORE_RELEASE, on.XCHG, on.POKE)
_MODES = {EXCLUSIVE: "exclusive", SHARED_UNIT: "shared"}


@dataclass(frozen=True)
class RingText:
    """The events around a run's end, by time; `moment` is the number of the one it is about."""

    records: tuple[dict[str, Any], ...]
    moment: int

    def json_lines(self) -> str:
        """A line for each event."""
        return "".join(json.dumps(record) + "\n" for record in self.records)

    def shown(self) -> list[str]:
        """The events just before the moment, and a few after it; then who did nothing then.

        An actor that stands still says most about a hang, and its events lie far back.
        """
        end = self.moment + 1
        first = max(0, end - SHOWN_BEFORE)
        shown = self.records[first : end + SHOWN_AFTER]
        lines = [_line(record) for record in shown]
        others: dict[str, list[dict[str, Any]]] = {}
        for record in self.records[:first]:
            others.setdefault(record["actor"], []).append(record)
        for name in [n for n in others if all(r["actor"] != n for r in shown)][:OTHERS_MAX]:
            lines.append(f"and the last of {name}:")
            lines += [_line(record) for record in others[name][-SHOWN_OF_OTHERS:]]
        return lines


def ring_text(
    vm: Vm,
    names: Sequence[str],
    events: Sequence[Event],
    moment: int | None,
    ticks_per_ns: float,
) -> RingText | None:
    """All in words, times in ns from `moment` (ticks; None: the last event); None without events.

    What an entry meant is said by the tables as they are now.
    """
    if not events:
        return None
    now = events[-1].ticks if moment is None else moment
    before = sum(event.ticks <= now for event in events)
    # Where not all fit, what lies close to the moment.
    first = max(0, before - STORED_MAX)
    kept = events[first : first + STORED_MAX]
    records = tuple(
        _record(vm, names, each, round((each.ticks - now) / ticks_per_ns)) for each in kept
    )
    return RingText(records, max(before - 1 - first, 0))


def _record(vm: Vm, names: Sequence[str], event: Event, ns: int) -> dict[str, Any]:
    record: dict[str, Any] = {"ns": ns, "actor": names[event.actor], "do": _operation(event)}
    if event.kind <= on.STEP_LAST or event.kind == on.BLOCK:
        record["word"] = event.a
        record["name"] = _word_name(vm, event.a, names)
    record.update(a=event.a, b=event.b, c=event.c, text=_meaning(vm, event, names))
    return record


def _operation(event: Event) -> str:
    kind = event.kind
    if kind >= on.WARN:
        return "VIOLATION"
    if kind >= on.EMIT:
        return TRACEPOINTS.get(kind - on.EMIT, f"event {kind - on.EMIT}")
    return OPERATIONS.get(kind) or _QUESTIONS.get(kind, f"event {kind}")


def _word_name(vm: Vm, word: int, names: Sequence[str]) -> str:
    if not 0 <= word < len(vm.words):
        return f"word {word}, outside the block"
    return vm_word_name(vm, word, tuple(names))


def _meaning(vm: Vm, event: Event, names: Sequence[str]) -> str:
    """What is known beyond operation and word."""
    kind, a, b, c = event.kind, event.a, event.b, event.c
    if kind >= on.WARN:
        oracle, sentence = tell(kind - on.WARN, a, b, c)
        return f"{oracle}: {sentence}"
    if kind == on.EMIT + on.SPTE_CHANGED:
        values = f"{vm_value_text(vm, a, b)} -> {vm_value_text(vm, a, c)}"
        return f"{_word_name(vm, a, names)}: {values}"
    if kind == on.EMIT + on.MEMSLOT_CHANGED:
        return f"slot {a}: {place_text(b)}"
    if kind >= on.EMIT:
        return " ".join(number_text(value) for value in (a, b, c))
    if kind == on.PROBE:
        return f"{INJECTED[a - on.PROBE_RETRY]} is made to fail"
    if kind > on.STEP_LAST:
        return ""
    if not 0 <= a < len(vm.words):
        return ""
    return _step_meaning(vm, event)


def _step_meaning(vm: Vm, event: Event) -> str:
    kind, a, b, c = event.kind, event.a, event.b, event.c
    if kind in (on.READ_ONCE, on.LOAD_ACQUIRE):
        return f"holds {vm_value_text(vm, a, b)}"
    if kind in _WRITES:
        more = f", and the {c - 1} words behind it" if kind == on.POKE and c > 1 else ""
        return f"becomes {vm_value_text(vm, a, b)}{more}"
    if kind == on.CMPXCHG:
        return f"{vm_value_text(vm, a, b)} -> {vm_value_text(vm, a, c)}"
    if kind == on.WAIT_WHILE:
        return f"while it is {vm_value_text(vm, a, b)}"
    if kind in (on.ACQUIRE, on.RELEASE):
        return _MODES.get(abs(c), f"{c:+}")
    if kind in (on.FETCH_ADD, on.COUNT):
        return f"{b:+}"
    return f"{b:#x}"


def _line(record: Mapping[str, Any]) -> str:
    sign = "-" if record["ns"] < 0 else "+"
    when = f"{sign}{duration_ns(abs(record['ns']))}"
    parts = (record.get("name", ""), record["text"])
    what = ": ".join(part for part in parts if part)
    return (
        f"{when:>9}  {record['actor']:<{ACTOR_WIDTH}}  {record['do']:<{DO_WIDTH}}  {what}".rstrip()
    )
