"""Memory traces of real programs: the text of `valgrind --tool=lackey --trace-mem=yes`.

Why this file exists: a synthetic pattern says little about fault paths, and lackey is the tracer
that needs neither root nor special hardware. Its text is big (15 bytes per record), so it is read
as a stream and parsed by compiled code. Rejected: a Python loop over lines (thirty times slower)
and a binary format of our own (one more thing to convert and to keep).

An *access* is one int64, `page << 2 | kind`. `TraceReader` gives the program's own page numbers;
`PageMap` renumbers them by first touch, as a guest OS hands out physical pages.
"""

import codecs
import itertools
import string
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from mmu.machine.kernel import array_kernel

Accesses = npt.NDArray[np.int64]

READ, WRITE, EXECUTE = 0, 1, 2
KIND_BITS: Final = 2
PAGE_SHIFT: Final = 12

# No byte of an access lies here or above: the physical address width of x86-64.
ADDRESS_LIMIT: Final = 1 << 52
# lackey's own lines have less than 30 bytes; valgrind's header can hold a long command.
LINE_BYTES_MAX: Final = 4096
_SHOWN_CHARACTERS_MAX: Final = 40
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WBITS: Final = 31

_TAB, _NEWLINE, _SPACE, _COMMA, _DIGIT_0, _DIGIT_9, _EQUALS = b"\t\n ,09="
# The three characters before an address, as one number.
_PREFIX_I, _PREFIX_L = int.from_bytes(b"I  "), int.from_bytes(b" L ")
_PREFIX_S, _PREFIX_M = int.from_bytes(b" S "), int.from_bytes(b" M ")

# The hash table of `PageMap`: 2**64 divided by the golden ratio, as a signed word.
_HASH_FACTOR: Final = 0x9E3779B97F4A7C15 - (1 << 64)
_FREE: Final = -1
_TABLE_ROWS: Final = 1 << 12

# What a line is; the first four are records.
_INSTRUCTION, _LOAD, _STORE, _MODIFY, _SKIPPED, _BROKEN = range(6)
_LETTERS: Final = "ILSM"
_FIRST_ACCESS: Final = (EXECUTE, READ, WRITE, READ)

# The parser's state between two calls: an int64 array with these fields, `_RECORDS` the first of 4.
_POSITION, _LINES, _FILLED, _ACCESS, _TODO, _PAIRED, _RECORDS = range(7)
_STATE_SIZE: Final = _RECORDS + len(_LETTERS)

# Why the parser returned.
_BLOCK_DONE, _CHUNK_FULL, _LINE_BROKEN = range(3)

# The value of each hexadecimal digit, -1 for any other byte. A table and not comparisons: which
# digit comes next is what branch prediction cannot know.
_HEX_VALUE: Final = np.array(
    [int(chr(byte), 16) if chr(byte) in string.hexdigits else -1 for byte in range(256)],
    dtype=np.int64,
)


class TraceError(ValueError):
    """A trace that cannot be used; the text is one line that names the file."""


class MemoryExceeded(TraceError):  # noqa: N818  (reads as what happened)
    """The trace touches more pages than the guest has."""


@array_kernel
def _byte(text: npt.NDArray[np.uint8], position: int) -> int:
    """Give one byte as int64: numba makes float64 of unsigned mixed with signed."""
    return np.int64(text[position])  # type: ignore[return-value]  # compiled: an int64


@array_kernel
def _parse_other(text: npt.NDArray[np.uint8], start: int) -> tuple[int, int]:
    """Pass a line that is no record: (start of the next line, _SKIPPED or _BROKEN)."""
    position = start
    blank = True
    while _byte(text, position) != _NEWLINE:
        byte = _byte(text, position)
        blank = blank and byte in (_SPACE, _TAB)
        position += 1
    message = _byte(text, start) == _EQUALS and _byte(text, start + 1) == _EQUALS
    kept = (blank or message) and position - start <= LINE_BYTES_MAX
    return position + 1, _SKIPPED if kept else _BROKEN


@array_kernel
def _record_kind(text: npt.NDArray[np.uint8], start: int) -> int:
    """Tell the kind from the three characters before the address; _SKIPPED if they are others."""
    if start + 2 >= text.size:
        return _SKIPPED
    prefix = _byte(text, start) << 16 | _byte(text, start + 1) << 8 | _byte(text, start + 2)
    if prefix == _PREFIX_I:
        return _INSTRUCTION
    if prefix == _PREFIX_L:
        return _LOAD
    if prefix == _PREFIX_S:
        return _STORE
    return _MODIFY if prefix == _PREFIX_M else _SKIPPED


@array_kernel
def _parse_line(text: npt.NDArray[np.uint8], start: int) -> tuple[int, int, int, int]:
    """Parse the line at `start`, which must end in a newline within `text`.

    Returns (start of the next line, what the line is, first page, pages); the last two count
    for a record only. A broken line's first value means nothing.
    """
    kind = _record_kind(text, start)
    if kind == _SKIPPED:
        after, other = _parse_other(text, start)
        return after, other, 0, 0
    position = start + 3
    address = 0
    digit = _HEX_VALUE[text[position]]
    while digit >= 0:
        address = address << 4 | digit
        if address >= ADDRESS_LIMIT:
            return position, _BROKEN, 0, 0
        position += 1
        digit = _HEX_VALUE[text[position]]
    if position == start + 3 or _byte(text, position) != _COMMA:
        return position, _BROKEN, 0, 0
    position += 1
    size = 0
    byte = _byte(text, position)
    while _DIGIT_0 <= byte <= _DIGIT_9:
        size = size * 10 + (byte - _DIGIT_0)
        if size > ADDRESS_LIMIT - address:
            return position, _BROKEN, 0, 0
        position += 1
        byte = _byte(text, position)
    # Size 0 stands for "no digit" too.
    if size == 0 or byte != _NEWLINE or position - start > LINE_BYTES_MAX:
        return position, _BROKEN, 0, 0
    first_page = address >> PAGE_SHIFT
    last_page = (address + size - 1) >> PAGE_SHIFT
    return position + 1, kind, first_page, last_page - first_page + 1


@array_kernel
def _parse_block(text: npt.NDArray[np.uint8], end: int, state: Accesses, chunk: Accesses) -> int:
    """Parse whole lines of `text` up to `end` and append their accesses to `chunk`.

    `state` is where the last call stopped and is brought up to date: a call goes on in the middle
    of a record if the chunk was full there. Returns _BLOCK_DONE, _CHUNK_FULL, or _LINE_BROKEN with
    the state's position at the start of that line, which is counted.
    """
    position, filled, lines = state[_POSITION], state[_FILLED], state[_LINES]
    access, todo, paired = state[_ACCESS], state[_TODO], state[_PAIRED]
    status = _BLOCK_DONE
    while True:
        while todo > 0 and filled < chunk.size:
            chunk[filled] = access
            filled += 1
            todo -= 1
            if paired == 0:
                access += 1 << KIND_BITS
            else:  # from READ to WRITE of one page, then to READ of the next
                access += 1 if access & 1 == READ else (1 << KIND_BITS) - 1
        if filled == chunk.size:
            status = _CHUNK_FULL
            break
        if position >= end:
            break
        lines += 1
        after, kind, page, pages = _parse_line(text, position)
        if kind == _BROKEN:
            status = _LINE_BROKEN
            break
        position = after
        if kind == _SKIPPED:
            continue
        state[_RECORDS + kind] += 1
        access = page << KIND_BITS | _FIRST_ACCESS[kind]
        paired = 1 if kind == _MODIFY else 0
        todo = pages << paired
    state[_POSITION], state[_FILLED], state[_LINES] = position, filled, lines
    state[_ACCESS], state[_TODO], state[_PAIRED] = access, todo, paired
    return status


def _gunzip(path: Path, compressed: Iterable[bytes], block_bytes: int) -> Iterator[bytes]:
    """Give the text of a gzip file of one or more members in blocks of at most `block_bytes`."""
    inflater = zlib.decompressobj(_GZIP_WBITS)
    try:
        for block in compressed:
            data = block
            while data:
                if inflater.eof:
                    # As gzip does: another member may follow, zeros are padding.
                    data = data.lstrip(b"\0")
                    if not data:
                        break
                    inflater = zlib.decompressobj(_GZIP_WBITS)
                text = inflater.decompress(data, block_bytes)
                if text:
                    yield text
                data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    except zlib.error as error:
        raise TraceError(f"{path}: a damaged gzip file ({error})") from None
    if not inflater.eof:
        raise TraceError(f"{path}: a truncated gzip file")


def _is_text(block: bytes) -> bool:
    """Tell whether the first block of a file, which may end within a character, is text."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(block)
    except UnicodeDecodeError:
        return False
    return b"\0" not in block


def _read_text(path: Path, block_bytes: int) -> Iterator[bytes]:
    """Give the file's text in blocks of any size > 0; never seeks, so a pipe will do.

    Raises TraceError for a file that cannot be read, is binary, or is a broken gzip file.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(max(block_bytes, len(_GZIP_MAGIC)))
            rest = iter(lambda: file.read(block_bytes), b"")
            blocks: Iterator[bytes] = itertools.chain([head], rest) if head else iter(())
            if head.startswith(_GZIP_MAGIC):
                blocks = _gunzip(path, blocks, block_bytes)
            for number, block in enumerate(blocks):
                if number == 0 and not _is_text(block):
                    raise TraceError(f"{path}: a binary file (expected lackey's text or its gzip)")
                yield block
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None


class TraceReader:
    """Read a lackey trace, plain or gzip, as chunks of accesses; iterating again starts again.

    Each chunk is an int64 array of `chunk_accesses` accesses (the last one may be shorter), in
    program order, and valid until the next one is asked for. The counts say what has been parsed
    so far by the iteration started last. A TraceError drops the unfinished chunk.
    """

    def __init__(self, path: Path, chunk_accesses: int = 65536, block_bytes: int = 1 << 20) -> None:
        if chunk_accesses < 1 or block_bytes < 1:
            raise ValueError("chunk_accesses and block_bytes must be at least 1")
        self._path = path
        self._chunk_accesses = chunk_accesses
        self._block_bytes = block_bytes
        self._accesses_before = 0
        self._state = np.zeros(_STATE_SIZE, dtype=np.int64)

    @property
    def records(self) -> dict[str, int]:
        """Records so far by lackey's letters I, L, S and M."""
        return dict(zip(_LETTERS, self._state[_RECORDS:].tolist(), strict=True))

    @property
    def accesses(self) -> int:
        """Accesses so far, the chunk given last included."""
        return self._accesses_before + int(self._state[_FILLED])

    @property
    def lines(self) -> int:
        """Lines so far, skipped ones included."""
        return int(self._state[_LINES])

    def __iter__(self) -> Iterator[Accesses]:
        self._accesses_before = 0
        self._state = state = np.zeros(_STATE_SIZE, dtype=np.int64)
        chunk = np.empty(self._chunk_accesses, dtype=np.int64)
        carry = b""
        for block in _read_text(self._path, self._block_bytes):
            text = carry + block
            end = text.rfind(b"\n") + 1
            yield from self._parse(text, end, state, chunk)
            carry = text[end:]
            if len(carry) > LINE_BYTES_MAX:
                raise self._broken_line(carry, int(state[_LINES]) + 1)
        if carry:
            yield from self._parse(carry + b"\n", len(carry) + 1, state, chunk)
        if not state[_RECORDS:].any():
            raise TraceError(
                f"{self._path}: no memory access in it "
                "(expected the output of valgrind --tool=lackey --trace-mem=yes)"
            )
        if state[_FILLED] > 0:
            yield chunk[: state[_FILLED]]

    def _parse(self, text: bytes, end: int, state: Accesses, chunk: Accesses) -> Iterator[Accesses]:
        """Give each chunk that gets full by the whole lines in `text[:end]`."""
        state[_POSITION] = 0
        buffer = np.frombuffer(text, dtype=np.uint8)
        while (status := _parse_block(buffer, end, state, chunk)) == _CHUNK_FULL:
            yield chunk
            self._accesses_before += chunk.size
            state[_FILLED] = 0
        if status == _LINE_BROKEN:
            start = int(state[_POSITION])
            line = text[start : text.index(b"\n", start)]
            raise self._broken_line(line, int(state[_LINES]))

    def _broken_line(self, line: bytes, number: int) -> TraceError:
        shown = line.decode("utf-8", "replace")
        if len(shown) > _SHOWN_CHARACTERS_MAX:
            shown = shown[: _SHOWN_CHARACTERS_MAX - 3] + "..."
        why = f" (more than {LINE_BYTES_MAX} bytes)" if len(line) > LINE_BYTES_MAX else ""
        return TraceError(f"{self._path}:{number}: not a lackey record: {shown!r}{why}")


@array_kernel
def _find_slot(table: Accesses, page: int) -> int:
    """Find the row of `table`, (page, dense index) each, with `page`, or the free one for it."""
    mask = len(table) - 1
    # Fibonacci hashing: the product may wrap, the mask makes the slot non-negative again.
    slot = ((page * _HASH_FACTOR) >> 32) & mask
    while table[slot, 0] != page and table[slot, 0] != _FREE:
        slot = (slot + 1) & mask
    return slot


@array_kernel
def _translate(
    chunk: Accesses, dense: Accesses, table: Accesses, done: int, pages: int, pages_max: int
) -> tuple[int, int]:
    """Translate `chunk[done:]` into `dense`, numbering new pages from `pages` on.

    Returns (accesses done, distinct pages); stops before the access that would need page number
    `pages_max`.
    """
    while done < chunk.size:
        page = chunk[done] >> KIND_BITS
        slot = _find_slot(table, page)
        if table[slot, 0] == _FREE:
            if pages == pages_max:
                break
            table[slot, 0] = page
            table[slot, 1] = pages
            pages += 1
        dense[done] = chunk[done] + ((table[slot, 1] - page) << KIND_BITS)
        done += 1
    return done, pages


class PageMap:
    """Dense page numbers by first touch, for at most `capacity_pages` pages."""

    def __init__(self, capacity_pages: int) -> None:
        if capacity_pages < 1:
            raise ValueError("capacity_pages must be at least 1")
        self._capacity_pages = capacity_pages
        self._pages = 0
        self._table = np.full((_TABLE_ROWS, 2), _FREE, dtype=np.int64)

    @property
    def pages(self) -> int:
        """Distinct pages so far."""
        return self._pages

    def translate(self, chunk: Accesses) -> Accesses:
        """Give a new array with each page of `chunk` (shape (n,)) replaced by its dense index.

        Raises MemoryExceeded when more than `capacity_pages` pages are touched.
        """
        dense = np.empty_like(chunk)
        done = 0
        while True:
            # At most half full, so that a search ends soon.
            pages_max = min(self._capacity_pages, len(self._table) // 2)
            done, self._pages = _translate(chunk, dense, self._table, done, self._pages, pages_max)
            if done == chunk.size:
                return dense
            if self._pages == self._capacity_pages:
                limit = f"{self._pages} pages ({(self._pages << PAGE_SHIFT) / (1 << 20):g}M)"
                raise MemoryExceeded(f"the trace touches more than {limit}: give --memory")
            self._grow()

    def _grow(self) -> None:
        """Enter the pages into a table twice as large, in their order: they keep their numbers."""
        rows = self._table[self._table[:, 0] != _FREE]
        chunk = rows[np.argsort(rows[:, 1]), 0] << KIND_BITS
        self._table = np.full((2 * len(self._table), 2), _FREE, dtype=np.int64)
        _translate(chunk, np.empty_like(chunk), self._table, 0, 0, len(chunk))
