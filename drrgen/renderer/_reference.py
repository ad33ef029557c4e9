"""The plain truth that every other engine is held against: Joseph's method in a page of torch.

Each ray steps along the voxel axis it runs nearest to, one sample a slice, bilinear inside the
slice. A slice counts with the length of ray that lies inside its slab *and* inside the grid *and*
between source and pixel, so entry and exit are exact. Outside the outermost voxel centres, up to
the faces of the grid, the nearest voxel's value holds.

Source:
    Joseph, IEEE Trans Med Imaging 1(3):192-196, 1982.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from drrgen.geometry.detector import Detector
from drrgen.geometry.frames import transform_points
from drrgen.geometry.pose import Pose
from drrgen.geometry.rays import find_pixel_centers
from drrgen.physics.materials import Basis
from drrgen.volume import CTVolume


def render_reference(
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    basis: Basis,
    device: torch.device,
) -> Float[Tensor, "b m v u"]:
    """Integrate every material along every ray, in float64."""
    amounts = torch.from_numpy(basis.tabulate()).to(device, torch.float64)
    hu = torch.tensor(volume.hu, device=device)  # a copy: the array may be read-only
    voxel_from_patient = torch.from_numpy(volume.voxel_from_patient).to(device)
    images = []
    for pose in poses:
        centers = find_pixel_centers(detector, pose).to(device).reshape(-1, 3)
        source = pose.source_mm.to(device)
        image = _integrate(
            hu,
            amounts,
            transform_points(voxel_from_patient, source[None]),
            transform_points(voxel_from_patient, centers),
            torch.linalg.norm(centers - source, dim=1),
        )
        images.append(image.reshape(-1, detector.rows, detector.columns))
    return torch.stack(images).to(torch.float32)


def _integrate(
    hu: Tensor,
    amounts: Float64[Tensor, "m hu"],
    source: Float64[Tensor, "1 3"],
    targets: Float64[Tensor, "n 3"],
    length_mm: Float64[Tensor, "n"],
) -> Float64[Tensor, "m n"]:
    """Sort the rays by the axis they run along, and integrate each group slice by slice."""
    direction = targets - source
    steepest = direction.abs().argmax(dim=1)
    sums = torch.zeros(amounts.shape[0], len(targets), dtype=torch.float64, device=hu.device)
    for axis in range(3):
        rays = torch.nonzero(steepest == axis)[:, 0]
        if len(rays):
            part = _integrate_along(axis, hu, amounts, source, direction[rays], length_mm[rays])
            sums = sums.index_copy(1, rays, part)
    return sums


def _integrate_along(
    axis: int,
    hu: Tensor,
    amounts: Float64[Tensor, "m hu"],
    source: Float64[Tensor, "1 3"],
    direction: Float64[Tensor, "n 3"],
    length_mm: Float64[Tensor, "n"],
) -> Float64[Tensor, "m n"]:
    """Integrate rays that all step along one voxel axis (0 = x, 1 = y, 2 = z)."""
    slices = hu.movedim(2 - axis, 0)  # the array is (z, y, x), the axes are x, y, z
    row_axis, column_axis = (a for a in (2, 1, 0) if a != axis)
    enter, leave = _clip_to_grid(hu, source, direction)
    step = direction[:, axis]
    sums = torch.zeros(amounts.shape[0], len(direction), dtype=torch.float64, device=hu.device)
    for index in range(slices.shape[0]):
        t = (index - source[0, axis]) / step
        half = 0.5 / step.abs()
        inside = (torch.minimum(t + half, leave) - torch.maximum(t - half, enter)).clamp(min=0)
        point = source + t[:, None] * direction
        plane = amounts[:, slices[index].long() + 32768]
        sums = sums + inside * _interpolate(plane, point[:, row_axis], point[:, column_axis])
    return sums * length_mm


def _clip_to_grid(
    hu: Tensor, source: Float64[Tensor, "1 3"], direction: Float64[Tensor, "n 3"]
) -> tuple[Float64[Tensor, "n"], Float64[Tensor, "n"]]:
    """Find where each ray enters and leaves the grid: 0 at the source, 1 at the pixel."""
    n_z, n_y, n_x = hu.shape
    high = torch.tensor([n_x, n_y, n_z], dtype=torch.float64, device=hu.device) - 0.5
    still = direction == 0
    safe = torch.where(still, torch.ones_like(direction), direction)
    first, second = (-0.5 - source) / safe, (high - source) / safe
    near, far = torch.minimum(first, second), torch.maximum(first, second)
    # A ray parallel to a pair of faces lies between them for ever, or never.
    between = (source > -0.5) & (source < high)
    forever = torch.where(between, torch.inf, -torch.inf).expand_as(near)
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
