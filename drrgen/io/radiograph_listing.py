"""What a search for radiographs finds, before any is decoded."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from drrgen.errors import InputError
from drrgen.io.dicom_header import Skip, SliceHeader, quiet, read_header
from drrgen.io.remote import RemoteFile, list_remote, read_remote_headers
from drrgen.io.stores import Place, open_place
from drrgen.io.volumes import list_files, make_printable

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_PICTURE_MARKS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
DICOM_ENDINGS = (".dcm", ".dicom")


@dataclass(frozen=True, slots=True, kw_only=True)
class RadiographFile:
    """A file that should hold a radiograph.

    Attributes:
        path: The file.
        name: Its path under the root, with forward slashes.
        n_bytes: Its size [bytes].
        mtime_ns: Time of its last change [ns since 1970].
        is_dicom: Whether it is DICOM.
        patient: PatientID of DICOM; None elsewhere.
        study_uid: StudyInstanceUID of DICOM; None elsewhere.
        accession: AccessionNumber of DICOM; None elsewhere.
    """

    path: Place
    name: str
    n_bytes: int
    mtime_ns: int
    is_dicom: bool = False
    patient: str | None = None
    study_uid: str | None = None
    accession: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Describe it in text, whole numbers and None, so that JSON holds it exactly."""
        return asdict(self) | {
            "path": str(self.path.absolute()),
            "is_dicom": int(self.is_dicom),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RadiographFile":
        """Read what ``to_dict`` wrote."""
        return cls(**{**data, "path": open_place(data["path"]), "is_dicom": bool(data["is_dicom"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class RadiographListing:
    """Every radiograph under a folder, a file name or a glob.

    Attributes:
        root: Folder that names are relative to.
        found: One entry a file, sorted by name.
        ignored: How many files were left aside, by why.
    """

    root: Place
    found: tuple[RadiographFile, ...]
    ignored: Counter[str]


def find_radiographs(path: Path | str) -> RadiographListing:
    """Find every radiograph under a folder, in a file or behind a glob.

    Pictures are told by the end of their name, DICOM and pictures without such an end by their
    content; in a store, only DICOM is told by its content.

    Args:
        path: Folder (searched in depth), file or glob.

    Raises:
        InputError: Nothing is there, or no radiograph is among it.
    """
    ignored: Counter[str] = Counter()
    place, root = open_place(path), open_place(path)
    if isinstance(place, Path):
        root, files = list_files(str(path), ignored)
        named = ((file, make_printable(file.relative_to(root).as_posix())) for file in files)
        looked = len(files)
        entries = [_describe(file, name, file.stat()) for file, name in named]
    else:
        root, remote = list_remote(place)
        looked = len(remote)
        entries = _describe_remote(remote)
    found = [entry for entry in entries if entry is not None]
    ignored["not_radiograph"] += looked - len(found)
    if not found:
        raise InputError(
            f"no radiograph in {path}: looked at {looked} files, wanted DICOM, PNG, JPEG or "
            "TIFF; check the path"
        )
    found.sort(key=lambda entry: entry.name)
    return RadiographListing(root=root, found=tuple(found), ignored=+ignored)


def _describe(path: Path, name: str, status: os.stat_result) -> RadiographFile | None:
    """Describe a file; None for one that is neither picture nor DICOM."""
    bare = RadiographFile(path=path, name=name, n_bytes=status.st_size, mtime_ns=status.st_mtime_ns)
    if name.lower().endswith(PICTURE_ENDINGS):
        return bare
    with quiet():
        found = _add_header(bare, read_header(path))
    return bare if found is None and _is_picture(path) else found


def _is_picture(path: Path) -> bool:
    """Tell PNG, JPEG and TIFF by their first bytes; what cannot be read is none."""
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(_PICTURE_MARKS)
    except OSError:
        return False


def _describe_remote(files: Sequence[RemoteFile]) -> list[RadiographFile | None]:
    """Describe objects of a store."""
    bare = {
        file.name: RadiographFile(
            path=file.place, name=file.name, n_bytes=file.n_bytes, mtime_ns=file.mtime_ns
        )
        for file in files
    }
    others = [file for file in files if not file.name.lower().endswith(PICTURE_ENDINGS)]
    told = {f.name: _add_header(bare[f.name], header) for f, header in read_remote_headers(others)}
    return [told.get(name, entry) for name, entry in bare.items()]


def _add_header(bare: RadiographFile, header: SliceHeader | Skip) -> RadiographFile | None:
    """Add what the header of a DICOM file tells; None for a file that is none."""
    if isinstance(header, Skip):
        return bare if bare.name.lower().endswith(DICOM_ENDINGS) else None
    return replace(
        bare, is_dicom=True, patient=header.patient or None, study_uid=header.study_uid or None,
        accession=header.accession or None,
    )  # fmt: skip
