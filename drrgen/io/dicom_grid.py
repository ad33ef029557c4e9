"""The grid of a DICOM series: where each slice goes, and the one matrix from voxel to patient.

Spacing comes from the positions, never from SliceThickness or SpacingBetweenSlices. A CTVolume
has right angles and even steps; slices that have not are moved onto such a grid, from their true
positions and with air around them, and the row says so. What cannot be moved honestly is refused.

Source: DICOM PS3.3 C.7.6.2.1.1 (image position and orientation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int16

from drrgen.errors import Reason, VolumeError
from drrgen.io.dicom_header import SliceHeader
from drrgen.io.dicom_series import SAME_PLACE_MM
from drrgen.volume import Hu, Matrix4

PADDING_HU = -1024  # outside the field of view there is air
EVEN_SHARE, EVEN_MM = 0.01, 0.01  # of the spacing, and what makers round positions to
MULTIPLE_TOL = 0.05  # of the spacing: a gap that is a whole number of slices
MAX_MISSING = 2  # slices in one gap
MAX_UNEVEN_MM = 5.0
ISOLATED = 0.05  # share of the gaps: fewer are slices lost, more are a changing spacing
SHIFT_TOL_PX = 0.25
TILT_TOL_DEG = 0.1
MAX_TILT_DEG = 45.0
ORIENTATION_TOL = 1e-3
MAX_GROWTH = 4  # times the voxels that were read

SLICES_INTERPOLATED = "slices_interpolated"
SPACING_RESAMPLED = "spacing_resampled"
TILT_REGRIDDED = "tilt_regridded"
SLICES_SHIFTED = "slices_shifted"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """Where the slices of a series go.

    Attributes:
        order: Slices along the normal, as indices into what was given.
        along_mm: Where they lie along the normal, from the first one [mm].
        shift_px: How far each is moved in its plane, (x, y), never negative [pixels].
        shape_yx: Size of a plane after moving.
        planes: Number of planes of the volume.
        step_mm: Distance between them [mm].
        patient_from_voxel: Voxel to patient, LPS [mm].
        tilt_deg: Angle between the stack and the normal of its slices, where it was straightened.
        warnings: What was repaired.
    """

    order: tuple[int, ...]
    along_mm: Float64[np.ndarray, "n"]
    shift_px: Float64[np.ndarray, "n 2"]
    shape_yx: tuple[int, int]
    planes: int
    step_mm: float
    patient_from_voxel: Matrix4
    tilt_deg: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_even(self) -> bool:
        """Whether every slice is a plane of the volume, and every plane a slice."""
        return self.planes == len(self.order) and SPACING_RESAMPLED not in self.warnings


def find_positions(
    slices: Sequence[SliceHeader], path: Path
) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, "2 3"]]:
    """Find where slices lie, and the directions of their rows and columns.

    Args:
        slices: The slices.
        path: Names them in an error.

    Raises:
        VolumeError: ``no_position``, ``no_orientation`` or ``mixed_orientation``.
    """
    if any(each.position is None for each in slices):
        raise refuse(Reason.NO_POSITION, path, "found a slice without ImagePositionPatient, "
                     "wanted 3 numbers in every slice")  # fmt: skip
    if any(each.orientation is None for each in slices):
        raise refuse(Reason.NO_ORIENTATION, path, "found a slice without "
                     "ImageOrientationPatient, wanted 6 numbers in every slice")  # fmt: skip
    all_axes = np.array([each.orientation for each in slices], dtype=float)
    axes: Float64[np.ndarray, "2 3"] = all_axes[0].reshape(2, 3)
    if np.abs(all_axes - all_axes[0]).max() > ORIENTATION_TOL:
        raise refuse(Reason.MIXED_ORIENTATION, path,
                     "found slices of several orientations, wanted one")  # fmt: skip
    if np.abs(axes @ axes.T - np.eye(2)).max() > ORIENTATION_TOL:
        raise refuse(Reason.NO_ORIENTATION, path, "found an orientation whose axes are not at "
                     "right angles or not of length one")  # fmt: skip
    # Stored with few digits: make the right angle exact.
    row = axes[0] / np.linalg.norm(axes[0])
    column = axes[1] - row * (row @ axes[1])
    positions = np.array([each.position for each in slices], dtype=float)
    return positions, np.stack([row, column / np.linalg.norm(column)])


def find_grid(
    slices: Sequence[SliceHeader],
    positions: Float64[np.ndarray, "n 3"],
    axes: Float64[np.ndarray, "2 3"],
    path: Path,
) -> Grid:
    """Find the grid of slices that all lie at different places.

    Args:
        slices: The slices.
        positions: Where they lie, LPS [mm].
        axes: Directions of rows and columns.
        path: Names them in an error.

    Raises:
        VolumeError: ``slice_gap``, ``tilt_refused`` or ``metadata_missing``.
    """
    first = slices[0]
    if first.spacing is None or min(first.spacing) <= 0:
        raise refuse(Reason.METADATA_MISSING, path,
                     "found a slice without PixelSpacing, wanted 2 positive numbers")  # fmt: skip
    normal = np.cross(axes[0], axes[1])
    order = np.argsort(positions @ normal, kind="stable")
    sorted_mm = positions[order]
    along = (sorted_mm - sorted_mm[0]) @ normal
    planes, step, words = _find_steps(along, path)
    row_mm, column_mm = first.spacing  # the distance between rows comes first
    offsets = (sorted_mm - sorted_mm[0]) @ axes.T / np.array([column_mm, row_mm])
    tilt = _find_tilt(sorted_mm, normal)
    start, shape = sorted_mm[0], (first.rows, first.columns)
    if np.abs(offsets).max() <= SHIFT_TOL_PX:
        offsets, tilt = np.zeros_like(offsets), 0.0
    else:
        offsets, low, shape = _find_shift(offsets, shape, tilt, path)
        start = start + axes[0] * column_mm * low[0] + axes[1] * row_mm * low[1]
        words += (TILT_REGRIDDED if tilt > TILT_TOL_DEG else SLICES_SHIFTED,)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = axes[0] * column_mm, axes[1] * row_mm
    matrix[:3, 2], matrix[:3, 3] = normal * step, start
    return Grid(
        order=tuple(int(i) for i in order), along_mm=along, shift_px=offsets, shape_yx=shape,
        planes=planes, step_mm=step, patient_from_voxel=matrix,
        tilt_deg=round(tilt, 3) if tilt > TILT_TOL_DEG else None, warnings=words,
    )  # fmt: skip


def shift_plane(
    plane: Int16[np.ndarray, "y x"],
    shift_px: Float64[np.ndarray, "2"],
    out: Int16[np.ndarray, "v u"],
) -> None:
    """Move a plane in itself, bilinearly; what it does not cover becomes air.

    Args:
        plane: Values [HU].
        shift_px: How far, (x, y), not negative [pixels].
        out: Where it goes; it is filled.
    """
    moved = plane.astype(np.float32)
    corner = []
    for axis, amount in ((1, shift_px[0]), (0, shift_px[1])):
        whole, part = math.floor(amount + 1e-6), float(amount - math.floor(amount + 1e-6))
        if part > 1e-4:  # each pixel of the new grid lies between two of the old one
            n = moved.shape[axis]
            low, high = moved.take(range(n - 1), axis), moved.take(range(1, n), axis)
            moved, whole = low * np.float32(part) + high * np.float32(1 - part), whole + 1
        corner.append(whole)
    x, y = corner
    rows, columns = moved.shape
    out.fill(PADDING_HU)
    out[y : y + rows, x : x + columns] = np.rint(moved)


def find_planes(grid: Grid) -> tuple[int, ...]:
    """Find the plane each slice goes to, before any are made between them.

    Args:
        grid: The grid; where it is resampled the slices stay one after the other.
    """
    if SPACING_RESAMPLED in grid.warnings:
        return tuple(range(len(grid.order)))
    return tuple(int(k) for k in np.rint(grid.along_mm / grid.step_mm))


def fill_planes(hu: Int16[np.ndarray, "n v u"], grid: Grid) -> Hu:
    """Make the planes that no slice has, from the slices on both sides of them.

    Args:
        hu: Slices where ``find_planes`` puts them.
        grid: Their grid.

    Returns:
        The volume: the same array, or a new one where the spacing changes.
    """
    filled = find_planes(grid)
    resampled = SPACING_RESAMPLED in grid.warnings
    out = np.empty((grid.planes, *hu.shape[1:]), np.int16) if resampled else hu
    kept = () if resampled else frozenset(filled)
    for k in range(grid.planes):
        if k in kept:
            continue
        place = k * grid.step_mm
        above = int(np.clip(np.searchsorted(grid.along_mm, place), 1, len(filled) - 1))
        low, high = grid.along_mm[above - 1], grid.along_mm[above]
        share = np.float32(np.clip((place - low) / (high - low), 0, 1))
        one, two = hu[filled[above - 1]], hu[filled[above]]
        out[k] = np.rint(one * (1 - share) + two * share)
    return out


def refuse(reason: Reason, path: Path, detail: str, remedy: str = "") -> VolumeError:
    """Make the error of a series that cannot be trusted."""
    return VolumeError(
        reason, path, detail, remedy=remedy or "export the original axial series again"
    )


def _find_steps(along: Float64[np.ndarray, "n"], path: Path) -> tuple[int, float, tuple[str, ...]]:
    """Find the number of planes and their distance, and whether any must be made."""
    n, gaps = len(along), np.diff(along)
    if _is_even(along, np.arange(n)):
        return n, float(along[-1] / (n - 1)), ()
    step = float(np.median(gaps))
    counts = np.rint(gaps / step)
    whole = bool((np.abs(gaps - counts * step) <= max(MULTIPLE_TOL * step, EVEN_MM)).all())
    places = np.concatenate([[0], np.cumsum(counts)])
    if whole and counts.max() <= MAX_MISSING + 1 and _is_even(along, places):
        planes = int(places[-1]) + 1
        return planes, float(along[-1] / (planes - 1)), (SLICES_INTERPOLATED,)
    lost = whole and 0 < (counts > MAX_MISSING + 1).mean() < ISOLATED
    planes = round(along[-1] / step) + 1
    if gaps.max() <= MAX_UNEVEN_MM and not lost and planes <= MAX_GROWTH * n:
        return planes, float(along[-1] / (planes - 1)), (SPACING_RESAMPLED,)
    raise refuse(
        Reason.SLICE_GAP, path,
        f"found slices {gaps.max():.3f} mm apart where most are {step:.3f} mm apart, wanted an "
        f"even spacing, gaps of at most {MAX_MISSING} slices, or a changing spacing of at most "
        f"{MAX_UNEVEN_MM:g} mm",
        "copy or export the series again: slices are missing",
    )  # fmt: skip


def _is_even(along: Float64[np.ndarray, "n"], places: np.ndarray) -> bool:
    """Say whether slices lie where places of an even step would be, errors that add up included."""
    step = along[-1] / max(places[-1], 1)
    error = float(np.abs(along - step * places).max())
    return bool((np.diff(places) >= 1).all() and error <= max(EVEN_SHARE * step, EVEN_MM))


def _find_tilt(positions: Float64[np.ndarray, "n 3"], normal: Float64[np.ndarray, "3"]) -> float:
    """Find the angle between the stack and the normal of its slices [degrees]."""
    stack = positions[-1] - positions[0]
    across = float(np.linalg.norm(np.cross(stack, normal)))
    return math.degrees(math.atan2(across, float(stack @ normal)))


def _find_shift(
    offsets: Float64[np.ndarray, "n 2"], shape_yx: tuple[int, int], tilt: float, path: Path
) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "2"], tuple[int, int]]:
    """Find a plane that holds all slices; return shifts in it, its corner, and its size."""
    low = np.floor(offsets.min(axis=0) + 1e-6)
    grown = np.ceil(offsets.max(axis=0) - low - 1e-6).astype(int)
    rows, columns = shape_yx[0] + int(grown[1]), shape_yx[1] + int(grown[0])
    if tilt > MAX_TILT_DEG or rows * columns > MAX_GROWTH * shape_yx[0] * shape_yx[1]:
        raise refuse(Reason.TILT_REFUSED, path, f"found a stack that leans by {tilt:.1f} degrees, "
                     f"wanted at most {MAX_TILT_DEG:g}")  # fmt: skip
    return np.maximum(offsets - low, 0.0), low, (rows, columns)


def find_repeats(along: Float64[np.ndarray, "n"]) -> list[list[int]]:
    """Find slices at one place.

    Args:
        along: Where slices lie along their normal [mm].

    Returns:
        Indices of the slices of every place that has more than one.
    """
    order = np.argsort(along, kind="stable")
    ends = np.nonzero(np.diff(along[order]) >= SAME_PLACE_MM)[0] + 1
    return [[int(i) for i in part] for part in np.split(order, ends) if len(part) > 1]
