"""Blur: nothing lost, as wide as asked, and the quick way for wide ones like the slow one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drrgen.physics.blur import blur

FLOAT32_TOL = 1e-5  # relative, of a sum over many taps
WIDTH_TOL = 1e-4  # of the standard deviation, where every pixel counts
COARSE_WIDTH_TOL = 0.01  # on the coarse grid, whose answer hangs on where in a cell a point lies
COARSE_TOL = 0.025  # of the picture's range, at a corner of a picture with a hard edge


def convolve_slowly(image: Tensor, sigma: float) -> Tensor:
    """A plain Gaussian, sampled; the edge goes on."""
    reach = math.ceil(5 * sigma)
    x = torch.arange(-reach, reach + 1, dtype=torch.float64)
    taps = torch.exp(-(x**2) / (2 * sigma**2))
    taps = (taps / taps.sum()).to(image.dtype)
    for _ in range(2):
        padded = torch.cat([image[:1].expand(reach, -1), image, image[-1:].expand(reach, -1)])
        image = torch.stack([taps @ padded[i : i + len(taps)] for i in range(image.shape[0])]).T
    return image


def find_width(sigma: float, size: int) -> float:
    """Standard deviation of the answer to a point, over all places in a coarse cell."""
    variances, middles = [], []
    cell = max(1, int(sigma / 2))
    x = torch.arange(size, dtype=torch.float64)
    for place in range(cell):
        image = torch.zeros(size, size, dtype=torch.float64)
        image[size // 2 // cell * cell + place, size // 2] = 1
        line = blur(image, sigma).sum(1)
        middle = float((line * x).sum())
        variances.append(float((line * (x - middle) ** 2).sum()))
        middles.append(middle - (size // 2 // cell * cell + place))
    shift = sum(m**2 for m in middles) / cell
    return math.sqrt(sum(variances) / cell + shift)


@pytest.mark.parametrize("sigma", [0.1001, 0.2, 0.289, 0.5, 0.8, 1.0, 2.1, 3.9])
def test_a_point_is_spread_as_wide_as_asked(sigma: float) -> None:
    assert find_width(sigma, 101) == pytest.approx(sigma, rel=WIDTH_TOL)


@pytest.mark.parametrize(("sigma", "size"), [(4.0, 80), (6.0, 96), (10.0, 160), (40.0, 480)])
def test_a_wide_blur_is_as_wide_as_asked_on_the_mean(sigma: float, size: int) -> None:
    assert find_width(sigma, size) == pytest.approx(sigma, rel=COARSE_WIDTH_TOL)


@pytest.mark.parametrize("sigma", [0.3, 2.0, 6.0, 20.0])
def test_what_lies_off_the_edge_keeps_its_sum(sigma: float) -> None:
    image = torch.zeros(300, 280)
    image[130:170, 120:150] = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    assert float(blur(image, sigma).sum()) == pytest.approx(float(image.sum()), rel=1e-4)


@given(st.floats(0, 60), st.integers(1, 70), st.integers(1, 70), st.floats(-100, 100))
def test_an_even_picture_stays_as_it_is(
    sigma: float, rows: int, columns: int, value: float
) -> None:
    """Also at its edges, which are held, and when it is smaller than the blur."""
    image = torch.full((rows, columns), value)
    out = blur(image, sigma)
    assert out.shape == image.shape
    assert torch.allclose(out, image, rtol=FLOAT32_TOL, atol=1e-6)


@given(st.floats(0.1, 40), st.integers(0, 2**31))
def test_a_blur_makes_nothing_brighter_or_darker_than_it_was(sigma: float, seed: int) -> None:
    image = torch.rand(40, 50, generator=torch.Generator().manual_seed(seed))
    out = blur(image, sigma)
    assert float(out.max()) <= float(image.max()) + 1e-6
    assert float(out.min()) >= float(image.min()) - 1e-6


@pytest.mark.parametrize("sigma", [6.0, 9.0, 25.0, 70.0])
def test_a_wide_blur_agrees_with_the_exact_one(sigma: float) -> None:
    image = torch.zeros(257, 301)
    image[:, 140:] = 1
    image[90:] += 0.5
    off = (blur(image, sigma) - convolve_slowly(image, sigma)).abs() / 1.5
    assert float(off.max()) < COARSE_TOL


def test_no_blur_is_no_change() -> None:
    image = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    assert blur(image, 0.0) is image


def test_a_blur_leaves_its_input_alone() -> None:
    image = torch.rand(30, 40, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    for sigma in (0.5, 8.0):
        blur(image, sigma)
        assert torch.equal(image, before)
