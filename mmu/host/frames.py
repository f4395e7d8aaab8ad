"""The host's memory: frames with owner words, the mapping per host page, what readers have seen.

A frame is one word: `value << 39 | generation << 34 | owner`, where owner is the host page that
the frame belongs to, stored as its difference (xor) to the page that had the frame first: memory
fresh from the host is all zero and needs no initialisation.  A guest access is one atomic
operation on that word, so that "was it my frame?" and "what did I read or write?" are answered
together.  A free frame belongs to NOBODY.

Table pages and frames share one space of pfns, tables first, as all pages of a real host do.  A
gfn's host page is its distance from the first gfn; gfns that differ only above `C_GFN_MASK` are
places that one memslot can be moved to, so they are the same host page.

A mapping word is 0 for "as at boot" (frame = page, backing level, read-write), else
`1 << 62 | permission bits | level << 4 | frame << 8`; without permissions the page is swapped out,
or, with bit 3, a handler in user space has still to install it (userfaultfd).  With bit 7 user
space has forbidden writing (mprotect), and no fault changes that.
"""

from __future__ import annotations

from mmu.machine.conditions import FRAME_MARKED, MAPPING_OWNER, MEMORY_OLDER, warn
from mmu.machine.cpu import Cpu
from mmu.machine.kernel import inlined_kernel, kernel
from mmu.machine.layout import (
    C_BACKING_LEVEL,
    C_FRAME_PFN,
    C_FRAMES,
    C_GFN_BASE,
    C_GFN_MASK,
    C_MAPPING,
    C_MARKS,
    C_NEWEST,
)
from mmu.machine.primitives import config, fetch_add, fetch_or, hint, read_once, set_hint
from mmu.spte import ACCESS_WRITE, SPTE_R, SPTE_W, SPTE_X
from mmu.tdp_iter import pages_of

OWNER_BITS = 34
GENERATION_BITS = 5
VALUE_SHIFT = OWNER_BITS + GENERATION_BITS
OWNER_MASK = (1 << OWNER_BITS) - 1
VALUE_BITS = 24
VALUE_MASK = (1 << VALUE_BITS) - 1
VALUE_ONE = 1 << VALUE_SHIFT

MAPPED = 1 << 62
MAPPING_USERFAULT = 1 << 3
MAPPING_LEVEL_SHIFT = 4
MAPPING_LEVEL_MASK = 7
MAPPING_READ_ONLY = 1 << 7
MAPPING_FRAME_SHIFT = 8
MAPPING_RWX = SPTE_R | SPTE_W | SPTE_X

NOBODY = OWNER_MASK

MARK_DIRTY = 1
MARK_ACCESSED = 2
MARK_IDLE = 8  # the idle page bitmap's bit: nobody has used it since that was set
MARK_SPLIT = 4  # on the first frame of a huge page that the host has split: each frame for itself


@inlined_kernel
def host_page(cpu: Cpu, gfn: int) -> int:
    """The host page behind a gfn of any memslot."""
    return (gfn - config(cpu, C_GFN_BASE)) & config(cpu, C_GFN_MASK)


@inlined_kernel
def boot_mapping(cpu: Cpu, page: int) -> int:
    """What every host page is mapped to before anything changes."""
    level = config(cpu, C_BACKING_LEVEL)
    return MAPPED | MAPPING_RWX | level << MAPPING_LEVEL_SHIFT | page << MAPPING_FRAME_SHIFT


@inlined_kernel
def host_mapping(cpu: Cpu, gfn: int) -> int:
    """The host's mapping of a gfn: permission bits, level, frame (`MAPPED` set).

    Read without a lock: the host may change it at any time, which is what the invalidate
    sequence is for.
    """
    page = host_page(cpu, gfn)
    word = read_once(cpu, config(cpu, C_MAPPING) + page)
    return word if word != 0 else boot_mapping(cpu, page)


@inlined_kernel
def mapping_level(mapping: int) -> int:
    """Level at which the host maps the page."""
    return (mapping >> MAPPING_LEVEL_SHIFT) & MAPPING_LEVEL_MASK


@inlined_kernel
def mapping_pfn(cpu: Cpu, mapping: int) -> int:
    """pfn of the page's frame."""
    return ((mapping & ~MAPPED) >> MAPPING_FRAME_SHIFT) + config(cpu, C_FRAME_PFN)


@inlined_kernel
def _check_value(cpu: Cpu, gfn: int, newest: int, value: int) -> None:
    """Values only grow: nobody sees less than anybody saw before (24 bits, compared circularly)."""
    behind = (value - newest) & VALUE_MASK
    warn(cpu, behind > VALUE_MASK >> 1, MEMORY_OLDER, gfn, value, newest)


@inlined_kernel
def access_frame(cpu: Cpu, gfn: int, pfn: int, access: int) -> None:
    """The guest's access itself: one atomic operation on the frame's word, checked twice.

    `newest` is what the guest saw or wrote at this gfn last, read *before* the access, so a
    concurrent writer can only make the access see more.  Its update may lose to another vCPU's:
    the check gets weaker by that, never wrong.
    """
    page = host_page(cpu, gfn)
    newest_word = config(cpu, C_NEWEST) + page
    newest = hint(cpu, newest_word)
    frame = pfn - config(cpu, C_FRAME_PFN)
    word = config(cpu, C_FRAMES) + frame
    if access & ACCESS_WRITE != 0:
        seen = fetch_add(cpu, word, VALUE_ONE)
        now = seen + VALUE_ONE
    else:
        seen = read_once(cpu, word)
        now = seen
    owner = (seen & OWNER_MASK) ^ frame
    warn(cpu, owner != page, MAPPING_OWNER, gfn, pfn, owner + config(cpu, C_GFN_BASE))
    _check_value(cpu, gfn, newest, (seen >> VALUE_SHIFT) & VALUE_MASK)
    value = (now >> VALUE_SHIFT) & VALUE_MASK
    if value != newest:
        set_hint(cpu, newest_word, value)


@inlined_kernel
def folio_mask(cpu: Cpu) -> int:
    """What leaves of a frame's number that of the first frame of the page that backs it."""
    return ~(pages_of(cpu, config(cpu, C_BACKING_LEVEL)) - 1)


@kernel
def mark_frame(cpu: Cpu, gfn: int, pfn: int, marks: int) -> int:
    """Tell the host that the frame of `gfn` was written or used (kvm_set_pfn_dirty, up to 6.12).

    The host keeps that at the first frame of the page that backs it (folio); returned is that
    frame if it speaks for all of the folio, else -1.  The mark must come while the frame is still
    the gfn's: the host looks at it once, when it takes the frame away.
    """
    frame = pfn - config(cpu, C_FRAME_PFN)
    first = frame & folio_mask(cpu)
    seen = read_once(cpu, config(cpu, C_MARKS) + first)
    split = seen & MARK_SPLIT
    if split != 0 and first != frame:
        first = frame
        seen = read_once(cpu, config(cpu, C_MARKS) + frame)
    owner = (hint(cpu, config(cpu, C_FRAMES) + first) & OWNER_MASK) ^ first
    expected = host_page(cpu, gfn) - (frame - first)
    warn(cpu, owner != expected, FRAME_MARKED, gfn, first, owner)
    if seen & marks != marks:
        fetch_or(cpu, config(cpu, C_MARKS) + first, marks)
    return first if split == 0 else -1
