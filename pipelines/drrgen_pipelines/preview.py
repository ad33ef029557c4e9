"""A quick look at a CT: three slices through its middle, and the mean of all from the front."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from drrgen.io.atomic import write_bytes
from drrgen.volume import CTVolume, Hu

TILE_PX, GAP_PX = 360, 8
WINDOW_HU = (-1000.0, 400.0)
_GROUND = 24


def write_preview(volume: CTVolume, path: Path) -> None:
    """Write the axial, coronal and sagittal slice through the middle, and a mean projection.

    They hang as radiologists hang them: the patient's right on the left, anterior above or on the
    left, cranial above.

    Args:
        volume: The CT.
        path: A PNG; it is replaced.
    """
    hu, (z_mm, y_mm, x_mm) = _turn(volume)
    z, y, x = (n // 2 for n in hu.shape)
    step = max(1, hu.shape[1] // 128)  # enough for a mean
    tiles = [
        _draw(hu[z], y_mm, x_mm),
        _draw(hu[::-1, y], z_mm, x_mm),
        _draw(hu[::-1, :, x], z_mm, y_mm),
        _draw(_stretch(hu[::-1, ::step].mean(axis=1, dtype=np.float32)), z_mm, x_mm),
    ]
    side = TILE_PX + GAP_PX
    sheet = Image.new("L", (len(tiles) * side + GAP_PX, side + GAP_PX), _GROUND)
    for i, tile in enumerate(tiles):
        corner = ((TILE_PX - tile.width) // 2, (TILE_PX - tile.height) // 2)
        sheet.paste(tile, (GAP_PX + i * side + corner[0], GAP_PX + corner[1]))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _turn(volume: CTVolume) -> tuple[Hu, tuple[float, float, float]]:
    """View the array with its axes along cranial, posterior and left; also its spacing [mm]."""
    axes, signs = zip(*(volume.find_axis(patient) for patient in (2, 1, 0)), strict=True)
    if len(set(axes)) < 3:  # turned by 45 degrees: the nearest axes are not told apart
        axes, signs = (0, 1, 2), (1, 1, 1)
    hu = volume.hu.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    z, y, x = (volume.spacing_zyx_mm[axis] for axis in axes)
    return hu, (z, y, x)


def _stretch(mean: Shaped[np.ndarray, "v u"]) -> Shaped[np.ndarray, "v u"]:
    """Spread a projection over the window, whatever air lies before and behind the patient."""
    low, high = float(mean.min()), float(mean.max())
    share = (mean - low) / max(high - low, 1.0)
    return WINDOW_HU[0] + share * (WINDOW_HU[1] - WINDOW_HU[0])


def _draw(plane: Shaped[np.ndarray, "v u"], row_mm: float, column_mm: float) -> Image.Image:
    """Draw a plane in its true proportions."""
    low, high = WINDOW_HU
    grey = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1) * 255
    height, width = plane.shape[0] * row_mm, plane.shape[1] * column_mm
    scale = TILE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
