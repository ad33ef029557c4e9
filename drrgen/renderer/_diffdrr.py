"""The package diffdrr behind our signature: for comparison, and for those who know it.

Its conventions, and how ours map onto them:

- Its world is RAS millimetres; ours is LPS, so x and y change sign.
- Its camera has y up and the picture's rows run down; our camera's y runs down, so y changes sign.
  The shift of its detector is the way from the central ray to the panel's middle [mm].
- It integrates with Siddon's method, in float32: a voxel is a block of one value, where ours blend
  between voxel centres. Pictures agree up to that, about a voxel at edges.
- It follows the whole line through source and pixel. What stands before the source or behind the
  panel is taken out of the volume first, voxel by voxel.
- It renders one density. Several materials are rendered one after the other.

Source:
    Gopalakrishnan and Golland, Fast Auto-Differentiable Digitally Reconstructed Radiographs for
    Solving Inverse Problems in Intraoperative Imaging, CLIP 2022.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from diffdrr.drr import DRR
from diffdrr.pose import RigidTransform
from jaxtyping import Bool, Float
from torch import Tensor
from torchio import ScalarImage, Subject

from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose
from drrgen.physics.materials import Basis
from drrgen.volume import CTVolume

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
CAMERA_FROM_THEIRS = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
CROSSINGS_AT_ONCE = 2**22  # of rays with voxel faces; each takes about 100 bytes


def render_diffdrr(
    volume: CTVolume,
    detector: Detector,
    poses: Sequence[Pose],
    basis: Basis,
    device: torch.device,
) -> Float[Tensor, "b m v u"]:
    """Integrate every material along every ray, differentiable in the poses."""
    hu = volume.hu.transpose(2, 1, 0).astype(np.int64)  # theirs is (x, y, z)
    amounts = torch.from_numpy(basis.tabulate()[:, hu + 32768]).to(device)
    drr = _make_drr(volume, detector).to(device)
    images = []
    for pose in poses:
        reached = _find_reached(volume, detector, pose).to(device)
        transform = _to_rigid_transform(pose).to(device)
        layers = []
        for amount in amounts:
            drr.density = amount * reached
            layers.append(drr(transform)[0, 0])
        images.append(torch.stack(layers))
    return torch.stack(images)


def _make_drr(volume: CTVolume, detector: Detector) -> DRR:
    """Set up the package's renderer; its density is filled in later."""
    shape = volume.hu.shape[::-1]
    grid = RAS_FROM_LPS @ volume.patient_from_voxel
    empty = ScalarImage(tensor=torch.zeros(1, *shape), affine=grid)
    subject = Subject(volume=empty, density=empty, mask=None, reorient=torch.eye(4))
    u, v = detector.center_uv
    rays_at_once = max(1, CROSSINGS_AT_ONCE // (sum(shape) + 3))
    return DRR(
        subject,
        sdd=detector.sid_mm,
        height=detector.rows,
        width=detector.columns,
        delx=detector.pitch_mm,
        x0=(detector.columns / 2 - u) * detector.pitch_mm,
        y0=(v - detector.rows / 2) * detector.pitch_mm,
        reverse_x_axis=False,
        patch_size=_find_patch(detector, rays_at_once),
    )


def _find_patch(detector: Detector, rays_at_once: int) -> int | None:
    """Find the side of the squares that the panel is rendered in; None for all at once."""
    if detector.rows * detector.columns <= rays_at_once:
        return None
    return math.isqrt(rays_at_once)


def _to_rigid_transform(pose: Pose) -> RigidTransform:
    """Map a pose to the package's: its camera to its world. A mirrored one stays mirrored."""
    ras_from_lps = torch.from_numpy(RAS_FROM_LPS).to(pose.patient_from_camera)
    camera_from_theirs = CAMERA_FROM_THEIRS.to(pose.patient_from_camera)
    matrix = ras_from_lps @ pose.patient_from_camera @ camera_from_theirs
    return RigidTransform(matrix.to(torch.float32))


def _find_reached(volume: CTVolume, detector: Detector, pose: Pose) -> Bool[Tensor, "x y z"]:
    """Find the voxels that lie between source and panel."""
    camera_from_patient = np.linalg.inv(pose.patient_from_camera.detach().cpu().numpy())
    along = (camera_from_patient @ volume.patient_from_voxel)[2]
    n_z, n_y, n_x = volume.hu.shape
    x, y, z = (torch.arange(n) * step for n, step in zip((n_x, n_y, n_z), along, strict=False))
    depth_mm = x[:, None, None] + y[:, None] + z + along[3]
    return (depth_mm > 0) & (depth_mm < detector.sid_mm)
