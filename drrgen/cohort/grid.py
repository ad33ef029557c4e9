"""The grid of a virtual CT: upright axes, all lengths in the order of the array, (z, y, x)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from drrgen.volume import Matrix4

Zyx = tuple[float, float, float]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Voxel centres along the patient's axes: z cranial, y posterior, x to the left (LPS).

    Attributes:
        shape: Voxels along z, y, x.
        spacing_mm: Between voxel centres [mm].
        origin_mm: Centre of the first voxel, patient LPS [mm].
    """

    shape: tuple[int, int, int]
    spacing_mm: Zyx
    origin_mm: Zyx

    @property
    def matrix(self) -> Matrix4:
        """Voxel index (x, y, z, 1) to patient LPS [mm]."""
        matrix = np.diag([*self.spacing_mm[::-1], 1.0])
        matrix[:3, 3] = self.origin_mm[::-1]
        return matrix

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel [ml]."""
        return float(np.prod(self.spacing_mm)) / 1000

    @property
    def pitch_mm(self) -> float:
        """Mean side of a voxel: the width of a soft edge [mm]."""
        return float(np.mean(self.spacing_mm))

    @property
    def center_mm(self) -> Zyx:
        """Middle of the grid [mm]."""
        z, y, x = (
            o + s * (n - 1) / 2
            for o, s, n in zip(self.origin_mm, self.spacing_mm, self.shape, strict=True)
        )
        return z, y, x

    @property
    def whole(self) -> Box:
        """The box of all voxels."""
        z, y, x = (slice(0, n) for n in self.shape)
        return z, y, x

    def crop(self, box: Box) -> "Grid":
        """Make the grid of a box of voxels."""
        z, y, x = (
            o + s * cut.start
            for o, s, cut in zip(self.origin_mm, self.spacing_mm, box, strict=True)
        )
        n_z, n_y, n_x = (cut.stop - cut.start for cut in box)
        return Grid(shape=(n_z, n_y, n_x), spacing_mm=self.spacing_mm, origin_mm=(z, y, x))

    def axes_mm(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of the voxel centres, as open axes that broadcast [mm]."""
        z, y, x = (
            (o + s * np.arange(n)).astype(np.float32)
            for o, s, n in zip(self.origin_mm, self.spacing_mm, self.shape, strict=True)
        )
        return z[:, None, None], y[None, :, None], x[None, None, :]

    def find_box(self, points_mm: Float64[np.ndarray, "n 3"], margin_mm: float) -> Box | None:
        """Find the box around points with a margin; None where it misses the grid.

        Args:
            points_mm: (z, y, x) [mm].
            margin_mm: Added on all sides [mm].
        """
        low = (points_mm.min(axis=0) - margin_mm - self.origin_mm) / self.spacing_mm
        high = (points_mm.max(axis=0) + margin_mm - self.origin_mm) / self.spacing_mm
        first = np.clip(np.floor(low).astype(int), 0, self.shape)
        last = np.clip(np.ceil(high).astype(int) + 1, 0, self.shape)
        if not (first < last).all():
            return None
        z, y, x = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
        return z, y, x

    def to_index(self, point_mm: Zyx) -> tuple[int, int, int]:
        """Find the voxel nearest to a point, kept inside the grid."""
        index = np.rint((np.array(point_mm) - self.origin_mm) / self.spacing_mm).astype(int)
        z, y, x = np.clip(index, 0, np.array(self.shape) - 1).tolist()
        return z, y, x
