"""What users write for sizes, durations, page sizes and lists of counts.

Spelled as the KVM selftests spell them. Every function takes the text of one option and raises
`UsageError` naming that text and an example, so that each can be an argparse `type`.
"""

import math
import re
from collections.abc import Callable
from typing import Final

from workloads.errors import UsageError

SIZE_BYTES_MAX: Final = 2**63 - 1  # A size is an int64 in the model.
DURATION_S_MAX: Final = 366 * 24 * 3600  # Longer is a typing error, and overflows timers.
COUNT_MAX: Final = 4096  # KVM_MAX_VCPUS on x86 at its largest.

_SIZE_SHIFTS: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_DURATION_FACTORS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
_SIZE: Final = re.compile(r"([0-9]+)([kmgt]?)", re.IGNORECASE)
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", re.IGNORECASE)
_COUNT: Final = re.compile(r"([0-9]{1,9})(?:\.\.([0-9]{1,9}))?")

_BACKINGS: Final = {
    "4k": 1,
    "2m": 2,
    "1g": 3,
    # The selftests' names. Transparent and default hugetlb pages are 2m on x86.
    "anonymous": 1,
    "anonymous_thp": 2,
    "anonymous_hugetlb": 2,
    "anonymous_hugetlb_2mb": 2,
    "anonymous_hugetlb_1gb": 3,
    "shmem": 1,
    "shared_hugetlb": 2,
}
# The rest of the selftests' list: page sizes of arm64, riscv and powerpc.
_BACKING_FOREIGN: Final = re.compile(
    "anonymous_hugetlb_(16kb|64kb|512kb|1mb|8mb|16mb|32mb|256mb|512mb|2gb|16gb)"
)


def parse_size(text: str) -> int:
    """Bytes of a size such as `64M`: k, M, G and T are powers of 1024, no suffix is bytes.

    Raises `UsageError` for anything else, for 0, and for what 63 bits do not hold.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{_quoted(text)} is not a size; write a number and k, M, G or T: 64M")
    digits = match[1].lstrip("0")
    if not digits:
        raise UsageError(f"size {_quoted(text)} is zero; write at least 1, for example 64M")
    # The length is looked at first: int() refuses absurdly long numbers with another error.
    shift = _SIZE_SHIFTS[match[2].lower()]
    if len(digits) > 19 or int(digits) << shift > SIZE_BYTES_MAX:
        raise UsageError(f"size {_quoted(text)} is too large; write less than 8388608T, as in 64M")
    return int(digits) << shift


def parse_sizes(text: str) -> tuple[int, ...]:
    """Bytes of each size of a list such as `64G,256G,1T`."""
    return tuple(parse_size(each) for each in text.split(","))


def whole(what: str, least: int, most: int) -> Callable[[str], int]:
    """Parser of a whole number from `least` to `most`; `what` names it in the message."""

    def parse(text: str) -> int:
        digits = text.strip()
        if not re.fullmatch(r"-?[0-9]{1,12}", digits):
            raise UsageError(f"{_quoted(text)} is not a whole number; {what} is {least} to {most}")
        if not least <= int(digits) <= most:
            raise UsageError(f"{digits} is out of range: {what} is {least} to {most}")
        return int(digits)

    return parse


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `90s`, `10m`, `2h` or `5`; fractions are welcome.

    Raises `UsageError` for anything else, for 0, and for more than a year.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{_quoted(text)} is not a duration; write seconds, or 90s, 10m, 2h")
    duration_s = float(match[1]) * _DURATION_FACTORS[match[2].lower()]
    if duration_s == 0:
        raise UsageError(f"duration {_quoted(text)} is zero; write more, for example 90s")
    if not math.isfinite(duration_s) or duration_s > DURATION_S_MAX:
        raise UsageError(f"duration {_quoted(text)} is over a year; write less, for example 2h")
    return duration_s


def parse_backing(text: str) -> int:
    """Page-table level (1, 2 or 3) of a page size, or of a KVM selftest's backing source.

    Raises `UsageError` for page sizes that x86 does not have and for other names.
    """
    name = text.strip().lower()
    level = _BACKINGS.get(name)
    if level is not None:
        return level
    if _BACKING_FOREIGN.fullmatch(name):
        raise UsageError(f"backing {_quoted(text)}: x86 has 4k, 2m and 1g only; write one of them")
    raise UsageError(
        f"{_quoted(text)} is not a backing; write 4k, 2m, 1g or a selftest's name such as"
        " anonymous_hugetlb_1gb"
    )


def parse_counts(text: str) -> list[int]:
    """Counts of a list such as `1,2,4..8`, in the order written; a repeated one counts once.

    Raises `UsageError` for an empty list or item, 0, a range that runs backwards, and counts
    above `COUNT_MAX`.
    """
    counts: dict[int, None] = {}
    for item in text.split(","):
        match = _COUNT.fullmatch(item.strip())
        if match is None:
            raise UsageError(f"{_quoted(text)} is not a list of counts; write 1,2,4,8 or 4..8")
        first = int(match[1])
        last = int(match[2] or match[1])
        if first == 0:
            raise UsageError(f"counts {_quoted(text)}: a count is at least 1; write 1,2,4,8")
        if last < first:
            raise UsageError(f"counts {_quoted(text)}: {item.strip()} runs backwards; write 4..8")
        if last > COUNT_MAX:
            raise UsageError(f"counts {_quoted(text)}: {last} is above {COUNT_MAX}, KVM's limit")
        counts.update(dict.fromkeys(range(first, last + 1)))
    return list(counts)


def parse_tick(text: str) -> float:
    """Milliseconds between 0 (yield at every chance) and a minute.

    Raises `UsageError` for anything else.
    """
    match = re.fullmatch(r"[0-9]+(\.[0-9]+)?", text.strip())
    if match is None or float(text) > 60_000:
        raise UsageError(f"{_quoted(text)} is not a tick; write milliseconds from 0 to 60000: 4")
    return float(text)


def parse_cores(text: str) -> tuple[int, ...]:
    """Core numbers of a list such as `0,1,0,1`, in order, repetitions kept.

    Raises `UsageError` for anything else.
    """
    items = [item.strip() for item in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,5}", item) for item in items):
        raise UsageError(f"{_quoted(text)} is not a list of cores; write 0,1,2,3")
    return tuple(int(item) for item in items)


def _quoted(text: str) -> str:
    """The user's text as it may stand in a one-line message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
