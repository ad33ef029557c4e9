"""From a folder of CT to a list of studies, each under a pseudonym."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drrgen.choices import CTFormat
from drrgen.io.listing import CTFiles
from drrgen.io.structures import MaskFiles, find_mask
from drrgen.io.volumes import choose_series, find_ct
from drrgen.manifest import Row
from drrgen_pipelines.pseudonyms import make_pseudonym
from drrgen_pipelines.split import SPLIT_VERSION, find_split


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One CT to render, under the names by which the manifest knows it.

    Attributes:
        files: Its files.
        identity: The columns of the manifest that say which study it is and where it lies.
        mask: Its label map, where one was asked for and found.
    """

    files: CTFiles
    identity: Row
    mask: MaskFiles | None = None

    def to_dict(self) -> dict[str, Any]:
        """Describe it in plain types that JSON knows."""
        mask = self.mask.to_dict() if self.mask else None
        return {"files": self.files.to_dict(), "identity": self.identity, "mask": mask}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Study":
        """Read what ``to_dict`` wrote."""
        mask = MaskFiles.from_dict(data["mask"]) if data["mask"] else None
        return cls(
            files=CTFiles.from_dict(data["files"]), identity=dict(data["identity"]), mask=mask
        )

    @property
    def sample_id(self) -> str:
        """Pseudonym of data set, study and reconstruction."""
        return str(self.identity["sample_id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What was found, and what was left aside.

    Attributes:
        studies: Sorted by sample_id.
        ignored: Files or series left aside, counted by why.
    """

    studies: tuple[Study, ...]
    ignored: Counter[str]

    @property
    def n_studies(self) -> int:
        """How many there are."""
        return len(self.studies)


def find_studies(
    path: Path | str,
    *,
    dataset: str,
    salt: bytes,
    series: str = "best",
    limit: int | None = None,
    mask: Path | None = None,
) -> Discovery:
    """Find the CT to render.

    Args:
        path: Folder, file or glob.
        dataset: Name of the data set.
        salt: Key of the pseudonyms.
        series: Which series of a DICOM study: ``best``, ``all`` or a UID.
        limit: Take only so many, the first by name.
        mask: Label map, or folder of them.

    Raises:
        InputError: Nothing there, no CT in it, no such series, or no label maps.
    """
    listing = find_ct(path)
    chosen, left_aside = choose_series(listing.found, series)
    ignored = Counter(listing.ignored)
    if left_aside:
        ignored["other_series"] += left_aside
    studies = [_name_study(files, dataset, salt, mask) for files in chosen[:limit]]
    return Discovery(
        studies=tuple(sorted(studies, key=lambda study: study.sample_id)), ignored=ignored
    )


def _name_study(files: CTFiles, dataset: str, salt: bytes, mask: Path | None) -> Study:
    """Give a CT its pseudonyms, its split and its label map.

    A file that names no patient is a patient of its own: two CT of one person as two files cannot
    be recognised.
    """
    patient = files.patient or files.study_uid or files.name
    study = files.study_uid or files.name
    sample_id = make_pseudonym(salt, "sample", dataset, patient, study, files.name)
    series_id = make_pseudonym(salt, "series", dataset, files.name)
    clinical = files.ct_format is CTFormat.DICOM
    identity: Row = {
        "sample_id": sample_id,
        "draw": 0,
        "dataset": dataset,
        "patient_id": make_pseudonym(salt, "patient", dataset, patient),
        "study_id": make_pseudonym(salt, "study", dataset, study),
        "series_id": series_id,
        "recon_id": series_id,
        "split": find_split(salt, dataset, patient).value,
        "split_version": SPLIT_VERSION,
        "ct_ref": series_id if clinical else files.name,
        "ct_format": files.ct_format.value,
        "ct_bytes": files.n_bytes,
    }
    found = find_mask(mask, files.name) if mask else None
    return Study(files=files, identity=identity, mask=found)
