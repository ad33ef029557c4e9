"""Gaussian blur: fine ones pixel by pixel, wide ones on a coarser picture."""

import math
from functools import cache
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_FINE_SIGMA = 2.0  # of the coarse grid, on which wide blurs are done [its cells]
_NO_SIGMA = 0.1  # up to here the finest stripes lose less than 2 % of their contrast
_REACH = 3.5  # of the kernel, in sigmas


def blur(image: Float[Tensor, "v u"], sigma: float) -> Float[Tensor, "v u"]:
    """Blur by a Gaussian; the picture goes on beyond its edge as it ends there.

    The standard deviation is that of the whole kernel as it is applied, along each axis: nothing is
    added by the pixels' own width, or by the coarser grid on which wide blurs are done.

    Args:
        image: Any picture.
        sigma: Standard deviation [pixels]; what is below 0.1 leaves the picture as it is.
    """
    if sigma <= _NO_SIGMA:
        return image
    factor = int(sigma / _FINE_SIGMA)
    if factor < 2:
        return _convolve(image, sigma)
    pooled = functional.avg_pool2d(
        image[None, None], factor, ceil_mode=True, count_include_pad=False
    )
    # The mean over blocks and the straight lines between them blur by themselves.
    own = (factor**2 - 1) / 12 + (2 * factor**2 + 1) / 12
    coarse = _convolve(pooled[0, 0], math.sqrt(sigma**2 - own) / factor)[None, None]
    size = (coarse.shape[-2] * factor, coarse.shape[-1] * factor)
    wide = functional.interpolate(coarse, size=size, mode="bilinear")
    return wide[0, 0, : image.shape[0], : image.shape[1]]


def _convolve(image: Float[Tensor, "v u"], sigma: float) -> Float[Tensor, "v u"]:
    """Convolve along rows, then along columns, by adding shifted pictures: fast for a few taps."""
    taps = _find_taps(sigma)
    reach = len(taps) - 1
    for axis in (1, 0):
        length = image.shape[axis]
        margin = (reach, reach, 0, 0) if axis == 1 else (0, 0, reach, reach)
        padded = functional.pad(image[None, None], margin, mode="replicate")[0, 0]
        image = padded.narrow(axis, reach, length) * taps[0]
        for k in range(1, reach + 1):
            for start in (reach - k, reach + k):
                image.add_(padded.narrow(axis, start, length), alpha=taps[k])
    return image


@cache
def _find_taps(sigma: float) -> tuple[float, ...]:
    """Find the weights of a pixel and its neighbours to one side: 1 in all, and as wide as asked.

    They are a Gaussian integrated over each pixel, made narrower until pixels and Gaussian together
    have the standard deviation asked for.
    """
    low, high = 0.0, 2 * sigma + 1
    for _ in range(50):
        inner = (low + high) / 2
        taps = _integrate_over_pixels(inner, max(1, math.ceil(_REACH * sigma)))
        wide = 2 * sum(tap * k**2 for k, tap in enumerate(taps)) > sigma**2
        low, high = (low, inner) if wide else (inner, high)
    return taps


def _integrate_over_pixels(sigma: float, reach: int) -> tuple[float, ...]:
    """Integrate a Gaussian over each pixel from its middle to one side; both sides sum to one."""
    edges = [math.erf((k - 0.5) / (2**0.5 * sigma)) / 2 for k in range(reach + 2)]
    taps = [after - before for before, after in pairwise(edges)]
    total = taps[0] + 2 * sum(taps[1:])
    return tuple(tap / total for tap in taps)
