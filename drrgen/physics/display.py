"""How line integrals become the grey of a radiograph: bones white, air black (MONOCHROME2).

The chest look follows what a digital system does. The logarithmic signal is normalised to the
patient, whatever his size, large-scale differences between lungs and mediastinum are compressed so
that vessels, ribs and spine show at once, and a sigmoid, like film, rolls off at both ends.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from drrgen.choices import Display
from drrgen.errors import PhysicsError
from drrgen.physics.blur import blur
from drrgen.physics.exposure import BODY_LINE_INTEGRAL

LINEAR_WHITE = 12.0  # line integral shown white by the linear display

_LOW_SHARE, _HIGH_SHARE = 0.12, 0.97  # quantiles of the body that the grey scale is pinned to
_LOW_GREY, _HIGH_GREY = 0.18, 0.90
_COARSE_SHARE, _FINE_SHARE = 0.06, 0.008  # width of the blurs, of the picture's short side
_COARSE_GAIN, _FINE_GAIN = 0.6, 3.0  # what lungs against mediastinum, and what edges, count
_QUANTILE_SAMPLES = 65_536


def to_radiograph(
    line_integral: Float[Tensor, "v u"],
    *,
    display: Display | str = Display.CHEST,
    exposed_xywh: tuple[int, int, int, int] | None = None,
    brightness: float = 0.0,
    contrast: float = 1.0,
) -> Float[Tensor, "v u"]:
    """Turn line integrals into a display image.

    Args:
        line_integral: Integral of linear attenuation along each ray [dimensionless].
        display: ``chest`` looks like a radiograph; ``linear`` shows 0 black and 12 white.
        exposed_xywh: The open part of the collimator [pixels]; None for all. The rest is 0.
        brightness: Shift of the grey scale, in widths of it; more is whiter.
        contrast: Steepness of the grey scale; 1 is the look's own.

    Returns:
        Grey from 0 (black, air) to 1 (white, dense).

    Raises:
        PhysicsError: Unknown display, line integrals not finite, or an empty exposed field.

    Example:
        >>> to_radiograph(torch.tensor([[0.0, 6.0, 12.0]]), display="linear")
        tensor([[0.0000, 0.5000, 1.0000]])
    """
    try:
        look = Display(display)
    except ValueError as error:
        raise PhysicsError(f"display must be chest or linear, got {display!r}") from error
    if not bool(torch.isfinite(line_integral).all()):
        raise PhysicsError("line integrals must be finite; the volume or its table is broken")
    rows, columns = line_integral.shape
    left, top, width, height = exposed_xywh or (0, 0, columns, rows)
    inner = line_integral[top : top + height, left : left + width]
    if inner.numel() == 0:
        raise PhysicsError(f"exposed_xywh is empty inside the picture, got {exposed_xywh}")
    image = torch.zeros_like(line_integral)
    if look is Display.LINEAR:
        shown = ((inner / LINEAR_WHITE - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
    else:
        shown = _show_chest(inner, brightness, contrast)
    image[top : top + height, left : left + width] = shown
    return image


def _show_chest(
    line_integral: Float[Tensor, "v u"], brightness: float, contrast: float
) -> Float[Tensor, "v u"]:
    """Compress large differences, normalise inside the body, and roll off."""
    body = line_integral > BODY_LINE_INTEGRAL
    if not bool(body.any()):
        return torch.zeros_like(line_integral)
    side = min(line_integral.shape)
    coarse = _blur_inside(line_integral, body, _COARSE_SHARE * side)
    fine = _blur_inside(line_integral, body, _FINE_SHARE * side)
    signal = _COARSE_GAIN * coarse + (fine - coarse) + _FINE_GAIN * (line_integral - fine)
    low, high = _find_quantiles(signal[body])
    if not high > low:
        return body.to(line_integral.dtype) / 2
    # A logistic curve through both anchors, then the user's own contrast about its middle.
    low_logit, high_logit = (math.log(g / (1 - g)) for g in (_LOW_GREY, _HIGH_GREY))
    steep = (high_logit - low_logit) / (high - low)
    middle = low - low_logit / steep - brightness * (high - low)
    steep *= contrast
    grey = torch.sigmoid(steep * (signal - middle))
    # Beside the patient the film is black, without a step at the skin.
    return grey * (line_integral / BODY_LINE_INTEGRAL).clamp(0, 1)


def _find_quantiles(values: Float[Tensor, "n"]) -> tuple[float, float]:
    """Find low and high quantile from evenly spaced samples."""
    stride = max(1, values.numel() // _QUANTILE_SAMPLES)
    shares = torch.tensor([_LOW_SHARE, _HIGH_SHARE], dtype=values.dtype)
    low, high = torch.quantile(values[::stride], shares).tolist()
    return low, high


def _blur_inside(
    values: Float[Tensor, "v u"], inside: Bool[Tensor, "v u"], radius: float
) -> Float[Tensor, "v u"]:
    """Blur within a mask only, so that air beside the skin does not leak in (normalised blur)."""
    mask = inside.to(values.dtype)
    weight = blur(mask, radius)
    return blur(values * mask, radius) / weight.clamp(min=1e-2)
