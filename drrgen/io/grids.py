"""Where a file says that its grid lies: believed, straightened a little, or refused."""

from pathlib import Path

import numpy as np

from drrgen.errors import Reason, VolumeError
from drrgen.volume import ORTHOGONALITY_TOL, Matrix4

STRAIGHTENED = "axes_straightened"
BLANK_GRID = "grid_blank"
MAX_SHEAR_DEG = 0.5
SPACING_RANGE_MM = (0.01, 100.0)
MAX_ORIGIN_MM = 1e5  # a hundred metres: no table goes there
MIN_SLICES = 3

_CONVERT = "convert it again to one 3-D CT with its orientation"


def settle_grid(
    matrix: Matrix4, shape_xyz: tuple[int, int, int], path: Path
) -> tuple[Matrix4, tuple[str, ...]]:
    """Check a grid, and make its axes right angles where they nearly are.

    A shear below half a degree comes from rounding; the nearest right angles (polar
    decomposition) take its place, the middle of the grid staying where it is.

    Args:
        matrix: Voxel index ``(x, y, z, 1)`` to patient LPS, as the file tells it [mm].
        shape_xyz: Size of the array.
        path: The file, for the error.

    Returns:
        The matrix, and ``axes_straightened``, or ``grid_blank`` for the unit matrix, which
        programs write when they know nothing.

    Raises:
        VolumeError: ``no_orientation``, not finite or singular; ``spacing_conflict``, a spacing
            that no CT has; ``tilt_refused``, sheared by more than half a degree.
    """
    columns = matrix[:3, :3]
    if not np.isfinite(matrix).all() or np.abs(matrix[:3, 3]).max() > MAX_ORIGIN_MM:
        raise _refuse(Reason.NO_ORIENTATION, path, "found a grid that is nowhere, wanted numbers")
    lengths = np.linalg.norm(columns, axis=0)
    if not (lengths > 0).all():
        raise _refuse(Reason.NO_ORIENTATION, path, "found an axis without length in the grid")
    low, high = SPACING_RANGE_MM
    if not (lengths >= low).all() or not (lengths <= high).all():
        found = ", ".join(f"{mm:.3g}" for mm in lengths)
        raise _refuse(
            Reason.SPACING_CONFLICT, path, f"found a spacing of {found} mm, wanted {low} to {high}"
        )
    units = columns / lengths
    cosine = float(np.abs(units.T @ units - np.eye(3)).max())
    if cosine > np.sin(np.radians(MAX_SHEAR_DEG)):
        if np.linalg.matrix_rank(units, tol=1e-3) < 3:
            raise _refuse(Reason.NO_ORIENTATION, path, "found axes of the grid in one plane")
        shear = np.degrees(np.arcsin(min(1.0, cosine)))
        raise VolumeError(
            Reason.TILT_REFUSED, path,
            f"found axes sheared by {shear:.2f} degrees, wanted right angles",
            remedy="resample it onto a straight grid, or convert the original series with its tilt "
            "corrected",
        )  # fmt: skip
    if cosine > ORTHOGONALITY_TOL / 2:
        return _straighten(matrix, lengths, shape_xyz), (STRAIGHTENED,)
    blank = np.abs(np.abs(matrix) - np.eye(4)).max() < 1e-6
    return matrix, (BLANK_GRID,) if blank else ()


def _straighten(matrix: Matrix4, lengths: np.ndarray, shape_xyz: tuple[int, int, int]) -> Matrix4:
    """Take the nearest right angles, around the middle of the grid."""
    left, _, right = np.linalg.svd(matrix[:3, :3] / lengths)
    straight = np.eye(4)
    straight[:3, :3] = (left @ right) * lengths
    middle = (np.array(shape_xyz) - 1) / 2
    straight[:3, 3] = matrix[:3, 3] + (matrix[:3, :3] - straight[:3, :3]) @ middle
    return straight


def check_slices(count: int, path: Path) -> None:
    """Refuse a stack too thin to be a CT.

    Args:
        count: Slices.
        path: The file, for the error.

    Raises:
        VolumeError: ``too_few_slices``.
    """
    if count < MIN_SLICES:
        raise _refuse(Reason.TOO_FEW_SLICES, path, f"found {count} slices, wanted {MIN_SLICES}")


def _refuse(reason: Reason, path: Path, detail: str) -> VolumeError:
    """Make the error of a grid that cannot be trusted."""
    return VolumeError(reason, path, detail, remedy=_CONVERT)
