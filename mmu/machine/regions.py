"""Regions of the shared block, whose sizes depend on the run's options: one allocator, checked."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmu.machine.layout import (
    ACTOR_FIXED_WORDS,
    ACTORS_MAX,
    BITMAP_BITS,
    ENTRIES_MAX,
    HEADER_WORDS,
    HISTOGRAM_NAMES,
    HISTOGRAM_WORDS,
    LINE,
    RECORD_WORDS,
    SLOT_WORDS,
)

TRACKED_SPARE = 2  # blocks that memory not aligned to them touches besides: one at each end


@dataclass(frozen=True)
class Region:
    """A named run of words."""

    name: str
    start: int
    words: int

    @property
    def end(self) -> int:
        """The first word behind it."""
        return self.start + self.words


@dataclass(frozen=True)
class Shape:
    """What decides where things lie.  Sizes in entries, pages or frames, never bytes."""

    actors: int
    vcpus: int
    table_pages: int
    gfn_base: int
    gfn_count: int
    slots: tuple[tuple[int, int], ...]  # (first gfn of the host memory, pages)
    bits: int = 9
    spare_frames: int = 0
    tlb_bits: tuple[int, int, int, int] = (10, 8, 4, 6)  # 4K, 2M, 1G, paging structures
    pml_size: int = 512
    histograms: bool = True
    workload_words: int = 0
    write_tracking: bool = False


@dataclass
class Layout:
    """Every region of the block that `shape` asks for, in order, line-aligned, not overlapping."""

    shape: Shape
    regions: dict[str, Region] = field(default_factory=dict)
    words: int = HEADER_WORDS
    tlb_offset: int = 0
    pml_offset: int = 0
    histogram_offset: int = 0
    actor_stride: int = 0

    def __post_init__(self) -> None:
        shape = self.shape
        if not 1 <= shape.actors <= ACTORS_MAX:
            raise ValueError(f"{shape.actors} actors: 1 to {ACTORS_MAX} are possible")
        self.tlb_offset = ACTOR_FIXED_WORDS
        self.pml_offset = self.tlb_offset + sum(2 << bits for bits in shape.tlb_bits)
        self.histogram_offset = _aligned(self.pml_offset + shape.pml_size, LINE)
        histograms = len(HISTOGRAM_NAMES) * HISTOGRAM_WORDS if shape.histograms else 0
        # Odd multiples of a line, so that the hot lines of 96 actors spread over cache sets.
        self.actor_stride = _aligned(self.histogram_offset + histograms, 2 * LINE) + LINE
        frames = shape.gfn_count + shape.spare_frames
        self._place("actors", shape.actors * self.actor_stride)
        self._place("records", shape.table_pages * RECORD_WORDS)
        self._place("pool", shape.table_pages)
        self._place("workload", shape.workload_words)
        self._place("slots", len(shape.slots) * SLOT_WORDS)
        for number, (_, pages) in enumerate(shape.slots):
            self._place(f"bitmap {number}", bitmap_words(pages))
            self._place(f"harvest {number}", bitmap_words(pages))
        self._place("tables", shape.table_pages << shape.bits, align=ENTRIES_MAX)
        self._place("mapping", shape.gfn_count, align=ENTRIES_MAX)
        self._place("frames", frames, align=ENTRIES_MAX)
        self._place("marks", frames, align=ENTRIES_MAX)
        self._place("newest", shape.gfn_count, align=ENTRIES_MAX)
        self._place("disk", shape.gfn_count, align=ENTRIES_MAX)
        self._place("free frames", frames if shape.spare_frames else 0)
        self._place("write tracked", tracked_words(shape) if shape.write_tracking else 0)
        self.words = _aligned(self.words, ENTRIES_MAX)
        check_regions(list(self.regions.values()), self.words)

    def _place(self, name: str, words: int, align: int = LINE) -> None:
        start = _aligned(self.words, align)
        self.regions[name] = Region(name, start, words)
        self.words = start + words

    def start(self, name: str) -> int:
        """First word of a region."""
        return self.regions[name].start

    def actor(self, number: int) -> int:
        """First word of an actor's block."""
        return self.start("actors") + number * self.actor_stride


def tracked_words(shape: Shape) -> int:
    """Words that say who is write-tracked: one a page, then one a 2M block, then one a 1G block."""
    blocks = (shape.gfn_count >> shape.bits) + (shape.gfn_count >> 2 * shape.bits)
    return shape.gfn_count + blocks + 2 * TRACKED_SPARE


def bitmap_words(pages: int) -> int:
    """Words of a dirty bitmap."""
    return -(-pages // BITMAP_BITS)


def check_regions(regions: list[Region], words: int) -> None:
    """Raise ValueError unless the regions lie in order behind the header and inside the block."""
    end = HEADER_WORDS
    for region in sorted(regions, key=lambda each: each.start):
        if region.start < end:
            raise ValueError(f"region {region.name!r} starts at {region.start}, before word {end}")
        end = region.end
    if end > words:
        raise ValueError(f"regions end at word {end}, the block has {words}")


def _aligned(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
