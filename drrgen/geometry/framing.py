"""What the picture covers: where the collimator closes, and the detector that results.

Collimated, the picture ends where the CT ends: every ray at its upper and lower edge passes the
body inside the CT on its whole way, so no wedge of missing anatomy darkens the rim. To the sides it
ends a finger's breadth beside the skin, or where the CT ends before that.
"""

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float64
from torch import Tensor

from drrgen.choices import Framing
from drrgen.errors import GeometryError
from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import Pose
from drrgen.geometry.rays import project_points

FIXED_SIDE_MM = 430.0  # the usual large cassette, 43 cm x 43 cm

Xyz = tuple[float, float, float]
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A box along the patient's axes.

    Attributes:
        low_mm: Smallest x, y, z, patient LPS [mm].
        high_mm: Largest x, y, z, patient LPS [mm].
    """

    low_mm: Xyz
    high_mm: Xyz

    @property
    def center_mm(self) -> Xyz:
        """Middle of the box [mm]."""
        x, y, z = ((a + b) / 2 for a, b in zip(self.low_mm, self.high_mm, strict=True))
        return x, y, z

    @property
    def corners_mm(self) -> Float64[Tensor, "8 3"]:
        """The eight corners [mm]."""
        ends = zip(self.low_mm, self.high_mm, strict=True)
        return torch.tensor(list(product(*ends)), dtype=torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A detector and the part of it that the collimator leaves open.

    Attributes:
        detector: The panel.
        exposed_xywh: Exposed rectangle: left, top, width, height [pixels].
    """

    detector: Detector
    exposed_xywh: tuple[int, int, int, int]


def frame_view(
    body: Box,
    pose: Pose,
    *,
    sid_mm: float,
    size: int,
    framing: Framing = Framing.COLLIMATED,
    pitch_mm: float | None = None,
) -> Frame:
    """Choose the detector for a view.

    Args:
        body: What the picture is to show; its z ends are where the CT ends.
        pose: Where source and detector stand.
        sid_mm: Source to detector [mm].
        size: Long side of the picture [pixels].
        framing: Collimated to the body, or a fixed 430 mm square.
        pitch_mm: Detector pitch [mm]; None lets the exposed field fill the size.

    Raises:
        GeometryError: The body reaches behind the source or the detector, nothing is exposed, or
            size or pitch is not positive.
    """
    if size < 1:
        raise GeometryError(f"size must be at least 1 pixel, got {size}")
    if pitch_mm is not None and not pitch_mm > 0:  # also catches NaN
        raise GeometryError(f"pitch_mm must be positive, got {pitch_mm}; leave it out to fill size")
    left, top, right, bottom = find_field(body, pose, sid_mm=sid_mm)
    width_mm, height_mm = right - left, bottom - top
    if framing is Framing.FIXED:
        pitch = FIXED_SIDE_MM / size if pitch_mm is None else pitch_mm
        columns = rows = size
        principal = (size / 2, size / 2)
    else:
        pitch = max(width_mm, height_mm) / size if pitch_mm is None else pitch_mm
        scale = size / max(width_mm, height_mm)
        columns = max(1, round(width_mm * scale))
        rows = max(1, round(height_mm * scale))
        principal = (
            columns / 2 - (left + right) / 2 / pitch,
            rows / 2 - (top + bottom) / 2 / pitch,
        )
    detector = Detector(
        sid_mm=sid_mm, pitch_mm=pitch, rows=rows, columns=columns, principal_uv=principal
    )
    field = (left / pitch, top / pitch, right / pitch, bottom / pitch)
    return Frame(detector=detector, exposed_xywh=_to_pixels(field, detector))


def find_field(body: Box, pose: Pose, *, sid_mm: float) -> Rectangle:
    """Find the open field on the detector plane: left, top, right, bottom [mm].

    Measured from the central ray.

    To the sides the field takes in the whole body. Above and below it stays where every ray passes
    the body between its z ends; a pose so oblique that no such ray exists takes in everything.

    Raises:
        GeometryError: The body reaches behind the source, or beyond the detector.
    """
    unit = Detector(sid_mm=sid_mm, pitch_mm=1.0, rows=1, columns=1, principal_uv=(0.0, 0.0))
    corners = body.corners_mm
    depth = (corners - pose.source_mm.detach()) @ pose.patient_from_camera.detach()[:3, 2]
    if float(depth.max()) > sid_mm:
        raise GeometryError(
            f"the body reaches {float(depth.max()) - sid_mm:.0f} mm behind the detector at sid_mm "
            f"{sid_mm:g}; increase sid_mm or decrease sod_mm"
        )
    u, v = project_points(corners, unit, pose).detach().unbind(-1)
    upper, lower = v[corners[:, 2] == body.high_mm[2]], v[corners[:, 2] == body.low_mm[2]]
    top, bottom = float(upper.max()), float(lower.min())
    if not top < bottom:
        top, bottom = float(v.min()), float(v.max())
    return float(u.min()), top, float(u.max()), bottom


def _to_pixels(field: Rectangle, detector: Detector) -> tuple[int, int, int, int]:
    """Round a field [pixels from the central ray] to whole pixels inside the panel."""
    u, v = detector.center_uv
    left, right = (min(max(round(x + u), 0), detector.columns) for x in (field[0], field[2]))
    top, bottom = (min(max(round(y + v), 0), detector.rows) for y in (field[1], field[3]))
    if right <= left or bottom <= top:
        raise GeometryError(
            "the body projects beside the detector; give an isocenter inside the body"
        )
    return left, top, right - left, bottom - top
