"""The line through measured times against numpy's, and whether its interval keeps its promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.fit import fit_lines, half_width, rate

T_95 = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447}  # Student's t by number of points

counts = st.integers(1, 1 << 34).map(float)
points = st.lists(st.tuples(counts, st.floats(1e-6, 1e3)), min_size=3, max_size=7)


@given(points)
def test_the_rate_is_that_of_least_squares(measured):
    """Of relative errors, through the origin: a polynomial of degree 0 through the rates."""
    n, seconds = map(np.array, zip(*measured, strict=True))
    assert rate(measured) == pytest.approx(np.polyfit(n, seconds / n, 0)[0], rel=1e-9)
    weighted = np.linalg.lstsq((n / n)[:, None], seconds / n, rcond=None)[0][0]
    assert rate(measured) == pytest.approx(weighted, rel=1e-9)


@given(points)
def test_the_interval_is_that_of_one_more_measurement(measured):
    """Its variance is that of the mean, as numpy knows it, and that of the new one."""
    n, seconds = map(np.array, zip(*measured, strict=True))
    _, ((of_mean,),) = np.polyfit(n, seconds / n, 0, cov=True)
    expected = T_95[len(measured)] * np.sqrt(of_mean * (len(measured) + 1))
    assert half_width(measured) == pytest.approx(expected, rel=1e-6, abs=1e-12 * rate(measured))


@given(st.lists(counts, min_size=3, max_size=7), st.floats(1e-9, 1e-3), counts)
def test_a_further_point_of_an_exact_line_lies_in_the_interval(sizes, each, further):
    measured = [(size, size * each) for size in sizes]
    middle, half = rate(measured), half_width(measured)
    assert abs(further * each / further - middle) <= half + 1e-12 * each


@pytest.mark.parametrize("number", [3, 4, 7])
def test_the_interval_holds_nineteen_of_twenty_further_measurements(number):
    random = np.random.default_rng(1)
    repeats, inside = 4000, 0
    for _ in range(repeats):
        rates = random.normal(10e-9, 1e-9, number + 1)
        measured = [(2.0**i, 2.0**i * each) for i, each in enumerate(rates[:-1], start=20)]
        inside += abs(rates[-1] - rate(measured)) <= half_width(measured)
    assert inside / repeats == pytest.approx(0.95, abs=0.015)  # four standard deviations


def test_the_largest_is_predicted_from_the_smaller_ones():
    # 10 ns each, then 12 ns: 16.7 % less than measured.  The order does not matter.
    said = fit_lines([(4e6, 0.048), (1e6, 0.010), (2e6, 0.020)], 1e9, "all")
    assert said[0] == (
        "CPU time, least squares: 10.67 ns each; the smaller sizes predict 0.040s for the largest,"
        " measured 0.048s (-16.7%)"
    )
    assert said[1].startswith("extrapolated, not measured: all would take 11s of a core (5s to")
    assert len(fit_lines([(1e6, 0.010), (2e6, 0.020)], 1e9, "all")) == 1  # no interval of two
