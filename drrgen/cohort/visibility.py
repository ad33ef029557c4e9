"""How well a finding can be seen in a radiograph: the line integral with it and without it.

Both come from the project's own renderer, from the part of the CT that the finding changed: along
every ray the rest is the same and drops out.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from drrgen.choices import Engine, View
from drrgen.cohort.canvas import Values
from drrgen.cohort.grid import Grid, Zyx
from drrgen.geometry.detector import Detector, cut_detector
from drrgen.geometry.pose import Pose, make_pose
from drrgen.geometry.rays import project_points
from drrgen.renderer.render import render
from drrgen.volume import CTVolume

VIEWS = (View.PA, View.LL)
SID_MM, SOD_MM = 1800.0, 1600.0
PIXEL_MM = 3.0  # at the detector: a nodule of 5 mm still covers several
PANEL_MM = 480.0
_EDGE = 0.5  # of the largest difference: what belongs to the shadow


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shadow:
    """What a finding does to a radiograph.

    Attributes:
        contrast: Mean difference of the line integral within its shadow [dimensionless].
        contrast_to_noise: That, against the standard deviation of the anatomy around it.
        center_uv: Centre of gravity of the difference [pixels].
    """

    contrast: float
    contrast_to_noise: float
    center_uv: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Room:
    """Where radiographs of a scan are taken, and what they show with every finding in place.

    Attributes:
        panel: The detector.
        poses: One a view.
        whole: Line integrals of the whole CT, one a view.
    """

    panel: Detector
    poses: tuple[Pose, ...]
    whole: Float[Tensor, "b v u"]


def make_room(hu: Values, grid: Grid) -> Room:
    """Take the radiographs of a scan.

    Args:
        hu: The CT with all findings [HU].
        grid: Its grid.
    """
    z, y, x = grid.center_mm
    poses = tuple(make_pose(view, isocenter_mm=(x, y, z), sod_mm=SOD_MM) for view in VIEWS)
    side = round(PANEL_MM / PIXEL_MM)
    panel = Detector(sid_mm=SID_MM, pitch_mm=PIXEL_MM, rows=side, columns=side)
    return Room(panel=panel, poses=poses, whole=_integrate(hu, grid, panel, poses))


def find_shadows(room: Room, grid: Grid, before: Values, after: Values) -> list[Shadow]:
    """Measure the shadow of a finding in every view.

    Args:
        room: Where the radiographs are taken.
        grid: Grid of the part that the finding changed.
        before: The part without it [HU].
        after: The part with it [HU].
    """
    shadows = []
    for pose, whole in zip(room.poses, room.whole, strict=True):
        rows, columns = _find_window(room.panel, pose, grid)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            shadows.append(Shadow(contrast=0.0, contrast_to_noise=0.0, center_uv=(0.0, 0.0)))
            continue
        window = cut_detector(room.panel, rows, columns)
        with_, without = (
            _integrate(hu, grid, window, (pose,))[0].double() for hu in (after, before)
        )
        difference = (with_ - without).numpy()
        behind = whole[rows, columns].double().numpy() - difference
        shadows.append(_measure(difference, behind, (columns.start, rows.start)))
    return shadows


def project_center(room: Room, view: View, point_mm: Zyx) -> tuple[float, float]:
    """Find the pixel (u, v) that a point of the patient falls on.

    Args:
        room: Where the radiographs are taken.
        view: The named view.
        point_mm: Patient LPS (z, y, x) [mm].
    """
    point = torch.tensor([point_mm[::-1]], dtype=torch.float64)
    u, v = project_points(point, room.panel, room.poses[VIEWS.index(view)])[0].tolist()
    return u, v


def _integrate(
    hu: Values, grid: Grid, panel: Detector, poses: tuple[Pose, ...]
) -> Float[Tensor, "b v u"]:
    """Integrate along all rays."""
    rounded = np.ascontiguousarray(np.rint(hu).astype(np.int16))
    volume = CTVolume(hu=rounded, patient_from_voxel=grid.matrix)
    return render(volume, panel, list(poses), engine=Engine.NUMBA, device="cpu")[:, 0]


def _find_window(panel: Detector, pose: Pose, grid: Grid) -> tuple[slice, slice]:
    """Find the rows and columns that a part of the CT falls on, with some anatomy around it."""
    nothing = np.zeros(grid.shape, dtype=np.int16)
    corners = CTVolume(hu=nothing, patient_from_voxel=grid.matrix).corners_mm
    u, v = project_points(torch.from_numpy(corners), panel, pose).unbind(-1)
    margin = 4
    left, top = (max(0, int(each.min()) - margin) for each in (u, v))
    right = min(panel.columns, int(u.max()) + margin + 1)
    bottom = min(panel.rows, int(v.max()) + margin + 1)
    return slice(top, bottom), slice(left, right)


def _measure(difference: np.ndarray, behind: np.ndarray, first: tuple[int, int]) -> Shadow:
    """Measure contrast, noise of the anatomy, and centre."""
    size = np.abs(difference)
    if size.max() < 1e-6:
        return Shadow(contrast=0.0, contrast_to_noise=0.0, center_uv=(0.0, 0.0))
    shadow = size >= _EDGE * size.max()
    contrast = float(difference[shadow].mean())
    # What is smooth over the whole window (the slope of the chest wall) hides nothing.
    radius = max(2.0, float(np.sqrt(shadow.sum() / np.pi)))
    detail = behind - ndimage.gaussian_filter(behind, 2 * radius, mode="nearest")
    noise = max(float(detail.std()), 1e-3)
    rows, columns = np.indices(size.shape)
    u = float((columns * size).sum() / size.sum()) + first[0] + 0.5
    v = float((rows * size).sum() / size.sum()) + first[1] + 0.5
    return Shadow(contrast=contrast, contrast_to_noise=abs(contrast) / noise, center_uv=(u, v))
