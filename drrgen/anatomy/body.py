"""Where the patient is inside a CT, found cheaply."""

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from drrgen.errors import Reason, VolumeError
from drrgen.geometry.framing import Box
from drrgen.volume import CTVolume

BODY_HU = -300  # between skin, fat and muscle on one side, and air, foam and clothes on the other
COARSE_MM = 5.0
MIN_BODY_ML = 50.0
SKIN_MARGIN_MM = 10.0


def find_body(volume: CTVolume) -> Box:
    """Find the box around the body: the largest thing denser than -300 HU.

    It is sought on a coarse grid of about 5 mm. A table drops out, unless it is as heavy as the
    patient: what is thinner than two cells is eroded away before the largest piece is chosen.

    Args:
        volume: The CT.

    Returns:
        Box along the patient's axes, to the next coarse cell. Where the body is cut by the end of
        the CT, the box ends there exactly.

    Raises:
        VolumeError: ``empty_body``, nothing as large as a body part is denser than -300 HU.
    """
    steps = [max(1, round(COARSE_MM / mm)) for mm in volume.spacing_zyx_mm]
    dense = volume.hu[tuple(slice(step // 2, None, step) for step in steps)] > BODY_HU
    body = _keep_largest(dense)
    cell_ml = float(np.prod(volume.spacing_zyx_mm) * np.prod(steps)) / 1000
    if body.sum() * cell_ml < MIN_BODY_ML:
        raise VolumeError(
            Reason.EMPTY_BODY,
            "",
            f"found {body.sum() * cell_ml:.0f} ml denser than {BODY_HU} HU in one piece, wanted a "
            f"body of at least {MIN_BODY_ML:.0f} ml",
            remedy="check that the values are HU and that the CT shows a patient",
        )
    return _bound(volume, _find_extent(volume, body, steps))


def add_margin(body: Box, volume: CTVolume) -> Box:
    """Widen a box by a finger's breadth, but not beyond the grid of the CT."""
    corners = volume.corners_mm
    low = np.maximum(np.array(body.low_mm) - SKIN_MARGIN_MM, corners.min(axis=0))
    high = np.minimum(np.array(body.high_mm) + SKIN_MARGIN_MM, corners.max(axis=0))
    return _make_box(low, high)


def _keep_largest(dense: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Keep the largest connected piece, cutting thin bridges first."""
    core = ndimage.binary_erosion(dense, border_value=1)
    labels, count = ndimage.label(core if core.any() else dense)
    if count == 0:
        return dense
    sizes = np.bincount(labels.ravel())[1:]
    largest = labels == 1 + int(sizes.argmax())
    return ndimage.binary_dilation(largest) & dense if core.any() else largest


def _find_extent(
    volume: CTVolume, body: Bool[np.ndarray, "z y x"], steps: list[int]
) -> Float64[np.ndarray, "n 3"]:
    """Find the outer corners, in voxel coordinates (x, y, z), of the cells on the body's hull.

    Only the first and last cell of each row of cells are kept: no other can bound the body.
    """
    rows = body.any(axis=2)
    first = body.argmax(axis=2)[rows]
    last = body.shape[2] - 1 - body[:, :, ::-1].argmax(axis=2)[rows]
    z, y = np.nonzero(rows)
    cells = np.concatenate([np.stack([first, y, z], 1), np.stack([last, y, z], 1)])
    step = np.array(steps[::-1])
    count = np.array(volume.hu.shape[::-1])
    low = cells * step - 0.5
    # The last cell takes in what is left over of the grid.
    cell_count = np.array(body.shape[::-1])
    high = np.where(cells == cell_count - 1, count, (cells + 1) * step) - 0.5
    offsets = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = low[:, None] + offsets * (high - low)[:, None]
    return corners.reshape(-1, 3)


def _bound(volume: CTVolume, index: Float64[np.ndarray, "n 3"]) -> Box:
    """Bound points given in voxel coordinates by a box along the patient's axes."""
    matrix = volume.patient_from_voxel
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    return _make_box(points.min(axis=0), points.max(axis=0))


def _make_box(low: Float64[np.ndarray, "3"], high: Float64[np.ndarray, "3"]) -> Box:
    """Make a box of two corner points."""
    (ax, ay, az), (bx, by, bz) = low.tolist(), high.tolist()
    return Box(low_mm=(ax, ay, az), high_mm=(bx, by, bz))
