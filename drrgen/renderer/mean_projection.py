"""The baseline of X2CT-CLIP: the mean of clipped HU along parallel lines.

No source, no attenuation, no scatter: a picture for comparison. The published recipe resamples the
CT to 1 mm by trilinear interpolation and takes the mean along the antero-posterior axis. Both are
linear and act on one axis at a time, so the mean is taken first here, with the weights that the
interpolation gives to each slice, and no resampled volume is ever made.

Source: the recipe as described for arXiv 2503.02162.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from drrgen.choices import View
from drrgen.geometry.frames import VIEW_AXES
from drrgen.volume import CTVolume

PIXEL_MM = 1.0
CLIP_HU = 1000.0


def project_mean(volume: CTVolume, view: View) -> Float[Tensor, "v u"]:
    """Take the mean of clipped HU along a view's beam, on pixels of 1 mm, hung as the view is.

    Oblique grids are taken for upright ones, as the recipe does.

    Args:
        volume: The CT, table and all.
        view: The named view.

    Returns:
        Mean HU, from -1000 to 1000 [HU].
    """
    u, v, beam = (_find_axis(volume, direction) for direction in VIEW_AXES[view])
    spacing = volume.spacing_zyx_mm
    weights = _find_weights(volume.hu.shape[beam[0]], spacing[beam[0]])
    image = torch.from_numpy(_reduce(volume, beam[0], weights))
    # The axes that are left keep their order; rows shall run along v.
    if v[0] > u[0]:
        image = image.T
    size = [_count(volume.hu.shape[axis], spacing[axis]) for axis in (v[0], u[0])]
    image = functional.interpolate(image[None, None], size=size, mode="bilinear")[0, 0]
    return image.flip([axis for axis, (_, sign) in enumerate((v, u)) if sign < 0]).contiguous()


def _find_axis(volume: CTVolume, direction: tuple[float, float, float]) -> tuple[int, int]:
    """Find the array axis along a patient direction, and which way it runs."""
    patient_axis = int(np.abs(direction).argmax())
    axis, sign = volume.find_axis(patient_axis)
    return axis, sign if direction[patient_axis] > 0 else -sign


def _count(n: int, spacing_mm: float) -> int:
    """Count the samples of an axis after resampling."""
    return max(1, math.floor(n * spacing_mm / PIXEL_MM))


def _find_weights(n: int, spacing_mm: float) -> Float32[np.ndarray, "n"]:
    """Find how much each slice counts in the mean over resampled slices."""
    samples = functional.interpolate(
        torch.eye(n)[None], size=_count(n, spacing_mm), mode="linear", align_corners=False
    )
    return np.asarray(samples[0].mean(dim=1))


def _reduce(
    volume: CTVolume, axis: int, weights: Float32[np.ndarray, "n"]
) -> Float32[np.ndarray, "a b"]:
    """Take the weighted mean of clipped HU along an array axis, slice by slice."""
    shape = [n for k, n in enumerate(volume.hu.shape) if k != axis]
    if axis == 0:
        total = np.zeros(shape, dtype=np.float32)
        for plane, weight in zip(volume.hu, weights, strict=True):
            total += weight * _clip(plane)
        return total
    planes = [np.tensordot(weights, _clip(plane), axes=(0, axis - 1)) for plane in volume.hu]
    return np.stack(planes).astype(np.float32)


def _clip(plane: np.ndarray) -> Float32[np.ndarray, "a b"]:
    """Clip one slice as the recipe does."""
    return np.clip(plane, -CLIP_HU, CLIP_HU).astype(np.float32)
