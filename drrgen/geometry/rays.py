"""One line from the source to the centre of every pixel, and back from a point to its pixel."""

import torch
from jaxtyping import Float64
from torch import Tensor

from drrgen.errors import GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.frames import transform_points
from drrgen.geometry.pose import Pose


def find_pixel_centers(detector: Detector, pose: Pose) -> Float64[Tensor, "v u 3"]:
    """Find where the centre of every pixel lies, in patient LPS [mm].

    The ray of a pixel runs from ``pose.source_mm`` to its centre.

    Args:
        detector: The panel.
        pose: Where it stands.
    """
    device = pose.patient_from_camera.device
    u = torch.arange(detector.columns, dtype=torch.float64, device=device) + 0.5
    v = torch.arange(detector.rows, dtype=torch.float64, device=device) + 0.5
    grid_v, grid_u = torch.meshgrid(v, u, indexing="ij")
    pixels = torch.stack([grid_u, grid_v, torch.zeros_like(grid_u)], dim=-1)
    patient_from_pixel = pose.patient_from_camera @ detector.camera_from_pixel.to(device)
    return transform_points(patient_from_pixel, pixels)


def project_points(
    points_mm: Float64[Tensor, "*n 3"], detector: Detector, pose: Pose
) -> Float64[Tensor, "*n 2"]:
    """Find the pixel coordinates (u, v) at which points of the patient appear.

    Args:
        points_mm: Points, patient LPS [mm].
        detector: The panel.
        pose: Where it stands.

    Raises:
        GeometryError: A point lies at or behind the source, where it has no picture.

    Example:
        A point 10 mm left of the isocenter, magnified 1.125 times onto 0.5 mm pixels, appears
        22.5 pixels right of the middle of a PA view:

        >>> from drrgen.geometry.pose import make_pose
        >>> pa = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600)
        >>> panel = Detector(sid_mm=1800, pitch_mm=0.5, rows=100, columns=100)
        >>> point = torch.tensor([10.0, 0.0, 0.0], dtype=torch.float64)
        >>> project_points(point, panel, pa).tolist()
        [72.5, 50.0]
    """
    camera_from_patient = torch.linalg.inv(pose.patient_from_camera)
    camera = transform_points(camera_from_patient, points_mm.to(camera_from_patient))
    depth = camera[..., 2]
    if not bool((depth > 0).all()):
        raise GeometryError(
            f"a point lies {float(depth.min()):.1f} mm before the source, wanted behind it; "
            "increase sod_mm"
        )
    center = torch.tensor(detector.center_uv, dtype=torch.float64, device=camera.device)
    return camera[..., :2] / depth[..., None] * (detector.sid_mm / detector.pitch_mm) + center
