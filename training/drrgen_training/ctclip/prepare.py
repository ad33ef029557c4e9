"""A CT as the CT-CLIP tower was trained on it: 480 x 480 x 240 voxels of 0.75, 0.75 and 1.5 mm."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from drrgen.volume import CTVolume, Hu

PREPARE_VERSION = 1  # rises whenever an embedding would change
SPACING_ZXY_MM = (1.5, 0.75, 0.75)
SIZE_ZXY = (240, 480, 480)
LIMIT_HU = 1000.0


def to_lps(volume: CTVolume) -> tuple[Hu, tuple[float, float, float]]:
    """Turn the array's axes to z, y, x of the patient, rising cranially, backwards and to the left.

    Returns:
        Hounsfield units, and the spacing along z, y and x [mm].
    """
    axes, steps = zip(*(volume.find_axis(axis) for axis in (2, 1, 0)), strict=True)
    turned = volume.hu.transpose(axes)[tuple(slice(None, None, step) for step in steps)]
    z, y, x = (volume.spacing_zyx_mm[axis] for axis in axes)
    return np.ascontiguousarray(turned), (z, y, x)


def prepare_volume(
    volume: CTVolume, size_zxy: tuple[int, int, int] = SIZE_ZXY
) -> Float[Tensor, "1 z x y"]:
    """Clip, resample, scale to [-1, 1], and crop or pad to the size around the middle.

    The published pipeline takes the array as it lies in the file; files of CT-RATE lie with x to
    the left, y backwards and z cranial, so any other is turned to that.

    Args:
        volume: The CT.
        size_zxy: Size of the result.

    Source:
        Hamamci et al. 2024, arXiv 2403.17834; the order of steps is that of their inference.
    """
    hu, (z, y, x) = to_lps(volume)
    values = torch.from_numpy(hu).transpose(1, 2).float().clamp_(-LIMIT_HU, LIMIT_HU)  # z x y
    spacing = (z, x, y)
    size = [
        max(1, int(n * mm / target))
        for n, mm, target in zip(values.shape, spacing, SPACING_ZXY_MM, strict=True)
    ]
    values = functional.interpolate(
        values[None, None], size=size, mode="trilinear", align_corners=False
    )[0]
    return _fit(values / LIMIT_HU, size_zxy)


def _fit(values: Float[Tensor, "1 z x y"], size: tuple[int, int, int]) -> Float[Tensor, "1 p q r"]:
    """Crop and pad with air around the middle; an odd voxel of padding goes to the end."""
    for axis, wanted in enumerate(size, start=1):
        excess = values.shape[axis] - wanted
        if excess > 0:
            values = values.narrow(axis, excess // 2, wanted)
    pads = [0, 0] * values.dim()
    for axis, wanted in enumerate(size, start=1):
        lack = wanted - values.shape[axis]
        place = 2 * (values.dim() - 1 - axis)
        pads[place], pads[place + 1] = lack // 2, lack - lack // 2
    return functional.pad(values, pads, value=-1.0)
