"""NIfTI-1 and NIfTI-2, read by ourselves.

ITK's reader, given ``ct.nii.gz``, takes the pixels of a ``ct.nii`` beside it and says nothing; and
int16 needs no trip through float. The patient frame of NIfTI is RAS; it turns into LPS here.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group (field offsets, sform, qform).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import Reason, VolumeError
from drrgen.io.grids import check_slices, settle_grid
from drrgen.io.hounsfield import clean_hu, to_hu
from drrgen.io.listing import CTFiles
from drrgen.io.packed import (
    SPARE_BYTES,
    Packing,
    Stream,
    check_end,
    check_size,
    digest_files,
    open_regular,
    read_bytes,
    read_head,
    read_voxels,
    truncated,
    unpack,
)
from drrgen.volume import CTSource, CTVolume, Matrix4

FORMS_DIFFER = "sform_qform_differ"
FORMS_TOL_MM = 0.1
PIXDIM_DIFFERS = "pixdim_differs"
PIXDIM_TOL = 0.01  # of the spacing

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4",
          1024: "i8", 1280: "u8"}  # fmt: skip
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown is taken as mm
_SPACE_UNIT_BITS = 7
_GZIP_MAGIC = b"\x1f\x8b"
_QUATERNION_TOL = 0.01

_NAMES = ["magic", "dim", "datatype", "bitpix", "pixdim", "offset", "slope", "inter", "units",
          "qform", "sform", "quaternion", "origin", "rows"]  # fmt: skip
_V1 = np.dtype({
    "names": _NAMES,
    "formats": ["S4", "8i2", "i2", "i2", "8f4", "f4", "f4", "f4", "u1", "i2", "i2",
                "3f4", "3f4", "(3,4)f4"],
    "offsets": [344, 40, 70, 72, 76, 108, 112, 116, 123, 252, 254, 256, 268, 280],
    "itemsize": 348,
})  # fmt: skip
_V2 = np.dtype({
    "names": _NAMES,
    "formats": ["S4", "8i8", "i2", "i2", "8f8", "i8", "f8", "f8", "i4", "i4", "i4",
                "3f8", "3f8", "(3,4)f8"],
    "offsets": [4, 16, 12, 14, 104, 168, 176, 184, 500, 344, 348, 352, 376, 400],
    "itemsize": 540,
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NiftiContent:
    """What a NIfTI file holds, before its values become HU.

    Attributes:
        stored: Values as the file holds them.
        slope: What the header multiplies them by; 1 where it has no scale.
        intercept: What the header adds; 0 where it has no scale.
        patient_from_voxel: Voxel index to patient LPS [mm]; None where the header tells none.
        n_bytes: Size of the file [bytes].
        sha256: Digest of the file.
        warnings: What was noticed, one short word each.
    """

    stored: Shaped[np.ndarray, "z y x"]
    slope: float
    intercept: float
    patient_from_voxel: Matrix4 | None
    n_bytes: int
    sha256: str
    warnings: tuple[str, ...]


def read_nifti(files: CTFiles) -> CTVolume:
    """Read a CT from a .nii or .nii.gz file.

    The sform is taken where its code is set, else the qform.

    Args:
        files: One file.

    Raises:
        VolumeError: Truncated, no orientation, not one 3-D image, or an absurd header.
        OSError: The file cannot be read.
    """
    path = files.here[0]
    found = read_content(path)
    if found.patient_from_voxel is None:
        raise _refuse(
            Reason.NO_ORIENTATION, path, "found neither sform nor qform, wanted one of them"
        )
    hu, words = to_hu(found.stored, slope=found.slope, intercept=found.intercept)
    words = found.warnings + words + clean_hu(hu)
    scaled = (found.slope, found.intercept) != (1.0, 0.0)
    source = CTSource(
        ct_format=CTFormat.NIFTI,
        hu_source=HuSource.HEADER if scaled else HuSource.ASSUMED,
        n_bytes=found.n_bytes,
        sha256=found.sha256,
        warnings=words,
    )
    return CTVolume(hu=hu, patient_from_voxel=found.patient_from_voxel, source=source)


def read_content(path: Path) -> NiftiContent:
    """Read stored values and header of a .nii or .nii.gz file.

    Args:
        path: The file.

    Raises:
        VolumeError: Truncated, not one 3-D image, or an absurd header.
        OSError: The file cannot be read.
    """
    with ThreadPoolExecutor(1) as pool, open_regular(path) as file:
        n_bytes = path.stat().st_size
        packed = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        stream = unpack(file, Packing.GZIP if packed else Packing.NONE)
        header = _read_header(stream, path)
        shape_xyz = _check_shape(header, path)
        kind = _find_type(header, path)
        with np.errstate(invalid="ignore"):  # a NaN that signals, which is refused like any other
            slope, intercept = _find_scale(header, path)
            affine, words = _find_affine(header, shape_xyz, path)
        check_size(shape_xyz[::-1], kind.itemsize, n_bytes, path)
        digest = pool.submit(digest_files, [path])  # hashing and reading let other threads run
        _skip_to_voxels(stream, header, path)
        stored = read_voxels(stream, shape_xyz[::-1], kind, path)
        words += check_end(stream, path, spare=min(SPARE_BYTES, stored[0].nbytes - 1))
        return NiftiContent(
            stored=stored, slope=slope, intercept=intercept, patient_from_voxel=affine,
            n_bytes=n_bytes, sha256=digest.result(), warnings=words,
        )  # fmt: skip


def is_nifti_pair(path: Path) -> bool:
    """Say whether a file is the header of a pair .hdr and .img, which is refused when read.

    Args:
        path: A plain file.
    """
    try:
        head = read_head(path, _V1.itemsize)
    except OSError:
        return False
    return head[344:347] == b"ni1" or head[4:7] == b"ni2"


def _read_header(stream: Stream, path: Path) -> np.void:
    """Read the header of either version and byte order, as one record of native numbers."""
    data = read_bytes(stream, _V1.itemsize, path)
    for version in (_V1, _V2):
        for order in "<>":
            if np.frombuffer(data[:4].ljust(4, b"\0"), order + "i4")[0] != version.itemsize:
                continue
            data += read_bytes(stream, version.itemsize - _V1.itemsize, path)
            if len(data) < version.itemsize:
                raise truncated(path, f"found {len(data)} bytes, wanted {version.itemsize}")
            record: np.void = np.frombuffer(data, version.newbyteorder(order), 1)[0]  # type: ignore[arg-type]
            _check_magic(record, path)
            return record
    if len(data) < _V1.itemsize:
        raise truncated(path, f"found {len(data)} bytes, wanted a header of {_V1.itemsize}")
    raise _refuse(Reason.NO_IMAGE, path, "found no NIfTI header, wanted its size 348 or 540 first")


def _check_magic(header: np.void, path: Path) -> None:
    """Refuse headers whose voxels lie in another file, and Analyze, which has no orientation."""
    word = bytes(header["magic"])
    if word in (b"ni1", b"ni2"):
        raise VolumeError(
            Reason.NO_IMAGE, path, "found the header of a pair .hdr and .img, wanted one file",
            remedy="convert the pair to one .nii.gz",
        )  # fmt: skip
    if word not in (b"n+1", b"n+2"):
        raise _refuse(Reason.NO_IMAGE, path, "found no magic word n+1 or n+2 (Analyze, or broken)")


def _skip_to_voxels(stream: Stream, header: np.void, path: Path) -> None:
    """Pass over what lies between the header and the voxels."""
    with np.errstate(invalid="ignore"):
        offset, done = float(header["offset"]), header.dtype.itemsize
    if not done <= offset <= SPARE_BYTES or not offset.is_integer():
        raise _refuse(Reason.NO_IMAGE, path, f"found the voxels at byte {offset:g}")
    if len(read_bytes(stream, int(offset) - done, path)) < int(offset) - done:
        raise truncated(path, "found the end before the first voxel")


def _check_shape(header: np.void, path: Path) -> tuple[int, int, int]:
    """Check that the file holds one 3-D image; return its size x, y, z."""
    rank = int(header["dim"][0])
    if not 3 <= rank <= 7:
        raise _refuse(Reason.NO_IMAGE, path, f"found {rank} dimensions, wanted 3")
    dim = [int(n) for n in header["dim"][1 : rank + 1]]
    if min(dim) < 1:
        raise _refuse(Reason.NO_IMAGE, path, f"found a size of {dim}, which no CT has")
    if max(dim[3:], default=1) > 1:
        raise _refuse(Reason.MULTI_PHASE, path, f"found {dim[3:]} volumes, wanted one")
    check_slices(dim[2], path)
    return dim[0], dim[1], dim[2]


def _find_type(header: np.void, path: Path) -> "np.dtype[np.generic]":
    """Find the type of a stored voxel, in the byte order of the file."""
    code = int(header["datatype"])
    if code not in _TYPES:
        raise _refuse(Reason.NOT_CT, path, f"found data type {code}, wanted one number a voxel")
    kind = np.dtype(_TYPES[code]).newbyteorder(header.dtype["datatype"].byteorder)
    bits = int(header["bitpix"])
    if bits not in (0, 8 * kind.itemsize):
        raise _refuse(
            Reason.PIXEL_MISMATCH, path, f"found {bits} bits a voxel of type {code}, wanted "
            f"{8 * kind.itemsize}"
        )  # fmt: skip
    return kind


def _find_scale(header: np.void, path: Path) -> tuple[float, float]:
    """Find slope and intercept; a slope of 0 or NaN means that there is no scale."""
    slope, intercept = float(header["slope"]), float(header["inter"])
    if not np.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    if not np.isfinite(intercept):
        raise _refuse(
            Reason.NO_RESCALE, path, f"found a slope of {slope:g} without an intercept, wanted both"
        )
    return slope, intercept


def _find_affine(
    header: np.void, shape_xyz: tuple[int, int, int], path: Path
) -> tuple[Matrix4 | None, tuple[str, ...]]:
    """Find voxel to patient LPS; sform first, then qform, and never a guess: else None."""
    unit = int(header["units"]) & _SPACE_UNIT_BITS
    if unit not in _MM_PER_UNIT:
        raise _refuse(Reason.METADATA_MISSING, path, f"found unit code {unit}, wanted millimetres")
    to_mm = np.diag([_MM_PER_UNIT[unit]] * 3 + [1.0])
    has_sform = int(header["sform"]) > 0
    forms = []
    if has_sform:
        forms.append(np.vstack([np.asarray(header["rows"], dtype=float), [0.0, 0.0, 0.0, 1.0]]))
    if int(header["qform"]) > 0:
        try:
            forms.append(_read_qform(header, path))
        except VolumeError:
            if not has_sform:
                raise
            forms.append(np.full((4, 4), np.nan))  # differs from any sform
    if not forms:
        return None, ()
    # Signs and units row by row: a matrix product would spread an infinity.
    matrices = [np.diag(_LPS_FROM_RAS @ to_mm)[:, None] * form for form in forms]
    matrix, words = settle_grid(matrices[0], shape_xyz, path)
    far = np.array([[x, y, z, 1.0] for x in (0, shape_xyz[0] - 1) for y in (0, shape_xyz[1] - 1)
                    for z in (0, shape_xyz[2] - 1)])  # fmt: skip
    with np.errstate(all="ignore"):  # what is not finite is not alike
        alike = [np.abs(far @ (other - matrix).T).max() <= FORMS_TOL_MM for other in matrices[1:]]
    if not all(alike):
        words += (FORMS_DIFFER,)
    elif has_sform and not alike and _does_pixdim_differ(header, forms[0]):
        words += (PIXDIM_DIFFERS,)
    return matrix, words


def _does_pixdim_differ(header: np.void, form: Matrix4) -> bool:
    """Say whether the spacing beside an sform is another than the sform's own."""
    pixdim = np.abs(np.asarray(header["pixdim"], dtype=float)[1:4])
    lengths = np.linalg.norm(form[:3, :3], axis=0)
    return not (np.abs(pixdim - lengths) <= PIXDIM_TOL * lengths).all()


def _read_qform(header: np.void, path: Path) -> Matrix4:
    """Build the matrix of a quaternion, spacings and an origin."""
    pixdim = np.asarray(header["pixdim"], dtype=float)
    if not (np.isfinite(pixdim[1:4]) & (pixdim[1:4] > 0)).all():
        found = ", ".join(f"{mm:g}" for mm in pixdim[1:4])
        raise _refuse(
            Reason.SPACING_CONFLICT, path, f"found spacings of {found}, wanted positive numbers"
        )
    b, c, d = (float(x) for x in header["quaternion"])
    length = np.sqrt(b * b + c * c + d * d)
    if not length <= 1 + _QUATERNION_TOL:
        raise _refuse(Reason.NO_ORIENTATION, path, "found a qform that is no rotation")
    if length > 1:  # rounding of a half turn
        b, c, d = b / length, c / length, d / length
    a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    rotation = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    handed = -1.0 if pixdim[0] < 0 else 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * pixdim[1:4] * [1.0, 1.0, handed]
    matrix[:3, 3] = np.asarray(header["origin"], dtype=float)
    return matrix


def _refuse(reason: Reason, path: Path, detail: str) -> VolumeError:
    """Make the error of a file that holds something else."""
    return VolumeError(
        reason, path, detail, remedy="convert it again to one 3-D CT with its orientation"
    )
