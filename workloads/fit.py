"""A straight line through measured times, what it says of larger sizes, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

# Student's t, 97.5 %, by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447}

Point = tuple[float, float]  # (how many, seconds)


def rate(points: Sequence[Point]) -> float:
    """Seconds each, by least squares of relative errors (time = rate x count, no offset).

    The weights 1 / count**2 make each measurement count the same, whatever its size.
    """
    return sum(seconds / count for count, seconds in points) / len(points)


def half_width(points: Sequence[Point]) -> float:
    """Half of the 95 % prediction interval of one more measured rate, in seconds each."""
    mean, freedom = rate(points), len(points) - 1
    spread = sum((seconds / count - mean) ** 2 for count, seconds in points) / freedom
    return _T[min(freedom, max(_T))] * sqrt(spread * (1 + 1 / len(points)))


def fit_lines(points: Sequence[Point], target: float, name: str) -> list[str]:
    """The fit, how well the smaller sizes predict the largest, and the target, extrapolated."""
    *smaller, (count, seconds) = sorted(points)
    predicted = rate(smaller) * count
    lines = [
        f"CPU time, least squares: {rate(points) * 1e9:.2f} ns each; the smaller sizes predict"
        f" {predicted:.3f}s for the largest, measured {seconds:.3f}s"
        f" ({100 * (predicted / seconds - 1):+.1f}%)"
    ]
    if len(points) > 2:
        low, high = (rate(points) + sign * half_width(points) for sign in (-1, 1))
        lines.append(
            f"extrapolated, not measured: {name} would take {rate(points) * target:.0f}s of a core"
            f" ({max(low, 0) * target:.0f}s to {high * target:.0f}s, 95% of predictions)"
        )
    return lines
