"""What a search for radiographs finds, before any is decoded."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drrgen.errors import InputError
from drrgen.io.dicom_header import Skip, quiet, read_header
from drrgen.io.volumes import list_files, make_printable

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
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

    path: Path
    name: str
    n_bytes: int
    mtime_ns: int
    is_dicom: bool = False
    patient: str | None = None
    study_uid: str | None = None
    accession: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Describe it in text, whole numbers and None, so that JSON holds it exactly."""
        return asdict(self) | {"path": str(self.path), "is_dicom": int(self.is_dicom)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RadiographFile":
        """Read what ``to_dict`` wrote."""
        return cls(**{**data, "path": Path(data["path"]), "is_dicom": bool(data["is_dicom"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class RadiographListing:
    """Every radiograph under a folder, a file name or a glob.

    Attributes:
        root: Folder that names are relative to.
        found: One entry a file, sorted by name.
        ignored: How many files were left aside, by why.
    """

    root: Path
    found: tuple[RadiographFile, ...]
    ignored: Counter[str]


def find_radiographs(path: Path | str) -> RadiographListing:
    """Find every radiograph under a folder, in a file or behind a glob.

    Pictures are told by the end of their name, DICOM by its content.

    Args:
        path: Folder (searched in depth), file or glob.

    Raises:
        InputError: Nothing is there, or no radiograph is among it.
    """
    ignored: Counter[str] = Counter()
    root, files = list_files(str(path), ignored)
    found = []
    with quiet():
        for file in files:
            entry = _describe(file, root)
            if entry is None:
                ignored["not_radiograph"] += 1
            else:
                found.append(entry)
    if not found:
        raise InputError(
            f"no radiograph in {path}: looked at {len(files)} files, wanted DICOM, PNG, JPEG or "
            "TIFF; check the path"
        )
    found.sort(key=lambda entry: entry.name)
    return RadiographListing(root=root, found=tuple(found), ignored=ignored)


def _describe(path: Path, root: Path) -> RadiographFile | None:
    """Describe a file; None for one that is neither picture nor DICOM."""
    status = path.stat()
    entry = RadiographFile(
        path=path,
        name=make_printable(path.relative_to(root).as_posix()),
        n_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
    )
    if path.name.lower().endswith(PICTURE_ENDINGS):
        return entry
    header = read_header(path)
    if isinstance(header, Skip):
        return entry if path.name.lower().endswith(DICOM_ENDINGS) else None
    return RadiographFile(
        path=path, name=entry.name, n_bytes=entry.n_bytes, mtime_ns=entry.mtime_ns, is_dicom=True,
        patient=header.patient or None, study_uid=header.study_uid or None,
        accession=header.accession or None,
    )  # fmt: skip
