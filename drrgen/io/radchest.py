"""RAD-ChestCT volumes: .npz with an array ``ct``, HU, 0.8 mm, slices from head to foot.

Source: Draelos et al., Medical Image Analysis 67:101857, 2021 (the resampling to 0.8 mm); the
direction of the slices as the data set's own documentation gives it.
"""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import Reason, VolumeError
from drrgen.io.hounsfield import to_hu
from drrgen.io.listing import CTFiles
from drrgen.volume import CTSource, CTVolume

SPACING_MM = 0.8
MAX_BYTES = 2**34
_MEMBER = "ct.npy"


def is_radchest(path: Path) -> bool:
    """Say whether an .npz holds an array ``ct``, or is too broken to tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _MEMBER in archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return True  # refused when it is read, rather than passed over in silence


def read_radchest(files: CTFiles) -> CTVolume:
    """Read a RAD-ChestCT volume. Pickled content is never loaded.

    Args:
        files: One file.

    Raises:
        VolumeError: Broken, truncated, or not a 3-D array of numbers.
        OSError: The file cannot be read.
    """
    path = files.paths[0]
    packed = path.read_bytes()
    stored = _read_array(packed, path)
    if stored.ndim != 3 or stored.dtype.kind not in "iuf" or 0 in stored.shape:
        raise VolumeError(
            Reason.NOT_CT, path, f"found {stored.dtype} {stored.shape}, wanted numbers (z, y, x)",
            remedy="check that it is a volume of RAD-ChestCT",
        )  # fmt: skip
    hu, warnings = to_hu(stored)
    return CTVolume(
        hu=hu,
        patient_from_voxel=np.diag([SPACING_MM, SPACING_MM, -SPACING_MM, 1.0]),
        source=CTSource(
            ct_format=CTFormat.RAD_CHESTCT,
            hu_source=HuSource.ASSUMED,
            n_bytes=len(packed),
            sha256=hashlib.sha256(packed).hexdigest(),
            warnings=warnings,
        ),
    )


def _read_array(packed: bytes, path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    """Read the array ``ct``, after a look at the size that its header announces."""
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            if archive.getinfo(_MEMBER).file_size > MAX_BYTES:
                raise VolumeError(
                    Reason.NO_IMAGE, path, "found an array larger than any CT",
                    remedy="check that it is a volume of RAD-ChestCT",
                )  # fmt: skip
            with archive.open(_MEMBER) as member:
                array: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = npy.read_array(
                    member, allow_pickle=False
                )
                return array
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError) as error:
        raise VolumeError(
            Reason.TRUNCATED_FILE, path, "found a broken .npz, wanted an array ct in it",
            remedy="copy or download it again",
        ) from error  # fmt: skip
