"""Which counters a run's tables show."""

from harness.report.run_tables import SHOWN_COUNTERS, WHOLE_RUN_COUNTERS, counters
from mmu.machine.layout import COUNTER_NAMES

MEMORY = {"shared_bytes": 1 << 20, "pss_bytes": 1 << 21}


def run(variant: str, **counted: int) -> dict:
    phases = [{"name": "zap", "seconds": 1.0, "counters": counted}]
    return {"variant": variant, "phases": phases, "counters": counted, "memory": MEMORY}


def shown(table: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines()[2:]]
    return {name: cells for name, *cells in rows}


def test_every_shown_counter_exists_and_none_twice():
    assert len(set(SHOWN_COUNTERS)) == len(SHOWN_COUNTERS)
    assert set(SHOWN_COUNTERS) <= set(COUNTER_NAMES)
    roots = {name for name in COUNTER_NAMES if name.startswith("roots_")}
    more = {"sptes_zapped", "tables_freed", "notifier_unmaps", "host_faults", "host_writebacks"}
    assert roots | more | {"slots_changed", "mmio_exits", "yields"} <= set(SHOWN_COUNTERS)
    assert "tables_allocated" in WHOLE_RUN_COUNTERS


def test_a_counter_is_shown_where_it_is_not_zero():
    for name in SHOWN_COUNTERS:
        assert shown(counters([run("", **{name: 1234})], ["zap"]))[name] == ["1,234"]
        assert name not in shown(counters([run("", **{name: 0})], ["zap"]))


def test_a_row_appears_as_soon_as_one_variant_has_something_to_say():
    runs = [run("worker", sptes_zapped=5, yields=0), run("caller", sptes_zapped=0, yields=0)]
    found = shown(counters(runs, ["zap"]))
    assert found["sptes_zapped"] == ["5", "0"]
    assert "yields" not in found
