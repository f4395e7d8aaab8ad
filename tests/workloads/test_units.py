import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads import units
from workloads.errors import MachineError, RunFailed, TdpraceError, UsageError

_SHIFTS = {"": 0, "k": 10, "K": 10, "m": 20, "M": 20, "g": 30, "G": 30, "t": 40, "T": 40}


@given(st.integers(min_value=1, max_value=2**23 - 1), st.sampled_from(sorted(_SHIFTS)))
def test_size_is_its_number_shifted_by_its_suffix(number: int, suffix: str) -> None:
    assert units.parse_size(f"{number}{suffix}") == number << _SHIFTS[suffix]


@given(st.integers(min_value=1, max_value=units.SIZE_BYTES_MAX))
def test_plain_sizes_are_bytes(size_bytes: int) -> None:
    assert units.parse_size(str(size_bytes)) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0G",
        "-1",
        "-64M",
        "+1",
        "M",
        "64X",
        "64MB",
        "1.5G",
        "64 M",
        "1e3",
        "٣",
        "0x10",
    ],
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        units.parse_size(text)
    assert repr(text) in str(caught.value)
    assert "64M" in str(caught.value)


def test_sizes_end_where_an_int64_ends() -> None:
    assert units.parse_size(str(2**63 - 1)) == 2**63 - 1
    assert units.parse_size("8388607T") == 8388607 << 40
    assert units.parse_size("0" * 5000 + "7") == 7
    for text in (str(2**63), "8388608T", "9" * 5000):
        with pytest.raises(UsageError, match="too large"):
            units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("5", 5.0), ("0.5", 0.5), ("1.5M", 90.0)],
)
def test_durations_are_seconds(text: str, duration_s: float) -> None:
    assert units.parse_duration(text) == duration_s


@pytest.mark.parametrize(
    "text", ["", "0", "0.0h", "-1", "s", "5d", "1h30m", ".5", "inf", "nan", "9" * 400, "8785h"]
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"2h|90s"):
        units.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("4k", 1),
        ("2m", 2),
        ("2M", 2),
        ("1g", 3),
        ("anonymous", 1),
        ("anonymous_thp", 2),
        ("anonymous_hugetlb", 2),
        ("anonymous_hugetlb_2mb", 2),
        ("anonymous_hugetlb_1gb", 3),
        ("shmem", 1),
        ("shared_hugetlb", 2),
    ],
)
def test_backings_are_levels(text: str, level: int) -> None:
    assert units.parse_backing(text) == level


@pytest.mark.parametrize("size", ["16kb", "64kb", "1mb", "512mb", "16gb"])
def test_page_sizes_of_other_machines_are_named_as_such(size: str) -> None:
    with pytest.raises(UsageError, match="x86 has 4k, 2m and 1g only"):
        units.parse_backing(f"anonymous_hugetlb_{size}")


@pytest.mark.parametrize("text", ["", "3m", "hugetlb", "anonymous_hugetlb_3mb", "1"])
def test_other_words_are_no_backing(text: str) -> None:
    with pytest.raises(UsageError, match="not a backing"):
        units.parse_backing(text)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("1,2,4,8", [1, 2, 4, 8]),
        ("4..8", [4, 5, 6, 7, 8]),
        ("8, 1..3 ,2", [8, 1, 2, 3]),
        ("3..3", [3]),
        ("4096", [4096]),
    ],
)
def test_counts_keep_their_order_and_lose_repetitions(text: str, counts: list[int]) -> None:
    assert units.parse_counts(text) == counts


@given(st.lists(st.integers(min_value=1, max_value=units.COUNT_MAX), min_size=1, unique=True))
def test_counts_read_back_what_was_written(counts: list[int]) -> None:
    assert units.parse_counts(",".join(map(str, counts))) == counts


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "0", "0..4", "-1", "8..4", "1...4", "4097", "1..999999999", "1;2", "x"]
)
def test_bad_counts_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        units.parse_counts(text)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=200))
def test_every_parser_refuses_in_one_short_line(text: str) -> None:
    for parse in (units.parse_size, units.parse_duration, units.parse_backing, units.parse_counts):
        message = ""
        try:
            parse(text)
        except UsageError as error:
            message = str(error)
        assert len(message.splitlines()) <= 1
        assert len(message) < 800


def test_errors_carry_the_exit_status_of_the_design_and_one_line() -> None:
    assert (UsageError.status, MachineError.status, RunFailed.status) == (2, 3, 4)
    for kind in (UsageError, MachineError, RunFailed):
        assert issubclass(kind, TdpraceError)
        assert str(kind("a name\nwith\r\nbreaks")) == "a name with breaks"
