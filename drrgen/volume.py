"""The one form in which a CT travels through drrgen: int16 HU and one matrix.

The array is ``hu[z, y, x]``, C-contiguous. ``patient_from_voxel`` maps the homogeneous voxel index
``(x, y, z, 1)``, integers at voxel centres, to the patient frame: LPS millimetres (+x to the
patient's left, +y posterior, +z cranial). Nothing assumes that slices are axial, that z rises, that
pixels are square or that the axes are right-handed.
"""

from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
from jaxtyping import Float64, Int16

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import GeometryError

Hu = Int16[np.ndarray, "z y x"]
Matrix4 = Float64[np.ndarray, "4 4"]

AIR_HU = -1000
ORTHOGONALITY_TOL = 1e-4  # cosine between two axes; NIfTI headers hold float32


@dataclass(frozen=True, slots=True, kw_only=True)
class CTSource:
    """Where a volume came from: what the manifest says of it besides its grid.

    Attributes:
        ct_format: File format.
        hu_source: Where the HU scale came from.
        n_bytes: Size of all files read [bytes].
        sha256: Digest of the bytes read; of a DICOM series, of its files' digests in slice order.
        slice_thickness_mm: Nominal thickness, which is not the spacing [mm].
        kernel: Reconstruction kernel, as the maker names it.
        tilt_deg: Gantry tilt that was straightened [degrees].
        warnings: What was repaired or assumed, one short word each.
    """

    ct_format: CTFormat
    hu_source: HuSource
    n_bytes: int = 0
    sha256: str = ""
    slice_thickness_mm: float | None = None
    kernel: str | None = None
    tilt_deg: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CTVolume:
    """A CT: Hounsfield units on a grid, and where the grid lies in the patient.

    Attributes:
        hu: Hounsfield units, ``(z, y, x)``, C-contiguous.
        patient_from_voxel: Voxel index ``(x, y, z, 1)`` to patient LPS [mm].
        source: Where it came from; None for one made from numbers.

    Raises:
        GeometryError: ``patient_from_voxel`` is not finite, singular or sheared.
    """

    hu: Hu
    patient_from_voxel: Matrix4
    source: CTSource | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.hu.ndim != 3 or self.hu.dtype != np.int16 or 0 in self.hu.shape:
            raise GeometryError(
                f"hu must be a non-empty int16 array (z, y, x), got {self.hu.dtype} "
                f"{self.hu.shape}; round and convert it first"
            )
        if not self.hu.flags.c_contiguous:
            raise GeometryError("hu must be C-contiguous; pass np.ascontiguousarray(hu)")
        check_grid(self.patient_from_voxel)

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each array axis [mm]."""
        x, y, z = np.linalg.norm(self.patient_from_voxel[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def voxel_from_patient(self) -> Matrix4:
        """Patient LPS [mm] to voxel index."""
        return np.linalg.inv(self.patient_from_voxel)

    @property
    def corners_mm(self) -> Float64[np.ndarray, "8 3"]:
        """The eight outer corners of the grid, half a voxel beyond the outermost centres [mm]."""
        nz, ny, nx = self.hu.shape
        ends = np.array([[-0.5, n - 0.5] for n in (nx, ny, nz)])
        index = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
        return index @ self.patient_from_voxel[:3, :3].T + self.patient_from_voxel[:3, 3]

    def find_axis(self, patient_axis: int) -> tuple[int, int]:
        """Find the array axis nearest to a patient axis, and which way it runs.

        Args:
            patient_axis: 0 for x (left), 1 for y (posterior), 2 for z (cranial).

        Returns:
            Axis of ``hu``, and 1 or -1.
        """
        row = self.patient_from_voxel[patient_axis, :3] / np.array(self.spacing_zyx_mm[::-1])
        index = int(np.abs(row).argmax())
        return 2 - index, 1 if row[index] > 0 else -1

    @property
    def orientation(self) -> str:
        """Where the x, y and z index run to, in letters: ``LPS`` for the plain axial grid."""
        return anatomical_letters(self.patient_from_voxel)


def check_grid(patient_from_voxel: Matrix4) -> None:
    """Raise GeometryError unless the matrix is finite, invertible and has right angles."""
    columns = patient_from_voxel[:3, :3]
    if patient_from_voxel.shape != (4, 4) or not np.isfinite(patient_from_voxel).all():
        raise GeometryError(
            f"patient_from_voxel must be a finite 4x4 matrix, got {patient_from_voxel.tolist()}"
        )
    lengths = np.linalg.norm(columns, axis=0)
    if not (lengths > 0).all():
        raise GeometryError(f"voxel spacing must be positive, got {lengths.tolist()} mm")
    cosines = (columns / lengths).T @ (columns / lengths) - np.eye(3)
    if np.abs(cosines).max() > ORTHOGONALITY_TOL:
        raise GeometryError(
            f"the axes of patient_from_voxel must be at right angles, got cosines up to "
            f"{np.abs(cosines).max():.2g}; resample the volume onto a straight grid"
        )


def anatomical_letters(patient_from_voxel: Matrix4) -> str:
    """Name the patient direction nearest to each index axis, each direction used once.

    Example:
        >>> anatomical_letters(np.diag([0.7, 0.7, -2.5, 1.0]))
        'LPI'
    """
    columns = patient_from_voxel[:3, :3]
    order = max(permutations(range(3)), key=lambda p: sum(abs(columns[p[i], i]) for i in range(3)))
    pairs = ("RL", "AP", "IS")
    return "".join(pairs[order[i]][int(columns[order[i], i] > 0)] for i in range(3))
