"""Onto what one looks: a flat panel at right angles to the central ray."""

import math
from dataclasses import dataclass

import torch

from drrgen.errors import GeometryError
from drrgen.geometry.frames import Matrix4Tensor

MAX_PIXELS = 2**28  # 1 GiB of float32: beyond it the numbers are a slip, not a detector


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A flat panel of square pixels.

    Attributes:
        sid_mm: Source to detector, along the central ray [mm].
        pitch_mm: Side of a pixel, at the detector [mm].
        rows: Height [pixels].
        columns: Width [pixels].
        principal_uv: Where the central ray meets the panel [pixels]; None for its centre.

    Raises:
        GeometryError: A number is not positive or not finite, or the panel is absurdly large.
    """

    sid_mm: float
    pitch_mm: float
    rows: int
    columns: int
    principal_uv: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("sid_mm", "pitch_mm", "rows", "columns"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise GeometryError(f"{name} must be positive, got {value}")
        if self.rows * self.columns > MAX_PIXELS:
            raise GeometryError(
                f"rows x columns must be at most {MAX_PIXELS}, got {self.rows} x {self.columns}; "
                "choose a smaller size or a larger pitch_mm"
            )
        if self.principal_uv is not None and not all(map(math.isfinite, self.principal_uv)):
            raise GeometryError(f"principal_uv must be finite, got {self.principal_uv}")

    @property
    def center_uv(self) -> tuple[float, float]:
        """Where the central ray meets the panel [pixels]."""
        return self.principal_uv or (self.columns / 2, self.rows / 2)

    @property
    def camera_from_pixel(self) -> Matrix4Tensor:
        """Pixel coordinates ``(u, v, 0, 1)`` to camera [mm], on the detector plane."""
        u, v = self.center_uv
        return torch.tensor(
            [
                [self.pitch_mm, 0.0, 0.0, -u * self.pitch_mm],
                [0.0, self.pitch_mm, 0.0, -v * self.pitch_mm],
                [0.0, 0.0, 1.0, self.sid_mm],
                [0.0, 0.0, 0.0, 1.0],
            ],
            dtype=torch.float64,
        )


def cut_detector(detector: Detector, rows: slice, columns: slice) -> Detector:
    """Cut a window out of a panel: its pixels lie where they lay.

    Args:
        detector: The whole panel.
        rows: Rows of the window, from its first to behind its last [pixels].
        columns: Its columns [pixels].

    Raises:
        GeometryError: The window is empty.
    """
    u, v = detector.center_uv
    return Detector(
        sid_mm=detector.sid_mm,
        pitch_mm=detector.pitch_mm,
        rows=rows.stop - rows.start,
        columns=columns.stop - columns.start,
        principal_uv=(u - columns.start, v - rows.start),
    )
