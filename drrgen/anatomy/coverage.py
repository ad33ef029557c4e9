"""How much of the chest a CT shows: its height, the ends of the lungs, the skin beside its field.

Every format passes here: a CT too short for a radiograph is refused, one that cuts a lung or the
skin says so in its row.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int16

from drrgen.anatomy.body import BODY_HU, Body
from drrgen.errors import Reason, VolumeError
from drrgen.volume import CTVolume

MIN_HEIGHT_MM = 150.0  # less shows no chest
THICK_MM = 3.0  # more shows as stairs in a lateral view
THICK_SLICES = "thick_slices"
LUNG_HU = (-950, -500)  # denser than gas in the bowel, less dense than anything else
LUNG_CM2 = 10.0  # in one slice: the windpipe has less
_CORNER_SPREAD_HU = 20.0  # outside a round field all is one value, but for rounding
_RIM_PX = 1.5
_ANGLES = 360
_STEP_LENGTH = np.pi / 4  # of a round outline, to that of the steps drawn around it


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What of the chest lies inside a CT.

    Attributes:
        top: The lung apices.
        bottom: The costophrenic angles.
        fov_truncated_fraction: Share of the skin cut by the field of view.
    """

    top: bool
    bottom: bool
    fov_truncated_fraction: float


def check_height(volume: CTVolume) -> None:
    """Refuse a CT that is too short to show a chest.

    Args:
        volume: The CT.

    Raises:
        VolumeError: ``coverage_short``.
    """
    axis, _ = volume.find_axis(2)
    height = volume.hu.shape[axis] * volume.spacing_zyx_mm[axis]
    if height < MIN_HEIGHT_MM - 1e-3:
        raise VolumeError(
            Reason.COVERAGE_SHORT,
            "",
            f"the CT is {height:.0f} mm high, wanted at least {MIN_HEIGHT_MM:.0f} mm",
            remedy="choose a series that covers the chest",
        )


def find_remarks(volume: CTVolume) -> tuple[str, ...]:
    """Name what coarsens every picture of a CT: slices thicker, or further apart, than 3 mm."""
    axis, _ = volume.find_axis(2)
    nominal = volume.source.slice_thickness_mm if volume.source else None
    thickest = max(volume.spacing_zyx_mm[axis], nominal or 0.0)
    return (THICK_SLICES,) if thickest > THICK_MM + 1e-3 else ()


def measure_coverage(volume: CTVolume, body: Body) -> Coverage:
    """Measure what of the chest lies inside a CT.

    A lung that reaches the first or last slice is cut there; so are lungs that are nowhere. Skin is
    cut where the body touches the edge of the field: a circle, if all outside it is one value.

    Args:
        volume: The CT, its table left out or not.
        body: The patient in it.
    """
    axis, sign = volume.find_axis(2)
    steps = [body.steps[axis], *(n for i, n in enumerate(body.steps) if i != axis)]
    hu = np.moveaxis(volume.hu, axis, 0)[tuple(slice(step // 2, None, step) for step in steps)]
    cells = np.moveaxis(body.cells, axis, 0)
    all_mm = volume.spacing_zyx_mm
    spacing = np.array([all_mm[axis], *(mm for i, mm in enumerate(all_mm) if i != axis)])
    pitch = spacing * steps
    low, high = LUNG_HU
    lung = cells & (hu > low) & (hu < high)
    area = lung.sum(axis=(1, 2)) * pitch[1] * pitch[2] / 100
    has_lung = bool((area > LUNG_CM2).any())
    ends = area[[-1, 0]] if sign > 0 else area[[0, -1]]
    top, bottom = (bool(has_lung and end <= LUNG_CM2) for end in ends)
    planes = np.moveaxis(volume.hu, axis, 0)[steps[0] // 2 :: steps[0]]
    return Coverage(
        top=top,
        bottom=bottom,
        fov_truncated_fraction=_find_cut(planes, cells, spacing[1:], pitch[1:]),
    )


def _find_cut(
    planes: Int16[np.ndarray, "cz y x"],
    cells: Bool[np.ndarray, "cz cy cx"],
    spacing: np.ndarray,
    pitch: np.ndarray,
) -> float:
    """Find the share of the body's outline that lies on the edge of the field."""
    rows, columns, lengths = _trace_edge(planes, spacing)
    step = np.rint(pitch / spacing).astype(int)
    inside = cells[
        :,
        np.minimum(rows // step[0], cells.shape[1] - 1),
        np.minimum(columns // step[1], cells.shape[2] - 1),
    ]
    # The cells of the body may end one short of the edge.
    cut = (planes[:, rows, columns] > BODY_HU) & inside
    cut_mm = float((cut * lengths).sum())
    padded = np.pad(cells, ((0, 0), (1, 1), (1, 1)))
    along_y = np.count_nonzero(np.diff(padded, axis=2)) * pitch[0]
    along_x = np.count_nonzero(np.diff(padded, axis=1)) * pitch[1]
    skin_mm = (along_x + along_y) * _STEP_LENGTH
    return round(float(min(cut_mm / skin_mm, 1.0)), 4) if skin_mm else 0.0


def _trace_edge(
    planes: Int16[np.ndarray, "cz y x"], spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trace the edge of the field: rows and columns of points, and the length of each [mm]."""
    n_y, n_x = planes.shape[1:]
    y, x = np.arange(n_y) - (n_y - 1) / 2, np.arange(n_x) - (n_x - 1) / 2
    radius = min(n_y * spacing[0], n_x * spacing[1]) / 2
    distance = np.hypot(y[:, None] * spacing[0], x[None] * spacing[1])
    outside = planes[:: max(1, len(planes) // 8)][:, distance > radius + spacing.max()]
    if outside.size and float(outside.std()) < _CORNER_SPREAD_HU and outside.max() < BODY_HU:
        angle = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
        reach = radius - _RIM_PX * spacing.max()
        rows = np.rint(np.sin(angle) * reach / spacing[0] + (n_y - 1) / 2).astype(int)
        columns = np.rint(np.cos(angle) * reach / spacing[1] + (n_x - 1) / 2).astype(int)
        return rows, columns, np.full(_ANGLES, 2 * np.pi * reach / _ANGLES)
    all_y, all_x = np.arange(n_y), np.arange(n_x)
    rows = np.concatenate([all_y, all_y, np.zeros(n_x, int), np.full(n_x, n_y - 1)])
    columns = np.concatenate([np.zeros(n_y, int), np.full(n_y, n_x - 1), all_x, all_x])
    return rows, columns, np.repeat(spacing[[0, 0, 1, 1]], [n_y, n_y, n_x, n_x])
