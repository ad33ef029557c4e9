"""RAD-ChestCT volumes: .npz with an array ``ct``, HU, 0.8 mm, slices from head to foot.

The data set's own pipeline clips HU to [-1000, 1000], and its resampler filled what lay outside the
scan with the number of a pixel type, 8 or 9, which reads as water.

Source: Draelos et al., Medical Image Analysis 67:101857, 2021 (the resampling to 0.8 mm); the
direction of the slices and the filling as the data set's own pipeline has them.
"""

import io
import tokenize
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Shaped
from numpy.lib import format as npy

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import Reason, VolumeError
from drrgen.io.grids import check_slices
from drrgen.io.hounsfield import HU_CLIPPED, clean_hu, to_hu
from drrgen.io.listing import CTFiles
from drrgen.io.packed import check_size, digest_files, is_regular, open_regular, truncated
from drrgen.volume import AIR_HU, CTSource, CTVolume, Hu

SPACING_MM = 0.8
RIM_TO_AIR = "rim_to_air"
RIM_VALUES = (8, 9)
MAX_RIM = 8  # planes a side
CLIP_HU = (-1000, 1000)
_RIM_SHARE = 0.9
_MEMBER = "ct.npy"
_HEADER_BYTES = 2**12
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, RuntimeError,
               NotImplementedError, OverflowError, SyntaxError, TypeError,
               tokenize.TokenError)  # fmt: skip


def is_radchest(path: Path) -> bool:
    """Say whether an .npz holds an array ``ct``, or is too broken to tell."""
    try:
        if not is_regular(path):
            return True
        with zipfile.ZipFile(path) as archive:
            return _MEMBER in archive.namelist()
    except (OSError, *_ZIP_ERRORS):
        return True  # refused when it is read, rather than passed over in silence


def read_radchest(files: CTFiles) -> CTVolume:
    """Read a RAD-ChestCT volume. Pickled content is never loaded.

    Args:
        files: One file.

    Raises:
        VolumeError: Broken, truncated, or not a 3-D array of numbers.
        OSError: The file cannot be read.
    """
    path = files.here[0]
    with open_regular(path) as file, ThreadPoolExecutor(1) as pool:
        stored = _read_array(file, path)
        digest = pool.submit(digest_files, [path])
        hu, words = to_hu(stored)
        rim = _clear_rim(hu)
        words += ((RIM_TO_AIR,) if rim else ()) + clean_hu(hu)
        if HU_CLIPPED not in words and int(hu.max()) == CLIP_HU[1] and int(hu.min()) >= CLIP_HU[0]:
            words += (HU_CLIPPED,)
        source = CTSource(
            ct_format=CTFormat.RAD_CHESTCT,
            hu_source=HuSource.ASSUMED,
            n_bytes=path.stat().st_size,
            sha256=digest.result(),
            warnings=words,
        )
    grid = np.diag([SPACING_MM, SPACING_MM, -SPACING_MM, 1.0])
    return CTVolume(hu=hu, patient_from_voxel=grid, source=source)


def _read_array(file: io.FileIO, path: Path) -> Shaped[np.ndarray, "z y x"]:
    """Read the array ``ct``, once the size that its header announces makes sense."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if _MEMBER not in names:
                keys = ", ".join(sorted(name.removesuffix(".npy") for name in names[:8])) or "none"
                raise VolumeError(
                    Reason.METADATA_MISSING, path, f"found arrays {keys}, wanted one named ct",
                    remedy="check that it is a volume of RAD-ChestCT",
                )  # fmt: skip
            info = archive.getinfo(_MEMBER)
            with archive.open(info) as member:
                shape, kind = _read_npy_header(io.BytesIO(member.read(_HEADER_BYTES)), path)
            check_size(shape, kind.itemsize, info.compress_size, path)
            if info.file_size > _HEADER_BYTES + int(np.prod(shape, dtype=object)) * kind.itemsize:
                raise ValueError("more bytes than the array has")
            with archive.open(info) as member:
                array = npy.read_array(member, allow_pickle=False, max_header_size=_HEADER_BYTES)
                if member.read(1):  # and only at the end is the check sum looked at
                    raise ValueError("more bytes than the array has")
                return np.ascontiguousarray(array)
    except _ZIP_ERRORS as error:
        raise truncated(path, "found a broken .npz, wanted an array ct in it") from error


def _read_npy_header(
    head: io.BytesIO, path: Path
) -> tuple[tuple[int, int, int], "np.dtype[np.generic]"]:
    """Read size and type of an array."""
    version = npy.read_magic(head)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = read(head, max_header_size=_HEADER_BYTES)
    if kind.hasobject:
        raise ValueError("pickled objects, which are never opened")
    if len(shape) != 3 or kind.kind not in "iuf" or kind.itemsize > 8 or min(shape) < 1:
        raise VolumeError(
            Reason.NOT_CT, path, f"found {kind} {shape}, wanted numbers (z, y, x)",
            remedy="check that it is a volume of RAD-ChestCT",
        )  # fmt: skip
    check_slices(shape[0], path)
    return shape, kind


def _clear_rim(hu: Hu) -> int:
    """Turn the planes at each side that the resampler filled into air; return how many."""
    count = 0
    for axis in range(3):
        for planes in (range(MAX_RIM), range(-1, -MAX_RIM - 1, -1)):
            for index in planes:
                if hu.shape[axis] <= 2 * MAX_RIM:
                    break
                plane = np.moveaxis(hu, axis, 0)[index]
                filled = max(float(np.mean(plane == value)) for value in RIM_VALUES)
                if filled < _RIM_SHARE:
                    break
                plane[...] = AIR_HU
                count += 1
    return count
