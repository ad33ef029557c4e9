"""NRRD and MetaImage, read by SimpleITK once their own header says where the grid lies.

ITK takes the identity for an orientation that is not there; here that is refused.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  the name its own documentation uses

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import GeometryError, Reason, VolumeError
from drrgen.io.hounsfield import to_hu
from drrgen.io.listing import CTFiles
from drrgen.volume import CTSource, CTVolume

MAX_VOXELS = 2**32
MIN_SLICES = 3
_HEADER_BYTES = 2**16
_WANTED = {
    CTFormat.NRRD: (r"^space( dimension)?:", r"^space directions:"),
    CTFormat.METAIMAGE: (
        r"^(TransformMatrix|Rotation|Orientation)\s*=",
        r"^(Offset|Position|Origin)\s*=",
        r"^ElementSpacing\s*=",
    ),
}


def read_image(files: CTFiles) -> CTVolume:
    """Read a CT from NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd).

    Args:
        files: The header, or the one file; data files that it names are found beside it.

    Raises:
        VolumeError: Broken, without orientation, or not one 3-D image of one number a voxel.
        OSError: The file cannot be read.
    """
    path = files.paths[0]
    header = _read_header(path)
    _check_header(header, files.ct_format, path)
    image = _read_with_itk(path)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    hu, warnings = to_hu(sitk.GetArrayFromImage(image))
    parts = [path, *_find_data_files(header, path)]
    try:
        return CTVolume(
            hu=hu,
            patient_from_voxel=matrix,
            source=CTSource(
                ct_format=files.ct_format,
                hu_source=HuSource.ASSUMED,
                n_bytes=sum(part.stat().st_size for part in parts),
                sha256=_digest(parts),
                warnings=warnings,
            ),
        )
    except GeometryError as error:
        raise _refuse(Reason.NO_ORIENTATION, path, f"the grid is unusable: {error}") from error


def _read_header(path: Path) -> str:
    """Read the text before the voxels."""
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    if not head:
        raise VolumeError(
            Reason.TRUNCATED_FILE, path, "found an empty file", remedy="copy or download it again"
        )
    text = head.decode("latin-1").replace("\r\n", "\n")
    end = re.search(r"\n\n|^ElementDataFile\s*=.*$", text, re.MULTILINE)
    return text[: end.end()] if end else text


def _check_header(header: str, ct_format: CTFormat, path: Path) -> None:
    """Refuse a header that leaves the grid's place open."""
    for pattern in _WANTED[ct_format]:
        if not re.search(pattern, header, re.MULTILINE):
            word = pattern.strip("^").split("(")[0].split(r"\s")[0] or pattern
            raise _refuse(Reason.NO_ORIENTATION, path, f"found no line {word!r} in the header")


def _read_with_itk(path: Path) -> sitk.Image:
    """Read through SimpleITK; its exceptions hold paths and build lines, so none is passed on."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, rank = reader.GetSize(), reader.GetDimension()
        if rank != 3 or reader.GetNumberOfComponents() != 1:
            raise _refuse(
                Reason.NOT_CT, path,
                f"found {rank} axes of {reader.GetNumberOfComponents()} numbers, wanted 3 of 1",
            )  # fmt: skip
        if int(np.prod(size, dtype=object)) > MAX_VOXELS:
            raise _refuse(Reason.NO_IMAGE, path, f"found a size of {size}, which no CT has")
        if size[2] < MIN_SLICES:
            raise _refuse(
                Reason.TOO_FEW_SLICES, path, f"found {size[2]} slices, wanted {MIN_SLICES}"
            )
        return reader.Execute()
    except RuntimeError as error:
        raise VolumeError(
            Reason.TRUNCATED_FILE, path, "found a file that ITK cannot read to its end",
            remedy="copy or download it again",
        ) from error  # fmt: skip


def _find_data_files(header: str, path: Path) -> list[Path]:
    """Find the file beside the header that holds the voxels."""
    found = re.search(r"^(?:data file:|ElementDataFile\s*=)\s*(.+?)\s*$", header, re.MULTILINE)
    if not found or found[1] in ("LOCAL", "LIST"):
        return []
    data = path.parent / found[1]
    return [data] if data.is_file() else []


def _digest(parts: list[Path]) -> str:
    """Digest header and data."""
    hashed = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while chunk := file.read(2**20):
                hashed.update(chunk)
    return hashed.hexdigest()


def _refuse(reason: Reason, path: Path, detail: str) -> VolumeError:
    """Make the error of a file that cannot be trusted."""
    return VolumeError(reason, path, detail, remedy="write it again with its full orientation")
