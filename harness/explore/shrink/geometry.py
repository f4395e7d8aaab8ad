"""Pass: a smaller VM, so that walks are shorter."""

from __future__ import annotations

from collections.abc import Iterator

from harness.explore.shrink.case import Case

ABOUT = "geometry made smaller"
LEVELS_MIN = 2
PAGES_MIN = 2


def candidates(case: Case) -> Iterator[Case]:
    """One level less, with as many pages as it can reach; or half of the pages."""
    if case.base is None or case.base.vm is None:
        return
    vm = case.scenario().vm
    assert vm is not None
    plain = vm.slots == 1 and not vm.slot_pages and not vm.levels_max and not vm.gfn_base
    if not plain:
        return
    if vm.levels > LEVELS_MIN:
        reach = 1 << vm.bits * (vm.levels - 1)
        yield case.sized(levels=vm.levels - 1, pages=min(vm.pages, reach))
    if vm.pages > PAGES_MIN:
        yield case.sized(pages=vm.pages // 2)
