"""NIfTI-1 and NIfTI-2, read by ourselves.

ITK's reader, given ``ct.nii.gz``, takes the pixels of a ``ct.nii`` beside it and says nothing; and
int16 needs no trip through float. The patient frame of NIfTI is RAS; it turns into LPS here.

Source: nifti1.h and nifti2.h of the NIfTI Data Format Working Group (field offsets, sform, qform).
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from isal import isal_zlib

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import GeometryError, Reason, VolumeError
from drrgen.io.hounsfield import to_hu
from drrgen.io.listing import CTFiles
from drrgen.volume import CTSource, CTVolume, Matrix4, check_grid

MAX_VOXELS = 2**32  # 8 GiB of int16: no CT is larger, but a broken header may say so
MIN_SLICES = 3
FORMS_DIFFER = "sform_qform_differ"
FORMS_TOL_MM = 1.0

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4",
          1024: "i8", 1280: "u8"}  # fmt: skip
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown is taken as mm
_SPACE_UNIT_BITS = 7
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BITS = 31
_SPARE_BYTES = 2**20  # what may follow the voxels

_NAMES = ["dim", "datatype", "pixdim", "offset", "slope", "inter", "units", "qform", "sform",
          "quaternion", "origin", "rows"]  # fmt: skip
_V1 = np.dtype({
    "names": _NAMES,
    "formats": ["8i2", "i2", "8f4", "f4", "f4", "f4", "u1", "i2", "i2", "3f4", "3f4", "(3,4)f4"],
    "offsets": [40, 70, 76, 108, 112, 116, 123, 252, 254, 256, 268, 280],
    "itemsize": 348,
})  # fmt: skip
_V2 = np.dtype({
    "names": _NAMES,
    "formats": ["8i8", "i2", "8f8", "i8", "f8", "f8", "i4", "i4", "i4", "3f8", "3f8", "(3,4)f8"],
    "offsets": [16, 12, 104, 168, 176, 184, 500, 344, 348, 352, 376, 400],
    "itemsize": 540,
})  # fmt: skip


def read_nifti(files: CTFiles) -> CTVolume:
    """Read a CT from a .nii or .nii.gz file.

    The sform is taken where its code is set, else the qform.

    Args:
        files: One file.

    Raises:
        VolumeError: Truncated, no orientation, not one 3-D image, or an absurd header.
        OSError: The file cannot be read.
    """
    path = files.paths[0]
    packed = path.read_bytes()
    with ThreadPoolExecutor(1) as pool:  # hashing lets other threads run
        digest = pool.submit(lambda: hashlib.sha256(packed).hexdigest())
        data, header = _unpack(packed, path)
        shape_xyz = _check_shape(header, path)
        affine, form_warnings = _find_affine(header, shape_xyz, path)
        kind, count = _find_type(header, path), int(np.prod(shape_xyz))
        stored = np.frombuffer(data, kind, count, int(header["offset"])).reshape(shape_xyz[::-1])
        slope, intercept = _find_scale(header)
        hu, hu_warnings = to_hu(stored, slope=slope, intercept=intercept)
        scaled = (slope, intercept) != (1.0, 0.0)
        source = CTSource(
            ct_format=CTFormat.NIFTI,
            hu_source=HuSource.HEADER if scaled else HuSource.ASSUMED,
            n_bytes=len(packed),
            sha256=digest.result(),
            warnings=form_warnings + hu_warnings,
        )
    return CTVolume(hu=hu, patient_from_voxel=affine, source=source)


def _unpack(packed: bytes, path: Path) -> tuple[bytes, np.void]:
    """Unpack the file, never beyond what its header announces: a bomb stays packed."""
    if not packed.startswith(_GZIP_MAGIC):
        header = _read_header(packed, path)
        data = packed
    else:
        header = _read_header(_inflate(packed, _V2.itemsize, path), path)
        data = _inflate(packed, _find_length(header, path) + _SPARE_BYTES, path)
    wanted = _find_length(header, path)
    if len(data) < wanted:
        raise _truncated(path, f"found {len(data)} bytes of image, wanted {wanted}")
    return data, header


def _inflate(packed: bytes, limit: int, path: Path) -> bytes:
    """Decompress up to a limit; a stream may have several members."""
    parts, length, rest = [], 0, packed
    try:
        while length < limit and rest.startswith(_GZIP_MAGIC):
            decoder = isal_zlib.decompressobj(wbits=_GZIP_BITS)
            parts.append(decoder.decompress(rest, limit - length))
            length += len(parts[-1])
            rest = decoder.unused_data
            if not decoder.eof and length < limit:
                raise _truncated(path, "found a gzip stream without its end")
    except isal_zlib.error as error:  # type: ignore[misc]
        raise _truncated(path, "found a broken gzip stream") from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_header(data: bytes, path: Path) -> np.void:
    """Read the header of either version and byte order, as one record of native numbers."""
    for version in (_V1, _V2):
        for order in "<>":
            if np.frombuffer(data[:4].ljust(4, b"\0"), order + "i4")[0] != version.itemsize:
                continue
            if len(data) < version.itemsize:
                raise _truncated(path, f"found {len(data)} bytes, wanted {version.itemsize}")
            record: np.void = np.frombuffer(data, version.newbyteorder(order), 1)[0]  # type: ignore[arg-type]
            return record
    if len(data) < _V1.itemsize:
        raise _truncated(path, f"found {len(data)} bytes, wanted a header of {_V1.itemsize}")
    raise _refuse(Reason.NO_IMAGE, path, "found no NIfTI header, wanted its size 348 or 540 first")


def _check_shape(header: np.void, path: Path) -> tuple[int, int, int]:
    """Check that the file holds one 3-D image; return its size x, y, z."""
    rank = int(header["dim"][0])
    if not 3 <= rank <= 7:
        raise _refuse(Reason.NO_IMAGE, path, f"found {rank} dimensions, wanted 3")
    dim = [int(n) for n in header["dim"][1 : rank + 1]]
    if min(dim) < 1 or int(np.prod(dim, dtype=object)) > MAX_VOXELS:
        raise _refuse(Reason.NO_IMAGE, path, f"found a size of {dim}, which no CT has")
    if max(dim[3:], default=1) > 1:
        raise _refuse(Reason.MULTI_PHASE, path, f"found {dim[3:]} volumes, wanted one")
    if dim[2] < MIN_SLICES:
        raise _refuse(Reason.TOO_FEW_SLICES, path, f"found {dim[2]} slices, wanted {MIN_SLICES}")
    return dim[0], dim[1], dim[2]


def _find_type(header: np.void, path: Path) -> "np.dtype[np.generic]":
    """Find the type of a stored voxel, in the byte order of the file."""
    code = int(header["datatype"])
    if code not in _TYPES:
        raise _refuse(Reason.NOT_CT, path, f"found data type {code}, wanted one number a voxel")
    return np.dtype(_TYPES[code]).newbyteorder(header.dtype["datatype"].byteorder)


def _find_length(header: np.void, path: Path) -> int:
    """Find how long the unpacked file must be [bytes]."""
    offset = float(header["offset"])
    if not header.dtype.itemsize <= offset <= _SPARE_BYTES:
        raise _refuse(Reason.NO_IMAGE, path, f"found the voxels at byte {offset:g}")
    count = int(np.prod(_check_shape(header, path), dtype=object))
    return int(offset) + count * _find_type(header, path).itemsize


def _find_scale(header: np.void) -> tuple[float, float]:
    """Find slope and intercept; a slope of 0 or NaN means that there is no scale."""
    slope, intercept = float(header["slope"]), float(header["inter"])
    if not np.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    return slope, intercept if np.isfinite(intercept) else 0.0


def _find_affine(
    header: np.void, shape_xyz: tuple[int, int, int], path: Path
) -> tuple[Matrix4, tuple[str, ...]]:
    """Find voxel to patient LPS; sform first, then qform, and never a guess."""
    unit = int(header["units"]) & _SPACE_UNIT_BITS
    if unit not in _MM_PER_UNIT:
        raise _refuse(Reason.METADATA_MISSING, path, f"found unit code {unit}, wanted millimetres")
    to_mm = np.diag([_MM_PER_UNIT[unit]] * 3 + [1.0])
    forms = []
    if int(header["sform"]) > 0:
        forms.append(np.vstack([np.asarray(header["rows"], dtype=float), [0.0, 0.0, 0.0, 1.0]]))
    if int(header["qform"]) > 0:
        forms.append(_read_qform(header))
    if not forms:
        raise _refuse(
            Reason.NO_ORIENTATION, path, "found neither sform nor qform, wanted one of them"
        )
    matrices = [_LPS_FROM_RAS @ to_mm @ form for form in forms]
    try:
        check_grid(matrices[0])
    except GeometryError as error:
        raise _refuse(Reason.NO_ORIENTATION, path, f"the grid is unusable: {error}") from error
    far = np.array([[x, y, z, 1.0] for x in (0, shape_xyz[0] - 1) for y in (0, shape_xyz[1] - 1)
                    for z in (0, shape_xyz[2] - 1)])  # fmt: skip
    differ = [np.abs(far @ (other - matrices[0]).T).max() > FORMS_TOL_MM for other in matrices[1:]]
    return matrices[0], (FORMS_DIFFER,) if any(differ) else ()


def _read_qform(header: np.void) -> Matrix4:
    """Build the matrix of a quaternion, spacings and an origin."""
    b, c, d = (float(x) for x in header["quaternion"])
    a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    rotation = np.array([
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ])  # fmt: skip
    pixdim = np.asarray(header["pixdim"], dtype=float)
    handed = -1.0 if pixdim[0] < 0 else 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * pixdim[1:4] * [1.0, 1.0, handed]
    matrix[:3, 3] = np.asarray(header["origin"], dtype=float)
    return matrix


def _truncated(path: Path, detail: str) -> VolumeError:
    """Make the error of a file that ends too early."""
    return VolumeError(Reason.TRUNCATED_FILE, path, detail, remedy="copy or download it again")


def _refuse(reason: Reason, path: Path, detail: str) -> VolumeError:
    """Make the error of a file that holds something else."""
    return VolumeError(
        reason, path, detail, remedy="convert it again to one 3-D CT with its orientation"
    )
