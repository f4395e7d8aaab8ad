"""The shared block: a memfd, so that it has no name to leak and is gone with its last process.

`np.frombuffer` over the mapping keeps it alive while a view exists (an ndarray made from the
buffer by hand would crash after the mapping is closed).  Children inherit the mapping by fork, at
the same address.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

from mmu.machine.cpu import Words

WORD_BYTES = 8
MADV_POPULATE_READ = 22  # Linux 5.14; Python has no name for it


class SharedBlock:
    """`words` words of zeroed shared memory, backed only where they are touched.

    Raises OSError if the machine refuses the mapping.
    """

    def __init__(self, words: int) -> None:
        self.descriptor = os.memfd_create("tdprace", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, words * WORD_BYTES)
        self._map = mmap.mmap(self.descriptor, words * WORD_BYTES, mmap.MAP_SHARED)
        self.words: Words = np.frombuffer(self._map, dtype=np.int64)

    def populate(self, first: int, words: int) -> None:
        """Map the pages that hold these words, which must be backed, into this process now."""
        begin = first * WORD_BYTES // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(MADV_POPULATE_READ, begin, (first + words) * WORD_BYTES - begin)

    def bytes_backed(self) -> int:
        """Memory that the host really gave so far."""
        return os.fstat(self.descriptor).st_blocks * 512

    def close(self) -> None:
        """Drop the descriptor and this object's view.

        The mapping itself goes with the last view of it: closing it under a view that is still
        in use would be refused, or worse, crash.
        """
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            self.words = np.zeros(0, np.int64)
            del self._map
