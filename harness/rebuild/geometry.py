"""The run's pages and memslots, brought down to a VM of eight pages.

Equal ones stay equal.  Pages of one table, or of one huge page, stay beside each other, the first
of a huge page stays the first of one, and a page stays in its memslot, as far as they fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.rebuild.finding import Memory
from workloads.scenarios.common import PAGES
from workloads.scenarios.generated import SLOT_PAGES, SLOTS_MAX

TABLE_BITS = 9  # the run's: pages of a 4K table, tables of the next
SMALL_TABLE_BITS = 1


class Small:
    """Small numbers for the pages and memslots that a candidate names.

    `together`: all pages are one, for a finding that says nothing of pages.

    Attributes:
        slots: how many memslots the small VM has.
    """

    def __init__(
        self,
        memory: Memory,
        pages: Sequence[int],
        slots: Iterable[int],
        absent: int = -1,
        *,
        together: bool = False,
    ) -> None:
        self._memory = memory
        self._pages: dict[int, int] = {}
        named = [memory.slot_of(page) for page in pages] + list(slots)
        order = [each for each in dict.fromkeys(named) if each != absent][:SLOTS_MAX]
        if absent >= 0:
            # A memslot that is nowhere at first is the last one.
            order = [*order[: SLOTS_MAX - 1], absent]
        self._slots = {slot: number for number, slot in enumerate(order or [0])}
        self.slots = len(self._slots)
        for page in dict.fromkeys(pages):
            one = together and bool(self._pages)
            self._pages[page] = self._pages[pages[0]] if one else self._place(page)

    def slot(self, slot: int) -> int:
        """Small number of a memslot; those that did not fit are the first one."""
        return self._slots.get(slot, 0)

    def base(self, slot: int) -> int:
        """First gfn of a small memslot."""
        return sum(SLOT_PAGES[self.slots][:slot])

    def page(self, page: int) -> int:
        """Small number of a host page, which is its gfn too."""
        return self._pages[page]

    def _place(self, page: int) -> int:
        """The best small page that is free, the one most like it if none is."""
        slot = self.slot(self._memory.slot_of(page))
        first = self.base(slot)
        places = range(first, first + SLOT_PAGES[self.slots][slot])
        taken = set(self._pages.values())
        free = [place for place in places if place not in taken]
        return max(free or places, key=lambda place: self._likeness(page, place))

    def _likeness(self, page: int, place: int) -> tuple[int, int, int]:
        """How many of the page's relations the place keeps; then the same offset; then low."""
        kept = 0
        for other, its in self._pages.items():
            for level in (1, 2):
                here = page >> TABLE_BITS * level == other >> TABLE_BITS * level
                there = place >> SMALL_TABLE_BITS * level == its >> SMALL_TABLE_BITS * level
                kept += here == there
        aligned = page & ((1 << TABLE_BITS) - 1) == 0
        return kept, int(aligned == (place % 2 == 0)), PAGES - place
