"""Sum neighbouring slices along the beam once, and look through the thinner volume many times.

For previews, and for many views from nearly the same side: the volume is read once, and every view
after that costs a fraction. Beams are nearly parallel at 1800 mm, so the slices of a slab lie
almost behind one another.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from drrgen.choices import Engine
from drrgen.errors import GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose
from drrgen.physics.materials import Basis
from drrgen.renderer._numba import compile_kernel
from drrgen.renderer.render import render
from drrgen.volume import CTVolume

LEVELS = 32767  # of int16, on either side of 0


def render_slabs(
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    *,
    basis: Basis,
    slices: int,
    engine: Engine | str,
    device: str,
) -> Float[Tensor, "b m v u"]:
    """Render poses through slabs of slices, summed once for each axis that a beam follows."""
    axes = [find_beam_axis(volume, pose) for pose in poses]
    images = torch.empty(len(poses), len(basis.names), detector.rows, detector.columns)
    for axis in sorted(set(axes)):
        chosen = [index for index, other in enumerate(axes) if other == axis]
        along = [poses[index] for index in chosen]
        for m, (thin, scale) in enumerate(sum_slabs(volume, basis, axis=axis, slices=slices)):
            part = render(thin, detector, along, basis=scale, engine=engine, device=device)
            images[chosen, m] = part[:, 0].to(images)
    return images


def find_beam_axis(volume: CTVolume, pose: Pose) -> int:
    """Find the array axis (0 z, 1 y, 2 x) that the central ray runs nearest to."""
    beam = pose.patient_from_camera[:3, 2].detach().cpu().numpy()
    return 2 - int(np.abs(volume.voxel_from_patient[:3, :3] @ beam).argmax())


def sum_slabs(
    volume: CTVolume, basis: Basis, *, axis: int, slices: int
) -> list[tuple[CTVolume, Basis]]:
    """Make one thin volume a material, in which a slab of slices has become one.

    A slab holds the mean amount of its slices, as int16 on a scale of its own. A ray meets all
    slices of a slab where it pierces the middle, so a slice is sampled beside its place by up to
    ``(slices - 1) / 2`` times what the ray moves sideways in a slice. Inside the volume a line
    integral is therefore off by at most ``length * (slices - 1) / 2 * (move_1 * step_1 + move_2 *
    step_2)``, with ``move`` in voxels along the two other axes and ``step`` the largest difference
    of the amount between neighbours there. A ray that enters or leaves between two slabs is off by
    up to one slab's content more.

    Args:
        volume: The CT.
        basis: What a HU value stands for.
        axis: Array axis along which slices are summed: 0 z, 1 y, 2 x.
        slices: Slices in a slab.

    Raises:
        GeometryError: ``slices`` is below 1.
    """
    if slices < 1:
        raise GeometryError(f"slab_slices must be at least 1, got {slices}; 1 sums nothing")
    shape = volume.hu.shape
    slices = min(slices, shape[axis])
    # To the kernel every axis is the middle one.
    values = volume.hu.view(np.uint16).reshape(
        int(np.prod(shape[:axis])), shape[axis], int(np.prod(shape[axis + 1 :]))
    )
    count = -(-shape[axis] // slices)
    thick = np.eye(4)  # thin voxel index (x, y, z) -> voxel index
    thick[2 - axis, 2 - axis], thick[2 - axis, 3] = slices, (slices - 1) / 2
    thin = []
    for name, row in zip(basis.names, np.roll(basis.tabulate(), 32768, axis=1), strict=True):
        largest = float(np.abs(row).max()) or 1.0
        hu = np.empty((values.shape[0], count, values.shape[2]), dtype=np.int16)
        _average(values, row * np.float32(LEVELS / largest), slices, hu)
        grid = volume.patient_from_voxel @ thick
        hu = hu.reshape(*shape[:axis], count, *shape[axis + 1 :])
        scale = Basis(
            names=(name,),
            knots_hu=np.array([-float(LEVELS), float(LEVELS)]),
            amounts=np.array([[-largest, largest]]),
        )
        thin.append((CTVolume(hu=hu, patient_from_voxel=grid), scale))
    return thin


@compile_kernel
def _average(values: Any, table: Float32[np.ndarray, "hu"], slices: int, out: Any) -> None:
    """Average slabs of the middle axis; slices that the last slab lacks count as nothing."""
    sums = np.empty(values.shape[2], dtype=np.float32)
    for a in range(values.shape[0]):
        for slab in range(out.shape[1]):
            sums[:] = 0
            for s in range(slab * slices, min((slab + 1) * slices, values.shape[1])):
                row = values[a, s]
                for k in range(sums.size):
                    sums[k] += table[row[k]]
            for k in range(sums.size):
                out[a, slab, k] = np.int16(np.rint(sums[k] / np.float32(slices)))
