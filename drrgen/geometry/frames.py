"""The frames, said once.

- **patient**: LPS millimetres. +x to the patient's left, +y posterior, +z cranial.
- **voxel**: index ``(x, y, z)``, integers at voxel centres. The array is ``hu[z, y, x]``.
- **camera**: millimetres, origin at the source. x runs along detector rows (u), y down its columns
  (v), z along the central ray, so the detector is the plane ``z = sid_mm``. The picture is what
  hangs on the viewing box. PA, LL and RL are hung as seen from the detector, against the beam, so
  their camera frame is left-handed and ``patient_from_camera`` mirrors. That is no mistake.
- **pixel**: ``(u, v)``, column to the right and row down. Pixel (0, 0) covers [0, 1) x [0, 1) and
  its centre is (0.5, 0.5). The half belongs to the detector alone, never to voxels.

Matrices are called ``b_from_a`` and chain: ``camera_from_patient @ patient_from_voxel``.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from drrgen.choices import View

Matrix4Tensor = Float64[Tensor, "4 4"]

_LEFT, _RIGHT = (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)
_POSTERIOR, _ANTERIOR = (0.0, 1.0, 0.0), (0.0, -1.0, 0.0)
_CAUDAL = (0.0, 0.0, -1.0)

# Patient directions of a view: (detector row u, detector column v, beam).
VIEW_AXES = {
    View.PA: (_LEFT, _CAUDAL, _ANTERIOR),
    View.AP: (_LEFT, _CAUDAL, _POSTERIOR),
    View.LL: (_POSTERIOR, _CAUDAL, _LEFT),
    View.RL: (_ANTERIOR, _CAUDAL, _RIGHT),
}


def transform_points(
    b_from_a: Matrix4Tensor, points: Float64[Tensor, "*n 3"]
) -> Float64[Tensor, "*n 3"]:
    """Map points through a 4x4 affine matrix.

    Args:
        b_from_a: Matrix from frame a to frame b.
        points: Points in frame a.

    Example:
        >>> shift = torch.eye(4, dtype=torch.float64)
        >>> shift[0, 3] = 10.0
        >>> transform_points(shift, torch.zeros(1, 3, dtype=torch.float64)).tolist()
        [[10.0, 0.0, 0.0]]
    """
    return points @ b_from_a[:3, :3].T + b_from_a[:3, 3]


def make_rotation(rotation_deg: Float64[Tensor, "3"]) -> Float64[Tensor, "3 3"]:
    """Turn about the patient's fixed x, then y, then z axis, right-handed.

    Args:
        rotation_deg: Angles about x, y and z [degrees].

    Example:
        A quarter turn about z takes x to y:

        >>> turn = make_rotation(torch.tensor([0.0, 0.0, 90.0], dtype=torch.float64))
        >>> (turn @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)).round().tolist()
        [0.0, 1.0, 0.0]
    """
    rx, ry, rz = torch.deg2rad(rotation_deg)
    one, zero = torch.ones_like(rx), torch.zeros_like(rx)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries).reshape(3, 3)

    about_x = matrix(one, zero, zero, zero, rx.cos(), -rx.sin(), zero, rx.sin(), rx.cos())
    about_y = matrix(ry.cos(), zero, ry.sin(), zero, one, zero, -ry.sin(), zero, ry.cos())
    about_z = matrix(rz.cos(), -rz.sin(), zero, rz.sin(), rz.cos(), zero, zero, zero, one)
    return about_z @ about_y @ about_x
