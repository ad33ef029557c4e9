"""From a folder of CT to a list of studies, each under a pseudonym."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from drrgen.choices import CTFormat
from drrgen.io.atomic import atomic_path
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


def write_locator(out: Path, studies: Sequence[Study]) -> Path | None:
    """Write where clinical CT lie, beside the output and never in it.

    A locator that is there already is extended: one row a sample.

    Args:
        out: Output folder; the locator goes to ``<out>.private/locator.parquet``.
        studies: Studies of this run; only DICOM is written.

    Returns:
        The file, or None when no study is DICOM.
    """
    rows = {
        study.sample_id: {
            "sample_id": study.sample_id,
            "patient": study.files.patient,
            "study_uid": study.files.study_uid,
            "series_uid": study.files.name,
            "paths": [str(path.absolute()) for path in study.files.paths],
        }
        for study in studies
        if study.files.ct_format is CTFormat.DICOM
    }
    if not rows:
        return None
    path = find_private(out) / "locator.parquet"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists():
        old = pq.read_table(path).to_pylist()
        rows = {row["sample_id"]: row for row in old} | rows
    table = pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=_LOCATOR_SCHEMA)
    with atomic_path(path) as partial:
        pq.write_table(table, partial, compression="zstd")
    return path


_LOCATOR_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("patient", pa.string()),
        ("study_uid", pa.string()),
        ("series_uid", pa.string()),
        ("paths", pa.list_(pa.string())),
    ]
)


def find_private(out: Path) -> Path:
    """Name the folder beside an output that holds what must not be shared."""
    whole = out.absolute()
    return whole.with_name(whole.name + ".private")


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
