"""The plain truth that every other engine is held against: Joseph's method in a page of torch.

Each ray steps along the voxel axis it runs nearest to, one sample a slice, bilinear inside the
slice. A slice counts with the length of ray that lies inside its slab *and* inside the grid *and*
between source and pixel, so entry and exit are exact. Outside the outermost voxel centres, up to
the faces of the grid, the nearest voxel's value holds.

Gradients flow into poses and amounts. On the way back each slice is computed anew instead of being
remembered, so a gradient needs hardly more memory than the picture.

Source:
    Joseph, IEEE Trans Med Imaging 1(3):192-196, 1982.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from drrgen.geometry.detector import Detector
from drrgen.geometry.frames import transform_points
from drrgen.geometry.pose import Pose
from drrgen.geometry.rays import find_pixel_centers
from drrgen.physics.materials import Basis
from drrgen.volume import CTVolume, Matrix4


def render_reference(
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    basis: Basis,
    device: torch.device,
) -> Float[Tensor, "b m v u"]:
    """Integrate every material along every ray, in float64."""
    hu = torch.tensor(volume.hu, device=device)  # a copy: the array may be read-only
    table = torch.from_numpy(basis.tabulate()).to(device, torch.float64)
    matter = _Matter(values=hu[None], table=table)
    wants_gradient = any(pose.patient_from_camera.requires_grad for pose in poses)
    with torch.set_grad_enabled(wants_gradient and torch.is_grad_enabled()):
        images = _render(matter, volume.patient_from_voxel, detector, poses)
    return images.to(torch.float32)


def render_reference_amounts(
    amounts: Float[Tensor, "m z y x"],
    patient_from_voxel: Matrix4,
    detector: Detector,
    poses: Sequence[Pose],
) -> Float[Tensor, "b m v u"]:
    """Integrate a tensor of amounts, in float64, and answer in its precision."""
    matter = _Matter(values=amounts.to(torch.float64))
    return _render(matter, patient_from_voxel, detector, poses).to(amounts.dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Matter:
    """What is integrated: amounts, a layer a material; or a layer of HU, and the table for it."""

    values: Shaped[Tensor, "k z y x"]
    table: Float64[Tensor, "m hu"] | None = None

    @property
    def n_materials(self) -> int:
        """How many materials come out."""
        return len(self.values) if self.table is None else len(self.table)

    def look_up(self, plane: Shaped[Tensor, "k r c"]) -> Float64[Tensor, "m r c"]:
        """Turn a slice of the values into amounts."""
        return plane if self.table is None else self.table[:, plane[0].long() + 32768]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rays:
    """Rays in voxel coordinates (x, y, z), from the source to where each of them ends."""

    source: Float64[Tensor, "3"]
    direction: Float64[Tensor, "n 3"]
    length_mm: Float64[Tensor, "n"]

    def select(self, index: Shaped[Tensor, "k"]) -> "_Rays":
        """Pick some of the rays."""
        return _Rays(
            source=self.source, direction=self.direction[index], length_mm=self.length_mm[index]
        )


def _render(
    matter: _Matter, patient_from_voxel: Matrix4, detector: Detector, poses: Sequence[Pose]
) -> Float64[Tensor, "b m v u"]:
    """Take one picture a pose."""
    voxel_from_patient = torch.from_numpy(np.linalg.inv(patient_from_voxel))
    images = []
    for pose in poses:
        rays = _make_rays(voxel_from_patient.to(matter.values.device), detector, pose)
        images.append(_integrate(matter, rays).reshape(-1, detector.rows, detector.columns))
    return torch.stack(images)


def _make_rays(voxel_from_patient: Float64[Tensor, "4 4"], detector: Detector, pose: Pose) -> _Rays:
    """Carry source and pixels from the patient to the voxel grid."""
    centers = find_pixel_centers(detector, pose).to(voxel_from_patient.device).reshape(-1, 3)
    start = pose.source_mm.to(voxel_from_patient.device)
    source = transform_points(voxel_from_patient, start)
    return _Rays(
        source=source,
        direction=transform_points(voxel_from_patient, centers) - source,
        length_mm=torch.linalg.norm(centers - start, dim=1),
    )


def _integrate(matter: _Matter, rays: _Rays) -> Float64[Tensor, "m n"]:
    """Sort the rays by the axis they run along, and integrate each group slice by slice."""
    steepest = rays.direction.abs().argmax(dim=1)
    sums = rays.direction.new_zeros(matter.n_materials, len(steepest))
    for axis in range(3):
        index = torch.nonzero(steepest == axis)[:, 0]
        if len(index):
            part = _integrate_along(axis, matter, rays.select(index))
            sums = sums.index_copy(1, index, part)
    return sums


def _integrate_along(axis: int, matter: _Matter, rays: _Rays) -> Float64[Tensor, "m n"]:
    """Integrate rays that all step along one voxel axis (0 = x, 1 = y, 2 = z)."""
    row_axis, column_axis = (a for a in (2, 1, 0) if a != axis)
    source, direction = rays.source, rays.direction
    enter, leave = _clip_to_grid(matter, rays)
    half = 0.5 / direction[:, axis].abs()

    def integrate_slice(index: int, plane: Tensor) -> Tensor:
        t = (index - source[axis]) / direction[:, axis]
        inside = (torch.minimum(t + half, leave) - torch.maximum(t - half, enter)).clamp(min=0)
        point = source + t[:, None] * direction
        amounts = matter.look_up(plane)
        return inside * _interpolate(amounts, point[:, row_axis], point[:, column_axis])

    sums = direction.new_zeros(matter.n_materials, len(direction))
    for index, plane in enumerate(matter.values.unbind(3 - axis)):  # the array is (z, y, x)
        sums = sums + _forget(integrate_slice, index, plane)
    return sums * rays.length_mm


def _forget(function: Callable[[int, Tensor], Tensor], index: int, plane: Tensor) -> Tensor:
    """Call a function that is called again on the way back, instead of being remembered."""
    if not torch.is_grad_enabled():
        return function(index, plane)  # checkpoint imports half of torch at its first call
    return checkpoint(function, index, plane, use_reentrant=False, preserve_rng_state=False)


def _clip_to_grid(
    matter: _Matter, rays: _Rays
) -> tuple[Float64[Tensor, "n"], Float64[Tensor, "n"]]:
    """Find where each ray enters and leaves the grid: 0 at the source, 1 at the pixel."""
    n_z, n_y, n_x = matter.values.shape[1:]
    source, direction = rays.source, rays.direction
    high = source.new_tensor([n_x, n_y, n_z]) - 0.5
    still = direction == 0
    safe = torch.where(still, torch.ones_like(direction), direction)
    first, second = (-0.5 - source) / safe, (high - source) / safe
    near, far = torch.minimum(first, second), torch.maximum(first, second)
    # A ray parallel to a pair of faces lies between them for ever, or never.
    between = (source > -0.5) & (source < high)
    forever = torch.where(between, torch.inf, -torch.inf).to(near).expand_as(near)
    near, far = torch.where(still, -forever, near), torch.where(still, forever, far)
    return near.amax(dim=1).clamp(min=0), far.amin(dim=1).clamp(max=1)


def _interpolate(
    plane: Float64[Tensor, "m r c"], row: Float64[Tensor, "n"], column: Float64[Tensor, "n"]
) -> Float64[Tensor, "m n"]:
    """Interpolate bilinearly at (row, column); beyond the outermost centres the edge holds."""
    n_rows, n_columns = plane.shape[1:]
    row, column = row.clamp(0, n_rows - 1), column.clamp(0, n_columns - 1)
    r0 = row.detach().floor().long().clamp(max=max(n_rows - 2, 0))
    c0 = column.detach().floor().long().clamp(max=max(n_columns - 2, 0))
    r1, c1 = (r0 + 1).clamp(max=n_rows - 1), (c0 + 1).clamp(max=n_columns - 1)
    wr, wc = row - r0, column - c0
    upper = plane[:, r0, c0] * (1 - wc) + plane[:, r0, c1] * wc
    lower = plane[:, r1, c0] * (1 - wc) + plane[:, r1, c1] * wc
    return upper * (1 - wr) + lower * wr
