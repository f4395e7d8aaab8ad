import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import tables

HEADERS = ("phase", "time", "pages", "x|y")
ROWS: list[tuple[tables.Cell, ...]] = [
    ("Populate", "0.012345678s", "262,144", None),
    ("-", "12.3 us", 7, "a|b"),
]


def test_github_table_aligns_numbers_right_and_escapes_bars() -> None:
    assert tables.render(HEADERS, ROWS).splitlines() == [
        "| phase    |         time |   pages | x\\|y   |",
        "|----------|--------------|---------|--------|",
        "| Populate | 0.012345678s | 262,144 |        |",
        "| -        |      12.3 us |       7 | a\\|b   |",
    ]


def test_plain_table_has_no_bars_of_its_own() -> None:
    assert tables.render(HEADERS, ROWS, format="plain").splitlines() == [
        "phase             time    pages  x|y",
        "Populate  0.012345678s  262,144",
        "-              12.3 us        7  a|b",
    ]


def test_one_word_among_numbers_aligns_the_column_left() -> None:
    assert tables.render(["n"], [["1"], ["100"], ["x1"]], format="plain").splitlines()[1] == "1"
    assert tables.render(["n"], [["1"], ["100"], ["-"]], format="plain").splitlines()[1] == "  1"


def test_a_table_without_rows_is_its_headers() -> None:
    assert tables.render(["run", "n"], []).splitlines()[0] == "| run   | n   |"


def test_a_row_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells under 2 headers"):
        tables.render(["a", "b"], [["1"]])


def test_cells_print_as_given() -> None:
    # tabulate's own number guessing would print 1.0, 1000000 and 255.
    assert tables.render(["n"], [["1.00"], ["1e6"], ["0xff"]], "plain").split()[1:] == [
        "1.00",
        "1e6",
        "0xff",
    ]


@given(st.integers(min_value=0, max_value=10**6 * 10**9))
def test_seconds_print_as_the_selftests_print_a_timespec(ns: int) -> None:
    assert tables.seconds(ns / 1e9) == f"{ns // 10**9}.{ns % 10**9:09d}s"


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (64 << 20, "64.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert tables.size(size_bytes) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (850, "850 ns"),
        (999.6, "1.00 us"),
        (12_345, "12.3 us"),
        (99_960, "100 us"),
        (999_600, "1.00 ms"),
        (4_560_000, "4.56 ms"),
        (1_230_000_000, "1.23 s"),
        (4321 * 10**9, "4321 s"),
    ],
)
def test_durations(ns: float, text: str) -> None:
    assert tables.duration_ns(ns) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(0, "0 /s"), (0.25, "0.25 /s"), (850, "850 /s"), (1.234e6, "1.23 M/s"), (5e12, "5000 G/s")],
)
def test_rates(per_second: float, text: str) -> None:
    assert tables.rate(per_second) == text


def test_counts_have_thousands() -> None:
    assert tables.count(262144) == "262,144"
    assert tables.count(999) == "999"


@given(st.floats(min_value=1000, max_value=999e9))
def test_scaled_numbers_have_three_digits_and_are_near(ns: float) -> None:
    number, unit = tables.duration_ns(ns).split()
    assert sum(map(str.isdigit, number)) == 3
    assert float(number) * {"us": 1e3, "ms": 1e6, "s": 1e9}[unit] == pytest.approx(ns, rel=0.0051)
