"""From where one looks: a view of radiology, a distance, and a turn on top of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drrgen.choices import View
from drrgen.errors import GeometryError
from drrgen.geometry.frames import VIEW_AXES, Matrix4Tensor, make_rotation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pose:
    """Where source and detector stand around the patient.

    Attributes:
        view: The named view that the pose started from; it decides how the picture hangs.
        patient_from_camera: Camera [mm] to patient LPS [mm]. May carry a gradient.

    Raises:
        GeometryError: The matrix is not finite, or its axes are not orthonormal.
    """

    view: View
    patient_from_camera: Matrix4Tensor

    def __post_init__(self) -> None:
        matrix = self.patient_from_camera.detach()
        if not bool(torch.isfinite(matrix).all()):
            raise GeometryError(f"a pose must be finite, got {matrix.tolist()}")
        axes = matrix[:3, :3]
        if not torch.allclose(axes.T @ axes, torch.eye(3, dtype=axes.dtype, device=axes.device)):
            raise GeometryError(
                f"the axes of a pose must be orthonormal, got {axes.tolist()}; use make_pose"
            )

    @property
    def source_mm(self) -> Tensor:
        """Where the source stands, patient LPS [mm]."""
        return self.patient_from_camera[:3, 3]


def make_pose(
    view: View | str,
    *,
    isocenter_mm: Sequence[float] | Tensor,
    sod_mm: float,
    rotation_deg: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
) -> Pose:
    """Place the source for a named view, then turn it about the isocenter.

    Args:
        view: PA, AP, LL (or LAT) or RL.
        isocenter_mm: Point that the central ray passes, patient LPS [mm].
        sod_mm: Source to isocenter [mm].
        rotation_deg: Turn of source and detector about the patient's fixed x, then y, then z axis,
            right-handed [degrees].

    Raises:
        GeometryError: Unknown view, a distance that is not positive, or a number not finite.

    Example:
        In PA the source stands behind the patient:

        >>> make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600).source_mm.tolist()
        [0.0, 1600.0, 0.0]
    """
    try:
        named = View(view)
    except ValueError as error:
        raise GeometryError(f"view must be PA, AP, LL, LAT or RL, got {view!r}") from error
    if not (sod_mm > 0 and math.isfinite(sod_mm)):
        raise GeometryError(f"sod_mm must be positive, got {sod_mm}; give millimetres")
    isocenter = _vector(isocenter_mm, "isocenter_mm")
    turn = make_rotation(_vector(rotation_deg, "rotation_deg"))
    upright = torch.tensor(VIEW_AXES[named], dtype=torch.float64, device=turn.device).T
    axes = turn @ upright
    source = isocenter.to(axes.device) - sod_mm * axes[:, 2]
    top = torch.cat([axes, source[:, None]], dim=1)
    bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64, device=axes.device)
    return Pose(view=named, patient_from_camera=torch.cat([top, bottom]))


def _vector(values: Sequence[float] | Tensor, name: str) -> Tensor:
    """Turn three numbers into a float64 tensor, keeping a gradient."""
    vector = torch.as_tensor(values, dtype=torch.float64)
    if vector.shape != (3,) or not bool(torch.isfinite(vector.detach()).all()):
        raise GeometryError(f"{name} must be three finite numbers, got {values}")
    return vector
