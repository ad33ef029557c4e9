"""Label maps on disk: finding the one that belongs to a CT, reading it, and writing projections.

A label map is one file with a number a voxel, or a folder with one binary mask a structure, named
by it (as TotalSegmentator writes them).
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16

from drrgen.errors import InputError, Reason, VolumeError
from drrgen.io.atomic import write_bytes
from drrgen.io.volumes import ENDINGS, read_file
from drrgen.structures import Structure, cut_structures

_TABLES = ("structures.csv", "labels.csv")
_NUMBER_COLUMNS = ("id", "label", "value", "index")
_NAME_COLUMNS = ("structure", "name", "label_name")
_LABEL_ENDING = ".seg.nrrd"
_SILHOUETTE_MM = 0.5  # of tissue: a ray that touches less misses the structure
_SEGMENT = re.compile(r"^Segment(\d+)_(Name|LabelValue):=(.*)$", re.MULTILINE)
_HEADER_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFiles:
    """The label map of one CT.

    Attributes:
        paths: One label map, or one binary mask a structure.
        table: CSV that names the numbers of a label map, if there is one.
        n_bytes: Size of all files [bytes].
        mtime_ns: Time of the youngest change [ns since 1970].
    """

    paths: tuple[Path, ...]
    table: Path | None
    n_bytes: int
    mtime_ns: int

    def to_dict(self) -> dict[str, Any]:
        """Describe it in text, whole numbers, lists and None, so that JSON holds it exactly."""
        return asdict(self) | {
            "paths": [str(path.absolute()) for path in self.paths],
            "table": str(self.table.absolute()) if self.table else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "MaskFiles":
        """Read what ``to_dict`` wrote."""
        return cls(**{
            **data,
            "paths": tuple(map(Path, data["paths"])),
            "table": Path(data["table"]) if data["table"] else None,
        })  # fmt: skip


def find_mask(root: Path, name: str) -> MaskFiles | None:
    """Find the label map that belongs to a CT.

    Args:
        root: A label map, which then belongs to every CT; or a folder where they lie as the CT do:
            under the CT's name with any ending, or in a folder of that name.
        name: Name of the CT: its path under its root, or its SeriesInstanceUID.

    Returns:
        Its files, or None where the folder holds none for this CT.

    Raises:
        InputError: Nothing is at ``root``.
    """
    if root.is_file():
        return _describe([root], [root.parent])
    if not root.is_dir():
        raise InputError(f"no label map is at {root}; give a file or a folder to --mask")
    stem = root / _strip(name)
    for ending in (_LABEL_ENDING, *ENDINGS):
        path = stem.with_name(stem.name + ending)
        if path.is_file():
            return _describe([path], [path.parent, root])
    if stem.is_dir():
        masks = sorted(path for path in stem.iterdir() if path.name.lower().endswith(ENDINGS))
        return _describe(masks, []) if masks else None
    return None


def read_structures(files: MaskFiles) -> list[Structure]:
    """Read the structures of a label map, or of a folder of masks.

    Args:
        files: Its files.

    Raises:
        VolumeError: A file cannot be read, or holds no label.
        OSError: A file cannot be read at all.
    """
    if len(files.paths) == 1:
        path = files.paths[0]
        volume = read_file(path)
        names = _read_names(files.table) if files.table else _read_segments(path)
        found = cut_structures(volume.hu, volume.patient_from_voxel, names)
    else:
        found = []
        for label, path in enumerate(files.paths, start=1):
            volume = read_file(path)
            inside = np.where(volume.hu > 0, np.int16(label), np.int16(0))
            found += cut_structures(inside, volume.patient_from_voxel, {label: _strip(path.name)})
    if not found:
        raise VolumeError(
            Reason.NO_IMAGE, files.paths[0], "found a label map without a label",
            remedy="check that it holds whole numbers above 0",
        )  # fmt: skip
    return found


def write_thickness(
    path: Path, structures: Sequence[Structure], thickness_mm: Float16[np.ndarray, "n v u"]
) -> None:
    """Write projected structures as NPZ: ``names``, ``labels``, ``thickness_mm``, ``silhouettes``.

    Thickness is float16, good to a quarter of a millimetre; silhouettes are bits, packed along the
    rows (``np.unpackbits(z["silhouettes"], axis=2, count=width)``).

    Args:
        path: Final name.
        structures: What was projected.
        thickness_mm: How much of each structure every ray passes [mm].
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        names=np.array([structure.name for structure in structures]),
        labels=np.array([structure.label for structure in structures], dtype=np.int32),
        thickness_mm=thickness_mm,
        silhouettes=np.packbits(thickness_mm > _SILHOUETTE_MM, axis=2),
    )
    write_bytes(path, buffer.getvalue())


def _describe(paths: list[Path], tables: list[Path]) -> MaskFiles:
    """Describe the files of one label map."""
    table = next((f / name for f in tables for name in _TABLES if (f / name).is_file()), None)
    stats = [path.stat() for path in paths]
    return MaskFiles(
        paths=tuple(paths),
        table=table,
        n_bytes=sum(stat.st_size for stat in stats),
        mtime_ns=max(stat.st_mtime_ns for stat in stats),
    )


def _strip(name: str) -> str:
    """Take the ending off a file name."""
    ending = next((end for end in ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def _read_names(path: Path) -> Mapping[int, str]:
    """Read a label table: a column of numbers and one of names."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
        number = next((columns[c] for c in _NUMBER_COLUMNS if c in columns), None)
        name = next((columns[c] for c in _NAME_COLUMNS if c in columns), None)
        if number is None or name is None:
            raise InputError(
                f"{path} has the columns {', '.join(columns)}; wanted one of "
                f"{', '.join(_NUMBER_COLUMNS)} and one of {', '.join(_NAME_COLUMNS)}"
            )
        return {int(row[number]): str(row[name]) for row in reader if (row[number] or "").isdigit()}


def _read_segments(path: Path) -> Mapping[int, str]:
    """Read the names that 3D Slicer writes into the header of a segmentation."""
    if not path.name.lower().endswith(_LABEL_ENDING):
        return {}
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES).split(b"\n\n", 1)[0].decode("utf-8", "replace")
    found: dict[str, dict[str, str]] = {}
    for index, key, value in _SEGMENT.findall(header):
        found.setdefault(index, {})[key] = value.strip()
    return {
        int(segment["LabelValue"]): segment["Name"]
        for segment in found.values()
        if segment.get("LabelValue", "").isdigit() and "Name" in segment
    }
