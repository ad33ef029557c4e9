"""What a search for CT finds: the files of each CT, and what was left aside."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drrgen.choices import CTFormat
from drrgen.io.stores import Place, open_place


@dataclass(frozen=True, slots=True, kw_only=True)
class CTFiles:
    """The files of one CT (one DICOM series, or one file), found but not yet read.

    Attributes:
        ct_format: File format.
        paths: The files; of a DICOM series sorted by name, which says nothing of slice order.
        name: What names it without moving when the root moves: the path under the root with
            forward slashes, or the SeriesInstanceUID (with ``#2`` and so on where the series holds
            several CT).
        n_bytes: Size of all files [bytes].
        mtime_ns: Time of the youngest change [ns since 1970].
        patient: PatientID of DICOM; None where the format names no patient.
        study_uid: StudyInstanceUID of DICOM; None elsewhere.
        series_uid: SeriesInstanceUID of DICOM, which several CT may share; None elsewhere.
        accession: AccessionNumber of DICOM; None elsewhere.
        rank: The higher, the better this series stands for its study.
        warnings: What was noticed when the files were sorted, one short word each.
        n_broken: Files beside these that are empty or broken and would seem to be part of them.
    """

    ct_format: CTFormat
    paths: tuple[Place, ...]
    name: str
    n_bytes: int
    mtime_ns: int
    patient: str | None = None
    study_uid: str | None = None
    series_uid: str | None = None
    accession: str | None = None
    rank: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()
    n_broken: int = 0

    @property
    def here(self) -> tuple[Path, ...]:
        """The files as those on this machine, which readers take; see ``volumes.stage_ct``."""
        return tuple(path for path in self.paths if isinstance(path, Path))

    def to_dict(self) -> dict[str, Any]:
        """Describe it in text, whole numbers, lists and None, so that JSON holds it exactly."""
        return asdict(self) | {
            "ct_format": self.ct_format.value,
            "paths": [str(path.absolute()) for path in self.paths],
            "rank": list(map(repr, self.rank)),  # JSON has no infinity
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "CTFiles":
        """Read what ``to_dict`` wrote."""
        return cls(**{
            **data,
            "ct_format": CTFormat(data["ct_format"]),
            "paths": tuple(map(open_place, data["paths"])),
            "rank": tuple(map(float, data["rank"])),
            "warnings": tuple(data["warnings"]),
        })  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Everything that lies under a folder, a file name or a glob.

    Attributes:
        root: Folder that names are relative to.
        found: One entry a CT, sorted by name.
        ignored: How many files were left aside, by why: ``not_ct``, ``label_map``, ``localizer``,
            ``secondary``, ``other_series`` and the like.
    """

    root: Place
    found: tuple[CTFiles, ...]
    ignored: Counter[str] = field(default_factory=Counter)
