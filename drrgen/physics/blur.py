"""Gaussian blur: fine ones pixel by pixel, wide ones on a coarser picture."""

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_FINE_SIGMA = 3.0  # up to here every pixel counts; what is wider is blurred on a coarser grid
_NO_SIGMA = 0.12  # up to here less than 0.01 % of a pixel falls into its neighbour
_REACH = 3.0  # of the kernel, in sigmas


def blur(image: Float[Tensor, "v u"], sigma: float) -> Float[Tensor, "v u"]:
    """Blur by a Gaussian; the picture goes on beyond its edge as it ends there.

    Args:
        image: Any picture.
        sigma: Standard deviation [pixels]; 0 leaves the picture as it is.
    """
    if sigma <= _NO_SIGMA:
        return image
    factor = int(sigma / _FINE_SIGMA)
    if factor < 2:
        return _convolve(image, sigma)
    pooled = functional.avg_pool2d(
        image[None, None], factor, ceil_mode=True, count_include_pad=False
    )
    coarse = _convolve(pooled[0, 0], sigma / factor)[None, None]
    size = (coarse.shape[-2] * factor, coarse.shape[-1] * factor)
    wide = functional.interpolate(coarse, size=size, mode="bilinear")
    return wide[0, 0, : image.shape[0], : image.shape[1]]


def _convolve(image: Float[Tensor, "v u"], sigma: float) -> Float[Tensor, "v u"]:
    """Convolve along rows, then along columns, by adding shifted pictures: fast for a few taps."""
    reach = max(1, round(_REACH * sigma))
    # The integral of the Gaussian over each pixel: a narrow one is not just sampled at its peak.
    taps = [_integrate(k - 0.5, k + 0.5, sigma) for k in range(reach + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    for axis in (1, 0):
        length = image.shape[axis]
        margin = (reach, reach, 0, 0) if axis == 1 else (0, 0, reach, reach)
        padded = functional.pad(image[None, None], margin, mode="replicate")[0, 0]
        image = padded.narrow(axis, reach, length) * (taps[0] / total)
        for k in range(1, reach + 1):
            for start in (reach - k, reach + k):
                image.add_(padded.narrow(axis, start, length), alpha=taps[k] / total)
    return image


def _integrate(low: float, high: float, sigma: float) -> float:
    """Integrate a Gaussian between two limits."""
    return (math.erf(high / (2**0.5 * sigma)) - math.erf(low / (2**0.5 * sigma))) / 2
