"""Bodies whose line integrals are known by formula, and a chest to try things on.

A phantom is made on a grid, and its exact line integrals come from a formula that knows no grid:
the renderer is held against them.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose
from drrgen.geometry.rays import find_pixel_centers
from drrgen.volume import AIR_HU, CTVolume, Hu, Matrix4

Xyz = tuple[float, float, float]


def make_grid(
    shape_zyx: tuple[int, int, int],
    spacing_mm: float | Xyz,
    *,
    center_mm: Xyz = (0.0, 0.0, 0.0),
    directions: Float64[np.ndarray, "3 3"] | None = None,
) -> Matrix4:
    """Make the ``patient_from_voxel`` of a grid around a centre.

    Args:
        shape_zyx: Size of the array.
        spacing_mm: Voxel spacing, one number or (x, y, z) [mm].
        center_mm: Middle of the grid, patient LPS [mm].
        directions: Unit vectors of the index axes x, y, z as columns; None for LPS.
    """
    axes = np.eye(3) if directions is None else directions
    matrix = np.eye(4)
    matrix[:3, :3] = axes * np.broadcast_to(np.asarray(spacing_mm, dtype=float), 3)
    middle = (np.array(shape_zyx[::-1]) - 1) / 2
    matrix[:3, 3] = np.asarray(center_mm) - matrix[:3, :3] @ middle
    return matrix


def make_box(size_mm: Xyz, spacing_mm: float, *, hu: int) -> CTVolume:
    """Make a box that fills its grid, centred at the origin.

    Args:
        size_mm: Extent along x, y, z [mm].
        spacing_mm: Voxel spacing [mm].
        hu: What it is made of [HU].
    """
    x, y, z = (max(1, round(side / spacing_mm)) for side in size_mm)
    return CTVolume(
        hu=np.full((z, y, x), hu, dtype=np.int16),
        patient_from_voxel=make_grid((z, y, x), spacing_mm),
    )


def find_voxel_centers(
    shape_zyx: tuple[int, int, int], patient_from_voxel: Matrix4
) -> Float64[np.ndarray, "z y x 3"]:
    """Find where every voxel centre of a grid lies, patient LPS [mm]."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in shape_zyx), indexing="ij")
    index = np.stack([x, y, z], axis=-1)
    return index @ patient_from_voxel[:3, :3].T + patient_from_voxel[:3, 3]


def draw_ellipsoid(
    hu: Hu, patient_from_voxel: Matrix4, *, center_mm: Xyz, radii_mm: Xyz, inside_hu: float
) -> None:
    """Draw an ellipsoid along the patient's axes into an array, with a soft one-voxel rim.

    Args:
        hu: Array that is changed [HU].
        patient_from_voxel: Its grid.
        center_mm: Middle, patient LPS [mm].
        radii_mm: Half axes along x, y, z [mm].
        inside_hu: What it is made of [HU].
    """
    offset = find_voxel_centers(hu.shape, patient_from_voxel) - np.asarray(center_mm)
    radii = np.asarray(radii_mm, dtype=float)
    scaled = np.linalg.norm(offset / radii, axis=-1)
    gradient = np.linalg.norm(offset / radii**2, axis=-1) / np.maximum(scaled, 1e-9)
    depth_mm = (1 - scaled) / np.maximum(gradient, 1e-9)
    voxel_mm = np.linalg.norm(patient_from_voxel[:3, :3], axis=0).mean()
    share = np.clip(depth_mm / voxel_mm + 0.5, 0, 1)
    hu[:] = np.rint(hu + share * (inside_hu - hu))


def make_ellipsoid(
    patient_from_voxel: Matrix4,
    shape_zyx: tuple[int, int, int],
    *,
    center_mm: Xyz = (0.0, 0.0, 0.0),
    radii_mm: Xyz,
    hu: float = 0.0,
) -> CTVolume:
    """Make an ellipsoid in air.

    Args:
        patient_from_voxel: The grid.
        shape_zyx: Size of the array.
        center_mm: Middle, patient LPS [mm].
        radii_mm: Half axes along x, y, z [mm].
        hu: What it is made of [HU].
    """
    values = np.full(shape_zyx, AIR_HU, dtype=np.int16)
    draw_ellipsoid(values, patient_from_voxel, center_mm=center_mm, radii_mm=radii_mm, inside_hu=hu)
    return CTVolume(hu=values, patient_from_voxel=patient_from_voxel)


def make_bead(
    patient_from_voxel: Matrix4,
    shape_zyx: tuple[int, int, int],
    *,
    center_mm: Xyz = (0.0, 0.0, 0.0),
    sigma_mm: float = 4.0,
) -> CTVolume:
    """Make a bead in air: a Gaussian of water, so that its middle is exact between voxels too.

    Its HU never leave the straight line from air to water, so the centre of gravity of its
    line integrals is where its middle is seen.

    Args:
        patient_from_voxel: The grid.
        shape_zyx: Size of the array.
        center_mm: Middle, patient LPS [mm].
        sigma_mm: Standard deviation; the bead is faithful from 1.5 voxels upwards [mm].
    """
    offset = find_voxel_centers(shape_zyx, patient_from_voxel) - np.asarray(center_mm)
    share = np.exp(-0.5 * (offset**2).sum(axis=-1) / sigma_mm**2)
    values = np.rint(AIR_HU * (1 - share)).astype(np.int16)
    return CTVolume(hu=values, patient_from_voxel=patient_from_voxel)


def find_ellipsoid_chords(
    detector: Detector, pose: Pose, *, center_mm: Xyz = (0.0, 0.0, 0.0), radii_mm: Xyz
) -> Float64[Tensor, "v u"]:
    """Find the exact length of every ray inside an ellipsoid along the patient's axes [mm].

    Args:
        detector: The panel.
        pose: Where it stands.
        center_mm: Middle, patient LPS [mm].
        radii_mm: Half axes along x, y, z [mm].

    Source:
        A ray meets the unit sphere, after scaling by the half axes, in the roots of a quadratic.
    """
    radii = torch.tensor(radii_mm, dtype=torch.float64)
    centers = find_pixel_centers(detector, pose)
    ray = (centers - pose.source_mm) / radii
    start = (pose.source_mm - torch.tensor(center_mm, dtype=torch.float64)) / radii
    a = (ray**2).sum(-1)
    b = (ray * start).sum(-1)
    c = (start**2).sum(-1) - 1
    root = torch.sqrt(torch.clamp(b**2 - a * c, min=0))
    first, last = (((-b + sign * root) / a).clamp(0, 1) for sign in (-1, 1))
    return (last - first) * torch.linalg.norm(centers - pose.source_mm, dim=-1)


# Parts of the torso: centre and half axes [mm], HU. Later parts are drawn over earlier ones.
_TORSO: Sequence[tuple[Xyz, Xyz, float]] = (
    ((0, 0, 0), (170, 110, 400), 40),  # trunk
    ((75, 5, 15), (62, 82, 125), -850),  # left lung
    ((-75, 5, 15), (62, 82, 125), -850),  # right lung
    ((30, -30, -35), (55, 45, 60), 45),  # heart, to the left and to the front
    ((-60, 0, -120), (95, 85, 65), 60),  # liver, on the right
    ((0, 75, 0), (20, 22, 400), 450),  # spine
    ((35, -80, 60), (8, 8, 8), 900),  # a marker: left, front, up
)


def make_torso(
    *,
    spacing_mm: float = 4.0,
    height_mm: float = 240.0,
    directions: Float64[np.ndarray, "3 3"] | None = None,
) -> CTVolume:
    """Make a chest-like phantom: trunk, lungs, heart to the left, liver to the right, spine behind.

    Args:
        spacing_mm: Voxel spacing [mm].
        height_mm: Extent from bottom to top [mm].
        directions: Unit vectors of the index axes x, y, z as columns; None for LPS. The phantom
            stays where it is in the patient; only its storage changes.
    """
    axes = np.eye(3) if directions is None else directions
    extent = np.abs(axes.T) @ np.array([400.0, 280.0, height_mm])
    x, y, z = (max(1, round(float(side) / spacing_mm)) for side in extent)
    grid = make_grid((z, y, x), spacing_mm, directions=axes)
    hu = np.full((z, y, x), AIR_HU, dtype=np.int16)
    for center, radii, value in _TORSO:
        draw_ellipsoid(hu, grid, center_mm=center, radii_mm=radii, inside_hu=value)
    return CTVolume(hu=hu, patient_from_voxel=grid)
