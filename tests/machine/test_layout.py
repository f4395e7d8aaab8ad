"""Words do not overlap: not regions, not header words, not places inside a record."""

from __future__ import annotations

import ast
import inspect
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmu.machine import layout as at
from mmu.machine.regions import Layout, Region, Shape, bitmap_words, check_regions


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    vcpus = draw(st.integers(1, 300))
    slots = draw(st.lists(st.integers(1, 5000), min_size=1, max_size=4))
    base = draw(st.sampled_from([0, 1 << 20]))
    return Shape(
        actors=vcpus + draw(st.integers(0, 3)),
        vcpus=vcpus,
        table_pages=draw(st.integers(1, 3000)),
        gfn_base=base,
        gfn_count=sum(slots),
        slots=tuple((base + sum(slots[:i]), pages) for i, pages in enumerate(slots)),
        bits=draw(st.integers(1, 9)),
        spare_frames=draw(st.integers(0, 5)),
        tlb_bits=draw(st.tuples(*[st.integers(0, 10)] * 4)),
        pml_size=draw(st.integers(1, 512)),
        histograms=draw(st.booleans()),
    )


@given(shapes())
def test_regions_never_overlap(shape: Shape) -> None:
    layout = Layout(shape)
    spans = sorted((each.start, each.end) for each in layout.regions.values() if each.words)
    assert spans[0][0] >= at.HEADER_WORDS
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] <= layout.words
    assert all(each.start % at.LINE == 0 for each in layout.regions.values())


@given(shapes())
def test_an_actors_block_holds_its_parts_in_order(shape: Shape) -> None:
    layout = Layout(shape)
    tlb_words = sum(2 << bits for bits in shape.tlb_bits)
    histogram_words = len(at.HISTOGRAM_NAMES) * at.HISTOGRAM_WORDS if shape.histograms else 0
    assert layout.tlb_offset >= at.ACTOR_FIXED_WORDS
    assert layout.tlb_offset + tlb_words <= layout.pml_offset
    assert layout.pml_offset + shape.pml_size <= layout.histogram_offset
    assert layout.histogram_offset + histogram_words <= layout.actor_stride
    # Lines of different actors must not share a cache line, nor all fall into one cache set.
    assert layout.actor_stride % (2 * at.LINE) == at.LINE
    last = layout.actor(shape.actors - 1) + layout.actor_stride
    assert last == layout.regions["actors"].end


def test_an_overlap_is_refused() -> None:
    first = at.HEADER_WORDS
    good = [Region("a", first, 8), Region("b", first + 8, 4)]
    check_regions(good, first + 12)
    check_regions(list(reversed(good)), first + 12)
    with pytest.raises(ValueError, match=rf"region 'b' starts at {first + 7}, before word"):
        check_regions([good[0], Region("b", first + 7, 4)], first + 100)
    with pytest.raises(ValueError, match="region 'a' starts at"):
        check_regions([Region("a", first - 1, 4)], first + 100)
    with pytest.raises(ValueError, match=f"regions end at word {first + 12}"):
        check_regions(good, first + 11)


@pytest.mark.parametrize("actors", [0, at.ACTORS_MAX + 1])
def test_too_many_actors_are_refused(actors: int) -> None:
    with pytest.raises(ValueError, match="actors: 1 to"):
        Layout(Shape(actors, 1, 1, 0, 8, ((0, 8),)))


NO_PLACES = ("WORDS", "_LINES", "_NAMES")


def groups() -> dict[str, dict[str, int]]:
    """Places by the section of layout.py that names them; sizes and aliases left out."""
    source = inspect.getsource(at)
    titles = [
        (number, line.strip("# -"))
        for number, line in enumerate(source.splitlines(), 1)
        if line.startswith("# ---")
    ]
    found: dict[str, dict[str, int]] = {}
    for node in ast.parse(source).body:
        for name in _places(node):
            title = [title for number, title in titles if number < node.lineno][-1:]
            found.setdefault(title[0] if title else "", {})[name] = int(vars(at)[name])
    return found


def _places(node: ast.stmt) -> list[str]:
    """Names that a statement gives to places: an unpacked range, or `X = ... LINE ...`."""
    if not isinstance(node, ast.Assign):
        return []
    (target,) = node.targets
    if isinstance(target, ast.Tuple):
        names: list[Any] = target.elts
        return [each.id for each in names]
    assert isinstance(target, ast.Name)
    used = {each.id for each in ast.walk(node.value) if isinstance(each, ast.Name)}
    return [target.id] if used - {"int"} and not target.id.endswith(NO_PLACES) else []


# First names of a place that has another one too, and distances inside a line.
ALIASES = {"POOL_TOP", "HOST", "INVALIDATE", "COUNTERS", "GATE", "SLEEPERS", "PHASES", "OWNER"}
# A page's record holds other things while it is a root's, or while the page waits for readers.
VIEWS = ("SP_ROOT_", "SP_DEFERRED_")
HISTOGRAM_PREFIX = "H_"  # numbers of histograms, no places
# States of a page and of a memslot, no places.
STATES = {"SP_FRESH", "SP_LINKED", "SP_REMOVED", "SP_FREE"}
STATES |= {"SLOT_ABSENT", "SLOT_PRESENT", "SLOT_INVALID"}


def test_names_mean_different_words() -> None:
    sections = groups()
    assert len(sections) >= 5
    assert sum(map(len, sections.values())) > 150
    for title, places in sections.items():
        by_place: dict[tuple[int, str], list[str]] = {}
        for name, place in places.items():
            if name not in ALIASES | STATES and not name.startswith(HISTOGRAM_PREFIX):
                view = next((view for view in VIEWS if name.startswith(view)), "")
                by_place.setdefault((place, view), []).append(name)
        assert [names for names in by_place.values() if len(names) > 1] == [], title


def test_every_page_has_a_level_and_a_state() -> None:
    always = {at.SP_LEVEL, at.SP_STATE, at.SP_GENERATION}
    views = [name for name in vars(at) if name.startswith(VIEWS)]
    assert len(views) >= 6
    assert [name for name in views if getattr(at, name) in always] == []


def test_what_several_actors_write_has_lines_of_its_own() -> None:
    assert min(at._LINES) >= at.CONFIG_END
    assert all(line % at.LINE == 0 for line in at._LINES)
    assert all(after - before >= at.LINE for before, after in pairwise(at._LINES))
    assert {at.MMU_LOCK, at.PAGES_LOCK, at.SLOTS_LOCK, at.STAT_PAGES_4K, at.WAITERS} < set(
        at._LINES
    )
    assert sorted({0, at.GATE, at.SLEEPERS, at.PHASES, at.OWNER}) == list(range(5))
    assert at.OWNER < at.LINE
    # `update_page_stats` reaches the three statistics by their distance.
    assert [at.STAT_PAGES_2M, at.STAT_PAGES_1G] == [
        at.STAT_PAGES_4K + at.LINE,
        at.STAT_PAGES_4K + 2 * at.LINE,
    ]


def test_an_actors_lines_are_written_by_one_side() -> None:
    assert at.VCPU_STATE // at.LINE != at.REQUEST // at.LINE
    assert at.VCPU_STATE // at.LINE != at.RCU_SECTION // at.LINE
    assert at.TABLE_CACHE + at.TABLE_CACHE_MAX <= at.COUNTERS
    assert at.COUNTERS + len(at.COUNTER_NAMES) <= at.ACTOR_FIXED_WORDS
    assert at.ITERATOR + at.ITERATOR_WORDS <= at.ITERATOR_INNER
    assert at.ITERATOR_INNER + at.ITERATOR_WORDS <= at.TABLE_CACHE_COUNT
    assert len(set(at.COUNTER_NAMES)) == len(at.COUNTER_NAMES)


@given(st.integers(1, 1 << 40))
def test_a_bitmap_holds_its_pages(pages: int) -> None:
    words = bitmap_words(pages)
    assert (words - 1) * at.BITMAP_BITS < pages <= words * at.BITMAP_BITS
