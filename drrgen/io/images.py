"""NRRD and MetaImage, read by ourselves: their headers are text, and their voxels plain or zlib.

ITK takes the identity for an orientation that is not there, opens any file that a header names and
asks for the memory that it announces; here that is refused.

Source: the NRRD format definition at teem.sourceforge.net/nrrd/format.html; the MetaIO
documentation of ITK (TransformMatrix holds the direction of one axis after the other).
"""

import io
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import Reason, VolumeError
from drrgen.io.grids import check_slices, settle_grid
from drrgen.io.hounsfield import clean_hu, to_hu
from drrgen.io.listing import CTFiles
from drrgen.io.packed import (
    Packing,
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

_HEADER_BYTES = 2**20
_NRRD_MAGIC = re.compile(r"NRRD000\d\s*$")
_NRRD_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_NRRD_KINDS = {word: kind for kind, words in _NRRD_TYPES.items() for word in words.split(", ")}
_META_KINDS = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NRRD_SPELLINGS = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}
_META_SPELLINGS = {
    "Rotation": "TransformMatrix", "Orientation": "TransformMatrix", "Position": "Offset",
    "Origin": "Offset",
}  # fmt: skip
_LPS_FROM_SPACE = {
    "left-posterior-superior": (1.0, 1.0, 1.0), "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0), "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0), "las": (1.0, -1.0, 1.0),
}  # fmt: skip
_PLACE_WORDS = {"space", "space directions", "TransformMatrix", "Offset", "ElementSpacing"}
_SERIES_KINDS = {"list", "time", "none", "domain", "space", "???", ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """What a header says: the grid, and where the voxels are.

    Attributes:
        shape_xyz: Size of the array.
        kind: Type of a voxel as stored.
        matrix: Voxel index to patient LPS [mm].
        packing: How the voxels are packed.
        data: File that holds them.
        start: Where they begin in it; -1: they end where the file ends [bytes].
        line_skip: Lines to pass over first.
        byte_skip: Bytes to pass over next, unpacked; -1 as for ``start``.
    """

    shape_xyz: tuple[int, int, int]
    kind: "np.dtype[np.generic]"
    matrix: Matrix4
    packing: Packing
    data: Path
    start: int = 0
    line_skip: int = 0
    byte_skip: int = 0


def read_image(files: CTFiles) -> CTVolume:
    """Read a CT from NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd).

    Args:
        files: The header, or the one file; the data file that it names is found beside it.

    Raises:
        VolumeError: Broken, without orientation, or not one 3-D image of one number a voxel.
        OSError: The file cannot be read.
    """
    path = files.here[0]
    head = read_head(path, _HEADER_BYTES)
    if not head:
        raise truncated(path, "found an empty file")
    read_layout = _read_nrrd if files.ct_format is CTFormat.NRRD else _read_metaimage
    layout = read_layout(head, path)
    check_slices(layout.shape_xyz[2], path)
    matrix, words = settle_grid(layout.matrix, layout.shape_xyz, path)
    n_bytes = layout.data.stat().st_size
    check_size(layout.shape_xyz[::-1], layout.kind.itemsize, n_bytes, path)
    parts = [path] if layout.data == path else [path, layout.data]
    with ThreadPoolExecutor(1) as pool, open_regular(layout.data) as file:
        digest = pool.submit(digest_files, parts)
        hu, hu_words = to_hu(_read_stored(file, layout, n_bytes, path))
        words += hu_words + clean_hu(hu)
        return CTVolume(
            hu=hu,
            patient_from_voxel=matrix,
            source=CTSource(
                ct_format=files.ct_format,
                hu_source=HuSource.ASSUMED,
                n_bytes=sum(part.stat().st_size for part in parts),
                sha256=digest.result(),
                warnings=words,
            ),
        )


def _read_stored(file: io.FileIO, layout: _Layout, n_bytes: int, path: Path) -> np.ndarray:
    """Read the voxels, and see that nothing follows them."""
    needed = int(np.prod(layout.shape_xyz, dtype=object)) * layout.kind.itemsize
    if -1 in (layout.start, layout.byte_skip):
        if n_bytes < needed or layout.packing is not Packing.NONE:
            raise truncated(path, f"found {n_bytes} bytes of voxels, wanted {needed}")
        file.seek(n_bytes - needed)
    else:
        file.seek(layout.start)
        _skip_lines(file, layout.line_skip, path)
    stream = unpack(file, layout.packing)
    if layout.byte_skip > 0:
        read_bytes(stream, layout.byte_skip, path)
    stored = read_voxels(stream, layout.shape_xyz[::-1], layout.kind, path)
    check_end(stream, path, spare=0)
    return stored


def _skip_lines(file: io.FileIO, count: int, path: Path) -> None:
    """Pass over lines before the voxels."""
    start = file.tell()
    parts = file.read(_HEADER_BYTES).split(b"\n", count) if count else [b""]
    if len(parts) <= count:
        raise truncated(path, f"found fewer than {count} lines before the voxels")
    file.seek(start + sum(len(part) + 1 for part in parts[:count]))


def _read_nrrd(head: bytes, path: Path) -> _Layout:
    """Read the header of a NRRD."""
    ending = re.search(rb"\r?\n\r?\n", head)
    lines = head[: ending.start() if ending else None].decode("latin-1").splitlines()
    if not lines or not _NRRD_MAGIC.match(lines[0]):
        raise _refuse(Reason.NO_IMAGE, path, "found no NRRD header")
    pairs = (re.match(r"([^#:][^:]*):(?!=)\s*(.*)", line) for line in lines[1:])
    fields = {pair[1].strip().lower(): pair[2].strip() for pair in pairs if pair}
    fields = {_NRRD_SPELLINGS.get(name, name): value for name, value in fields.items()}
    _check_nrrd_axes(fields, path)
    data, start = path, ending.end() if ending else len(head)
    if "data file" in fields:
        data, start = _find_data(fields["data file"], path), 0
    elif not ending:
        raise truncated(path, "found no end of the header")
    encoding = fields.get("encoding", "").lower()
    packing = {"raw": Packing.NONE, "gzip": Packing.GZIP, "gz": Packing.GZIP}.get(encoding)
    if packing is None:
        raise _refuse(Reason.NO_IMAGE, path, f"found encoding {encoding!r}, wanted raw or gzip")
    kind = _read_kind(_NRRD_KINDS, fields, "type", path)
    order = fields.get("endian", "").lower()
    if kind.itemsize > 1 and order not in ("little", "big"):
        raise _refuse(Reason.METADATA_MISSING, path, "found no endian, wanted little or big")
    return _Layout(
        shape_xyz=_read_shape(fields, "sizes", path),
        kind=kind.newbyteorder("<" if order == "little" else ">"),
        matrix=_find_nrrd_matrix(fields, path),
        packing=packing,
        data=data,
        start=start,
        line_skip=_read_skip(fields, "line skip", path, lowest=0),
        byte_skip=_read_skip(fields, "byte skip", path, lowest=-1),
    )


def _check_nrrd_axes(fields: dict[str, str], path: Path) -> None:
    """Refuse what is not three axes of space with one number a voxel."""
    (rank,) = _read_whole(fields, "dimension", 1, path)
    if rank == 3:
        return
    axes = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    kinds = fields.get("kinds", "").lower().split() or [""] * rank
    odd = {kind for kind, axis in zip(kinds, axes, strict=False) if axis == "none"}
    if rank > 3 and odd <= _SERIES_KINDS:
        raise _refuse(Reason.MULTI_PHASE, path, f"found {rank} axes, wanted one volume")
    wanted = "wanted 3 of one number a voxel"
    raise _refuse(
        Reason.NOT_CT if rank > 3 else Reason.NO_IMAGE, path, f"found {rank} axes, {wanted}"
    )


def _find_nrrd_matrix(fields: dict[str, str], path: Path) -> Matrix4:
    """Find voxel to patient LPS."""
    space = _LPS_FROM_SPACE.get(_read_text(fields, "space", path).lower())
    if space is None:
        raise _refuse(Reason.NO_ORIENTATION, path, "found a space that is not of the patient")
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "")))
    if units - {"mm", ""}:
        raise _refuse(Reason.METADATA_MISSING, path, f"found units {sorted(units)}, wanted mm")
    axes = _read_vectors(fields, "space directions", path)
    if len(axes) != 3:
        raise _refuse(Reason.NO_ORIENTATION, path, f"found {len(axes)} space directions, wanted 3")
    if "space origin" not in fields:
        raise _refuse(Reason.NO_POSITION, path, "found no line 'space origin' in the header")
    (origin,) = _read_vectors(fields, "space origin", path)[:1] or [[np.nan] * 3]
    matrix = np.eye(4)
    matrix[:3] = np.diag(space) @ np.array([*axes, origin]).T
    return matrix


def _read_vectors(fields: dict[str, str], name: str, path: Path) -> list[list[float]]:
    """Read vectors of three numbers in brackets."""
    found = []
    for text in re.findall(r"\(([^)]*)\)", _read_text(fields, name, path)):
        found.append(_to_floats(text.split(","), name, path))
        if len(found[-1]) != 3:
            raise _refuse(Reason.NO_ORIENTATION, path, f"found {name} that are not in space")
    return found


def _read_metaimage(head: bytes, path: Path) -> _Layout:
    """Read the header of a MetaImage."""
    ending = re.search(rb"^ElementDataFile[ \t]*=[^\n]*(\n|\Z)", head, re.MULTILINE)
    text = head[: ending.end() if ending else None].decode("latin-1")
    fields = dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*?)\s*$", text, re.MULTILINE))
    if "NDims" not in fields or not ending:
        if re.match(r"\s*\w+\s*=", text) and len(head) < _HEADER_BYTES:
            raise truncated(path, "found a MetaImage header without its end")
        raise _refuse(Reason.NO_IMAGE, path, "found no MetaImage header")
    _check_meta_axes(fields, path)
    local = fields["ElementDataFile"] in ("LOCAL", "Local", "local")
    big = any(_is_true(fields, word) for word in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    if not _is_true(fields, "BinaryData"):
        raise _refuse(Reason.NO_IMAGE, path, "found voxels as text, wanted them binary")
    fields = {_META_SPELLINGS.get(name, name): value for name, value in fields.items()}
    matrix = np.eye(4)
    axes = _read_floats(fields, "TransformMatrix", 9, path)
    spacing = _read_floats(fields, "ElementSpacing", 3, path)
    matrix[:3, :3] = np.array(axes).reshape(3, 3).T * spacing
    matrix[:3, 3] = _read_floats(fields, "Offset", 3, path)
    return _Layout(
        shape_xyz=_read_shape(fields, "DimSize", path),
        kind=_read_kind(_META_KINDS, fields, "ElementType", path).newbyteorder(">" if big else "<"),
        matrix=matrix,
        packing=Packing.ZLIB if _is_true(fields, "CompressedData") else Packing.NONE,
        data=path if local else _find_data(fields["ElementDataFile"], path),
        start=ending.end() if local else _read_skip(fields, "HeaderSize", path, lowest=-1),
    )


def _check_meta_axes(fields: dict[str, str], path: Path) -> None:
    """Refuse what is not three axes with one number a voxel."""
    (rank,) = _read_whole(fields, "NDims", 1, path)
    (channels,) = _read_whole({"ElementNumberOfChannels": "1"} | fields,
                              "ElementNumberOfChannels", 1, path)  # fmt: skip
    if channels != 1:
        raise _refuse(Reason.NOT_CT, path, f"found {channels} numbers a voxel, wanted one")
    if rank != 3:
        reason = Reason.MULTI_PHASE if rank > 3 else Reason.NO_IMAGE
        raise _refuse(reason, path, f"found {rank} axes, wanted 3")


def _is_true(fields: dict[str, str], name: str) -> bool:
    """Read a switch; what is not there is off."""
    return fields.get(name, "").lower() in ("true", "t", "1", "yes")


def _find_data(name: str, path: Path) -> Path:
    """Find the file beside the header that holds the voxels; no other is ever opened."""
    if name == "LIST" or name.startswith("LIST ") or "%" in name:
        raise _refuse(Reason.NO_IMAGE, path, "found voxels spread over several files, wanted one")
    data = path.parent / name
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise _refuse(Reason.NO_IMAGE, path, "found a data file elsewhere, wanted it beside")
    if not data.exists():
        raise VolumeError(
            Reason.NO_IMAGE, path, "found no data file beside the header that names one",
            remedy="copy the data file too, under the name that the header gives",
        )  # fmt: skip
    return data


def _read_text(fields: dict[str, str], name: str, path: Path) -> str:
    """Read a line of the header that must be there."""
    if name not in fields:
        reason = Reason.NO_ORIENTATION if name in _PLACE_WORDS else Reason.METADATA_MISSING
        raise _refuse(reason, path, f"found no line {name!r} in the header")
    return fields[name]


def _read_kind(
    kinds: dict[str, str], fields: dict[str, str], name: str, path: Path
) -> "np.dtype[np.generic]":
    """Read the type of a voxel."""
    word = _read_text(fields, name, path)
    if word not in kinds:
        raise _refuse(Reason.NOT_CT, path, f"found type {word!r}, wanted one number a voxel")
    return np.dtype(kinds[word])


def _read_whole(fields: dict[str, str], name: str, count: int, path: Path) -> list[int]:
    """Read whole numbers of a line."""
    words = _read_text(fields, name, path).split()
    if len(words) != count or not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
        raise _refuse(Reason.NO_IMAGE, path, f"found {name} {words[:9]}, wanted {count} numbers")
    return [int(word) for word in words]


def _read_floats(fields: dict[str, str], name: str, count: int, path: Path) -> list[float]:
    """Read numbers of a line that tells where the grid is."""
    found = _to_floats(_read_text(fields, name, path).split(), name, path)
    if len(found) != count:
        raise _refuse(Reason.NO_ORIENTATION, path, f"found {name} of {len(found)}, wanted {count}")
    return found


def _to_floats(words: list[str], name: str, path: Path) -> list[float]:
    """Turn words into numbers."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise _refuse(Reason.NO_ORIENTATION, path, f"found {name} that are no numbers") from error


def _read_shape(fields: dict[str, str], name: str, path: Path) -> tuple[int, int, int]:
    """Read the size of the array."""
    x, y, z = _read_whole(fields, name, 3, path)
    if min(x, y, z) < 1:
        raise _refuse(Reason.NO_IMAGE, path, f"found a size of {x}x{y}x{z} voxels, which no CT has")
    return x, y, z


def _read_skip(fields: dict[str, str], name: str, path: Path, *, lowest: int) -> int:
    """Read how much to pass over before the voxels."""
    (count,) = _read_whole({name: "0"} | fields, name, 1, path)
    if not lowest <= count <= _HEADER_BYTES:
        raise _refuse(Reason.NO_IMAGE, path, f"found {name} {count}")
    return count


def _refuse(reason: Reason, path: Path, detail: str) -> VolumeError:
    """Make the error of a file that cannot be trusted."""
    return VolumeError(
        reason, path, detail, remedy="convert it again to one 3-D CT with its orientation"
    )
