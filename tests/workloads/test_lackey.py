"""The compiled lackey reader against a parser of ten lines that is obviously right."""

import gzip
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.traces import lackey
from workloads.traces.lackey import EXECUTE, READ, WRITE, PageMap, TraceError, TraceReader

TRACES = Path(lackey.__file__).parent
RECORD = re.compile(r"(I | L| S| M) ([0-9a-fA-F]+),([0-9]+)")
KINDS = {"I": (EXECUTE,), "L": (READ,), "S": (WRITE,), "M": (READ, WRITE)}


class Naive:
    """What a trace means, one line after the other; `broken` is the number of the first bad one."""

    def __init__(self, text: str) -> None:
        self.accesses: list[int] = []
        self.records = dict.fromkeys("ILSM", 0)
        self.lines = self.broken = 0
        for self.lines, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            if len(line) <= 4096 and (line.startswith("==") or not line.strip(" \t")):
                continue
            match = RECORD.fullmatch(line)
            address, size = (int(match[2], 16), int(match[3])) if match else (0, 0)
            if not match or len(line) > 4096 or size == 0 or address + size > 1 << 52:
                self.broken = self.lines
                return
            self.records[match[1].strip()] += 1
            for page in range(address >> 12, ((address + size - 1) >> 12) + 1):
                self.accesses += [page << 2 | kind for kind in KINDS[match[1].strip()]]


def write(path: Path, text: str | bytes, *, gz: bool = False) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if gz else data)
    return path


def read_all(reader: TraceReader) -> list[int]:
    return [access for chunk in reader for access in chunk.tolist()]


def error_of(path: Path, **options: int) -> str:
    with pytest.raises(TraceError) as caught:
        read_all(TraceReader(path, **options))
    text = str(caught.value)
    assert "\n" not in text
    return text


# Near page borders, since that is where a record becomes several accesses.
addresses = st.one_of(
    st.integers(0, (1 << 52) - 20_000),
    st.builds(
        lambda page, back: max(0, (page << 12) - back), st.integers(0, 1 << 30), st.integers(-9, 9)
    ),
)
records = st.builds(
    lambda letter, address, size, form: f"{letter} {address:{form}},{size}",
    st.sampled_from(["I ", " L", " S", " M"]),
    addresses,
    st.one_of(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(1, 20_000)),
    st.sampled_from(["08x", "x", "X", "040x"]),
)
skipped = st.sampled_from(["", " ", "\t ", "==", "==12== Command: naïve", "=="])
# Lines that are nearly records: most are broken, some are not.
odd = st.one_of(
    st.text("ILSM x0f1,= \t", max_size=12),
    st.sampled_from([" L 10000000000000,1", " L fffffffffffff,1", " S fffffffffffff,2", "I  0,0"]),
    st.sampled_from(
        ["I  0,", "I  ,1", "I 0,1", " L 1,1 ", " L 1,1\r", "L 1,1", "I", " ", " M", " M "]
    ),
)


@dataclass(frozen=True)
class Form:
    """How a text is stored and read."""

    gz: bool
    newline: bool
    block_bytes: int
    chunk_accesses: int


forms = st.builds(
    Form,
    gz=st.booleans(),
    newline=st.booleans(),
    block_bytes=st.one_of(st.integers(1, 300), st.just(1 << 20)),
    chunk_accesses=st.one_of(st.integers(1, 50), st.just(65536)),
)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lackey") / "trace"


@settings(deadline=None, max_examples=150)
@given(lines=st.lists(st.one_of(records, records, skipped), min_size=1, max_size=40), form=forms)
def test_parse_equals_the_naive_parser(trace: Path, lines: list[str], form: Form) -> None:
    text = "\n".join(lines) + "\n" * form.newline
    naive = Naive(text)
    reader = TraceReader(write(trace, text, gz=form.gz), form.chunk_accesses, form.block_bytes)
    if not any(naive.records.values()):
        assert "no memory access in it" in error_of(trace)
        return
    chunks = [chunk.copy() for chunk in reader]
    assert np.concatenate(chunks).tolist() == naive.accesses
    assert {len(chunk) for chunk in chunks[:-1]} <= {form.chunk_accesses}
    assert 0 < len(chunks[-1]) <= form.chunk_accesses
    assert reader.records == naive.records
    assert reader.accesses == len(naive.accesses)
    assert reader.lines == (len(lines) if lines[-1] or form.newline else len(lines) - 1)


@settings(deadline=None, max_examples=150)
@given(
    before=st.lists(st.one_of(records, skipped), max_size=8),
    line=odd,
    after=st.lists(st.one_of(records, skipped, odd), max_size=4),
    form=forms,
)
def test_the_first_broken_line_is_named(
    trace: Path, before: list[str], line: str, after: list[str], form: Form
) -> None:
    text = "\n".join(["I  1000,4", *before, line, *after]) + "\n" * form.newline
    naive = Naive(text)
    write(trace, text, gz=form.gz)
    reader = TraceReader(trace, form.chunk_accesses, form.block_bytes)
    if naive.broken == 0:
        assert read_all(reader) == naive.accesses
        return
    shown = text.split("\n")[naive.broken - 1]
    expected = f"{trace}:{naive.broken}: not a lackey record: {shown!r}"
    assert error_of(trace, block_bytes=form.block_bytes) == expected


@settings(deadline=None, max_examples=60)
@given(
    pages=st.lists(st.one_of(st.integers(0, 40), st.integers(0, (1 << 40) - 1)), max_size=200),
    cut=st.integers(0, 200),
)
def test_pages_are_numbered_by_first_touch(pages: list[int], cut: int) -> None:
    chunk = np.array([page << 2 | page % 3 for page in pages], dtype=np.int64)
    dense = {page: index for index, page in enumerate(dict.fromkeys(pages))}
    page_map = PageMap(max(1, len(dense)))
    translated = [page_map.translate(part) for part in (chunk[:cut], chunk[cut:])]
    assert np.concatenate(translated).tolist() == [dense[page] << 2 | page % 3 for page in pages]
    assert page_map.pages == len(dense)


def test_page_map_grows() -> None:
    page_map = PageMap(200_000)
    pages = np.random.default_rng(1).permutation(100_000) << 20
    indices = np.arange(100_000)
    for order in (slice(None), slice(None, None, -1)):
        dense = page_map.translate(pages[order] << 2 | WRITE)
        assert np.array_equal(dense, indices[order] << 2 | WRITE)
    assert page_map.pages == 100_000


def test_page_map_wraps_around_at_the_end_of_its_table() -> None:
    table = np.full((4096, 2), -1, dtype=np.int64)
    pages = [page for page in range(1 << 16) if lackey._find_slot(table, page) == 4095]
    assert len(pages) > 3
    page_map = PageMap(1 << 16)
    for _ in range(2):
        dense = page_map.translate(np.array(pages) << 2)
        assert dense.tolist() == [index << 2 for index in range(len(pages))]


@pytest.mark.parametrize(
    ("capacity", "text"), [(1, "1 pages (0.00390625M)"), (16384, "16384 pages (64M)")]
)
def test_page_map_refuses_one_page_more(capacity: int, text: str) -> None:
    page_map = PageMap(capacity)
    page_map.translate(np.arange(capacity) << 2)
    with pytest.raises(lackey.MemoryExceeded) as caught:
        page_map.translate(np.array([0, capacity << 2]))
    assert str(caught.value) == f"the trace touches more than {text}: give --memory"
    assert page_map.pages == capacity
    assert page_map.translate(np.array([READ])).tolist() == [READ]


@pytest.mark.parametrize(
    ("lines", "number", "shown"),
    [
        (["hello"], 1, "'hello'"),
        (["== x", "", "I  1,1", "I 1,1"], 4, "'I 1,1'"),
        ([" L 1,1", " L 0x10,1"], 2, "' L 0x10,1'"),
        ([" L 1,1\r"], 1, r"' L 1,1\r'"),
        ([" L 1,-1"], 1, "' L 1,-1'"),
        (["= x"], 1, "'= x'"),
        ([" M ,1"], 1, "' M ,1'"),
        ([" M 1,"], 1, "' M 1,'"),
        ([" M 1,0"], 1, "' M 1,0'"),
        ([" L fffffffffffff,1", " L 10000000000000,1"], 2, "' L 10000000000000,1'"),
        ([" L ffffffffffffe,2", " L ffffffffffffe,3"], 2, "' L ffffffffffffe,3'"),
        ([" S 1," + "9" * 400], 1, "' S 1,99999999999999999999999999999999...'"),
        (
            ["I  1,1", "== " + "x" * 4093, "== " + "x" * 4094],
            3,
            "'== " + "x" * 34 + "...' (more than 4096 bytes)",
        ),
        (
            ["I  1,1", " L " + "0" * 4092 + "1,1"],
            2,
            "' L " + "0" * 34 + "...' (more than 4096 bytes)",
        ),
    ],
)
@pytest.mark.parametrize("block_bytes", [7, 1 << 20])
@pytest.mark.parametrize("end", ["", "\n", "\nI  1,1\n"])
def test_a_broken_line(
    trace: Path, lines: list[str], number: int, shown: str, block_bytes: int, end: str
) -> None:
    write(trace, "\n".join(lines) + end)
    expected = f"{trace}:{number}: not a lackey record: {shown}"
    assert error_of(trace, block_bytes=block_bytes) == expected


def test_a_line_of_the_greatest_length(trace: Path) -> None:
    write(trace, " L " + "0" * 4090 + "1,1")
    assert read_all(TraceReader(trace, block_bytes=100)) == [READ]


def test_binary_bytes_after_the_first_block_are_a_broken_line(trace: Path) -> None:
    write(trace, b"I  1,1\n" * 20 + b"\0\xff\n")
    assert error_of(trace, block_bytes=70) == f"{trace}:21: not a lackey record: '\\x00\ufffd'"


@pytest.mark.parametrize(
    "data", [b"", b"\n \n", b"==1== Command: true\n", gzip.compress(b"", mtime=0)]
)
def test_no_record(trace: Path, data: bytes) -> None:
    expected = "expected the output of valgrind --tool=lackey --trace-mem=yes"
    assert error_of(write(trace, data)) == f"{trace}: no memory access in it ({expected})"


@pytest.mark.parametrize("data", [b"I  1,1\n\0", b"\x7fELF\xff\xfe", "I  1,1\n".encode("utf-16")])
@pytest.mark.parametrize("gz", [False, True])
def test_binary(trace: Path, data: bytes, gz: bool) -> None:
    expected = f"{trace}: a binary file (expected lackey's text or its gzip)"
    assert error_of(write(trace, data, gz=gz)) == expected


def test_broken_gzip(trace: Path) -> None:
    packed = gzip.compress(b"I  1000,4\n" * 999)
    for size in (2, 9, len(packed) // 2, len(packed) - 1):
        for block_bytes in (3, 1 << 20):
            write(trace, packed[:size])
            assert error_of(trace, block_bytes=block_bytes) == f"{trace}: a truncated gzip file"
    for damaged in (packed[:-6] + b"\xff" + packed[-5:], packed + b"tail", b"\x1f\x8bno"):
        assert f"{trace}: a damaged gzip file (" in error_of(write(trace, damaged))


def test_gzip_members_and_padding(trace: Path) -> None:
    member = gzip.compress(b"I  1000,4\n S 2")
    write(trace, member + gzip.compress(b"000,8\n") + bytes(1000))
    for block_bytes in (1, 5, 600, 1 << 20):
        accesses = read_all(TraceReader(trace, block_bytes=block_bytes))
        assert accesses == [1 << 2 | EXECUTE, 2 << 2 | WRITE]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert error_of(missing) == f"{missing}: cannot be read: No such file or directory"
    assert error_of(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    # Opens, and fails to read, for root too: nothing is mapped at address 0.
    memory = Path("/proc/self/mem")
    assert error_of(memory) == f"{memory}: cannot be read: Input/output error"


def test_a_pipe_will_do() -> None:
    source, sink = os.pipe()
    os.write(sink, gzip.compress(b" M fff,2\n"))
    os.close(sink)
    accesses = read_all(TraceReader(Path(f"/dev/fd/{source}")))
    os.close(source)
    assert accesses == [READ, WRITE, 1 << 2 | READ, 1 << 2 | WRITE]


def test_chunks_before_an_error_are_given_and_reading_starts_again(trace: Path) -> None:
    reader = TraceReader(write(trace, "I  0,8192\n L 0,1\nbad\n"), chunk_accesses=3)
    for _ in range(2):
        chunks = iter(reader)
        assert next(chunks).tolist() == [EXECUTE, 1 << 2 | EXECUTE, READ]
        assert (reader.accesses, reader.lines) == (3, 2)
        with pytest.raises(TraceError, match=":3: not a lackey record: 'bad'"):
            next(chunks)


def test_an_access_to_all_memory_is_a_stream(trace: Path) -> None:
    chunks = iter(TraceReader(write(trace, f" S 0,{1 << 52}\n")))
    page_map = PageMap(100_000)
    page_map.translate(next(chunks))
    with pytest.raises(lackey.MemoryExceeded, match=r"more than 100000 pages \(390.625M\)"):
        page_map.translate(next(chunks))


@pytest.mark.parametrize("options", [{"chunk_accesses": 0}, {"block_bytes": 0}])
def test_sizes_are_positive(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        TraceReader(Path("unused"), **options)
    with pytest.raises(ValueError, match="must be at least 1"):
        PageMap(0)


def test_the_committed_trace() -> None:
    path = TRACES / "sort.lackey.gz"
    with gzip.open(path, "rt") as file:
        text = file.read()
    touched: set[int] = set()
    records: Counter[str] = Counter()
    accesses = 0
    for line in text.splitlines():
        if not line.startswith("=="):
            letter, (address, size) = line[:2].strip(), line[3:].split(",")
            first = int(address, 16)
            pages = range(first >> 12, ((first + int(size) - 1) >> 12) + 1)
            touched.update(pages)
            accesses += len(pages) * len(KINDS[letter])
            records[letter] += 1

    reader, page_map = TraceReader(path), PageMap(1 << 20)
    for chunk in reader:
        page_map.translate(chunk)
    assert reader.records == records
    assert reader.lines == len(text.splitlines())
    assert reader.accesses == accesses
    assert page_map.pages == len(touched)
    # Two more witnesses: valgrind's own count, and what README.md tells.
    executed = re.search(r"guest instrs:\s+([\d,]+)", text)
    assert executed
    assert executed[1] == f"{reader.records['I']:,}"
    told = (TRACES / "README.md").read_text()
    numbers = [*records.values(), records.total(), reader.lines, accesses, page_map.pages]
    assert [number for number in numbers if f"{number:,}" not in told] == []


def test_the_committed_trace_names_no_path() -> None:
    data = (TRACES / "sort.lackey.gz").read_bytes()
    assert 300_000 <= len(data) <= 950_000
    assert b"/" not in gzip.decompress(data)
