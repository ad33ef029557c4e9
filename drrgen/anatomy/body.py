"""Where the patient is inside a CT, found cheaply; and the CT without what is not the patient."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from drrgen.errors import Reason, VolumeError
from drrgen.geometry.framing import Box
from drrgen.volume import AIR_HU, CTVolume

BODY_HU = -300  # between skin, fat and muscle on one side, and air, foam and clothes on the other
COARSE_MM = 5.0
MIN_BODY_ML = 50.0
NARROW_CELLS = 2  # half the width of a way through the chest wall that is none
MIN_LIMB_ML = 100.0  # a piece beside the trunk that is an arm, and no rail of a table
LIMB_DENSE_SHARE = 0.5  # an arm is dense through and through, a table is foam in a shell
SKIN_MARGIN_MM = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Body:
    """The patient in a CT.

    Attributes:
        box: Around the body, along the patient's axes, to the next coarse cell. Where the body is
            cut by the end of the CT, the box ends there exactly.
        cells: Coarse cells of the body, lungs and bowels included.
        steps: Voxels in a cell, along z, y, x.
        beside_ml: Volume of what is dense and not the patient: table, cushions, clothes [ml].
    """

    box: Box
    cells: Bool[np.ndarray, "cz cy cx"]
    steps: tuple[int, int, int]
    beside_ml: float


def find_body(volume: CTVolume) -> Body:
    """Find the patient: the largest things denser than -300 HU that are thick.

    They are sought on a coarse grid of about 5 mm. A table drops out, for its shells are thin: what
    is thinner than two cells is eroded away before the pieces are chosen; a closed shell is told by
    the foam in it. Arms beside the trunk are kept, and so is most of a lung that the field of view
    cuts open.

    Args:
        volume: The CT.

    Raises:
        VolumeError: ``empty_body``, nothing as large as a body part is denser than -300 HU.
    """
    z, y, x = (max(1, round(COARSE_MM / mm)) for mm in volume.spacing_zyx_mm)
    steps = (z, y, x)
    middles = (min(step // 2, n - 1) for step, n in zip(steps, volume.hu.shape, strict=True))
    picked = tuple(slice(m, None, step) for m, step in zip(middles, steps, strict=True))
    dense = volume.hu[picked] > BODY_HU
    cell_ml = float(np.prod(volume.spacing_zyx_mm) * np.prod(steps)) / 1000
    posterior, (cranial, _) = volume.find_axis(1), volume.find_axis(2)
    # The trunk is filled, so that it is thick, before thin things are cut off. Ways through a thin
    # chest wall are closed afterwards, when there is no table that they could join to it.
    solid = _fill(dense, cranial, narrow=0)
    pieces = _keep_patient(solid, dense, cell_ml, posterior)
    # Where the field of view cuts a lung open, there is still chest wall before and behind it.
    cells = _fill(pieces, cranial, narrow=NARROW_CELLS) | _fill_between(pieces, posterior[0])
    found_ml = (cells & dense).sum() * cell_ml
    if found_ml < MIN_BODY_ML:
        raise VolumeError(
            Reason.EMPTY_BODY,
            "",
            f"found {found_ml:.0f} ml denser than {BODY_HU} HU in one piece, wanted a body of at "
            f"least {MIN_BODY_ML:.0f} ml",
            remedy="check that the values are HU and that the CT shows a patient",
        )
    return Body(
        box=_bound(volume, _find_extent(volume, cells, steps)),
        cells=cells,
        steps=steps,
        beside_ml=float((dense & ~cells).sum() * cell_ml),
    )


def remove_surroundings(volume: CTVolume, body: Body, *, in_place: bool = False) -> CTVolume:
    """Make the CT without table, cushions and clothes: air, from one cell beside the skin outwards.

    Args:
        volume: The CT.
        body: The patient in it.
        in_place: Change the CT itself, which saves as much memory as it has, and the time to fill
            that; else it is left as it is.
    """
    # Over corners too: a cell that the skin only grazes is not dense in its middle.
    near = ndimage.binary_dilation(body.cells, np.ones((3, 3, 3)))
    hu = volume.hu if in_place else np.empty_like(volume.hu)
    step_z, step_y, step_x = body.steps
    n_z, n_y, n_x = hu.shape
    for cell, plane in enumerate(near):
        last = n_z if cell == len(near) - 1 else (cell + 1) * step_z
        inside = _enlarge(_enlarge(plane, step_y, n_y, 0), step_x, n_x, 1)
        # All bits inside and none outside, where those of air come in: the fastest way to choose.
        bits, air = -inside.astype(np.int16), np.where(inside, 0, AIR_HU).astype(np.int16)
        for z in range(cell * step_z, last):
            np.bitwise_and(volume.hu[z], bits, out=hu[z])
            np.bitwise_or(hu[z], air, out=hu[z])
    return CTVolume(hu=hu, patient_from_voxel=volume.patient_from_voxel, source=volume.source)


def add_margin(box: Box, volume: CTVolume) -> Box:
    """Widen a box by a finger's breadth, but not beyond the grid of the CT."""
    corners = volume.corners_mm
    low = np.maximum(np.array(box.low_mm) - SKIN_MARGIN_MM, corners.min(axis=0))
    high = np.minimum(np.array(box.high_mm) + SKIN_MARGIN_MM, corners.max(axis=0))
    return _make_box(low, high)


def _fill(
    dense: Bool[np.ndarray, "cz cy cx"], cranial: int, *, narrow: int
) -> Bool[np.ndarray, "cz cy cx"]:
    """Fill lungs and bowels: air that no way, in its axial slice, connects with the outside.

    Ways up to twice ``narrow`` cells wide do not count.
    """
    plane = ndimage.generate_binary_structure(3, 1)
    for end in (0, 2):
        plane[(slice(None),) * cranial + (end,)] = False
    # A rim of air around the grid: a patient who nearly touches its edge has air there too.
    rim = [(0, 0) if axis == cranial else (narrow, narrow) for axis in (0, 1, 2)]
    air = np.pad(~dense, rim, constant_values=True)
    wide = ndimage.binary_erosion(air, plane, narrow, border_value=1) if narrow else air
    labels, count = ndimage.label(wide, plane)
    touches = np.zeros(count + 1, dtype=bool)
    for axis in {0, 1, 2} - {cranial}:
        for end in (0, -1):
            touches[labels.take(end, axis)] = True
    touches[0] = False
    outside = touches[labels]
    if narrow:
        outside = ndimage.binary_dilation(outside, plane, narrow) & air
    inner = tuple(slice(low, n - low) for (low, _), n in zip(rim, air.shape, strict=True))
    return ~outside[inner]


def _fill_between(pieces: Bool[np.ndarray, "cz cy cx"], axis: int) -> Bool[np.ndarray, "cz cy cx"]:
    """Fill what has the patient both before and behind it."""
    before = np.logical_or.accumulate(pieces, axis)
    behind = np.flip(np.logical_or.accumulate(np.flip(pieces, axis), axis), axis)
    return before & behind


def _keep_patient(
    solid: Bool[np.ndarray, "cz cy cx"],
    dense: Bool[np.ndarray, "cz cy cx"],
    cell_ml: float,
    posterior: tuple[int, int],
) -> Bool[np.ndarray, "cz cy cx"]:
    """Keep the largest thick piece and arms beside it, cutting thin bridges first.

    A closed table is a piece too, but its middle is foam, or lies behind the patient's back.
    """
    core = ndimage.binary_erosion(solid, border_value=1)
    if not core.any():
        core = solid
    labels, count = ndimage.label(core)
    if count == 0:
        return solid
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    trunk = int(sizes.argmax())
    axis, sign = posterior
    back = (sign * np.nonzero(labels == trunk)[axis]).max()
    kept = np.zeros(count + 1, dtype=bool)
    kept[trunk] = True
    for label in np.nonzero(sizes * cell_ml >= MIN_LIMB_ML)[0]:
        piece = labels == label
        beside = (sign * np.nonzero(piece)[axis]).mean() <= back
        kept[label] |= beside and dense[piece].mean() >= LIMB_DENSE_SHARE
    return ndimage.binary_dilation(kept[labels]) & solid


def _enlarge(
    cells: Bool[np.ndarray, "a b"], step: int, count: int, axis: int
) -> Bool[np.ndarray, "c d"]:
    """Repeat cells to voxels; the last one takes in what is left over of the grid."""
    fine = np.repeat(cells, step, axis)
    rest = count - fine.shape[axis]
    if rest > 0:
        edge = fine.take([-1] * rest, axis)
        fine = np.concatenate([fine, edge], axis)
    return fine[:count] if axis == 0 else fine[:, :count]


def _find_extent(
    volume: CTVolume, body: Bool[np.ndarray, "cz cy cx"], steps: tuple[int, int, int]
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
