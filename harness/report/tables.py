"""Tables and the spelling of numbers in them, the same everywhere.

`tabulate` lays tables out. Its guesses about numbers are switched off: it would right-align
only what Python can parse, and re-format `1,024` or `0.10` on the way.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

Cell = str | int | float | None

# A number as the functions below spell it: sign, digits, and perhaps a unit.
_NUMBER: Final = re.compile(r"[+-]?[0-9][0-9,]*(\.[0-9]+)?( ?[A-Za-z/%]{1,4})?")
_ABSENT: Final = ("", "-")


def render(
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    format: Literal["github", "plain"] = "github",  # noqa: A002 - what tables call it
) -> str:
    """The table as text without a trailing newline; columns that hold only numbers align right.

    `None` prints as an empty cell; for `github`, `|` and line breaks in cells are escaped.
    """
    from tabulate import tabulate  # Here, as its import would slow down `--help`.

    cells = [[_cell(value, format) for value in row] for row in rows]
    return tabulate(
        cells,
        headers=[_cell(header, format) for header in headers],
        tablefmt=format,
        disable_numparse=True,
        colalign=_alignments(cells, len(headers)) if cells else None,
    )


def _cell(value: Cell, table_format: str) -> str:
    text = " ".join(("" if value is None else str(value)).splitlines())
    return text.replace("|", "\\|") if table_format == "github" else text


def _alignments(cells: Sequence[Sequence[str]], column_count: int) -> list[str]:
    columns: list[list[str]] = [[] for _ in range(column_count)]
    for row in cells:
        if len(row) != column_count:
            raise ValueError(f"a row of {len(row)} cells under {column_count} headers: {row}")
        for column, cell in zip(columns, row, strict=True):
            if cell not in _ABSENT:
                column.append(cell)
    return [
        "right" if column and all(map(_NUMBER.fullmatch, column)) else "left" for column in columns
    ]


def seconds(value_s: float) -> str:
    """`0.012345678s`: nine decimals and an `s`, as the KVM selftests print durations."""
    return f"{value_s:.9f}s"


def count(n: int) -> str:
    """`262,144`."""
    return f"{n:,}"


def size(size_bytes: int) -> str:
    """`64.0 MiB`; whole bytes below 1 KiB."""
    if abs(size_bytes) < 1024:
        return f"{size_bytes} B"
    value = size_bytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        # Compared as printed: 1,048,575 bytes are 1.0 MiB, not 1024.0 KiB.
        if round(abs(value), 1) < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration_ns(ns: float) -> str:
    """`850 ns`, `12.3 us`, `4.56 ms`, `1.23 s`: three digits; nanoseconds stay whole."""
    if round(abs(ns)) < 1000:
        return f"{round(ns)} ns"
    return _scaled(ns / 1000, ("us", "ms", "s"))


def rate(per_second: float) -> str:
    """`1.23 M/s`, three digits; `0 /s` for nothing."""
    if per_second == 0:
        return "0 /s"
    return _scaled(per_second, ("/s", "k/s", "M/s", "G/s"))


def share(part: float) -> str:
    """`12.3 %`, three digits: `0.00123 %` too is worth knowing."""
    if not 0 < part < 1:
        return f"{100 * part:.0f} %"
    digits = max(2 - math.floor(math.log10(100 * part)), 0)
    return f"{100 * part:.{digits}f} %"


def _scaled(value: float, units: Sequence[str]) -> str:
    """Three digits and the first unit in which they suffice; more digits in the last one."""
    for unit in units:
        for decimals in (2, 1, 0):
            text = f"{value:.{decimals}f}"
            # Counted as printed, so that rounding cannot make a fourth digit.
            if sum(map(str.isdigit, text)) <= 3:
                return f"{text} {unit}"
        value /= 1000
    return f"{value * 1000:.0f} {units[-1]}"
