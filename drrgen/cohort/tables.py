"""The tables and texts beside the volumes, named as a user's own data would be."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from drrgen.cohort.kinds import ALL_LABELS, MOST_OF_A_KIND, Kind, number_mask
from drrgen.errors import Status
from drrgen.io.atomic import write_bytes
from drrgen.manifest import Row

METADATA = (
    "volume", "patient", "scan", "reconstruction", "months", "sex", "age", "contrast", "kernel",
    "noise_hu", "spacing_x_mm", "spacing_y_mm", "spacing_z_mm", "cardiothoracic_ratio", "ct_path",
    "mask_path",
)  # fmt: skip
README = """A COHORT OF VIRTUAL PATIENTS

This is a test article, not medical data. No patient in it exists.

Every volume was made from one real chest CT, LIDC-IDRI-0001, by smooth deformation,
noise, and findings that a program drew into it. Nothing measured on it says anything
about any clinical population, and nothing in it is for diagnosis. All patients share
one person's ribs, vessels and texture. Findings are idealized: their frequency, size
and appearance come from a table of settings, their reports from templates.

Credit for the CT: Armato SG III et al., The Lung Image Database Consortium (LIDC) and
Image Database Resource Initiative (IDRI): a completed reference database of lung
nodules on CT scans, Medical Physics 38:915-931, 2011; The Cancer Imaging Archive, CC BY 3.0.

  ct/             the volumes: virtual_<patient>_<scan a, b, c>_<reconstruction>
  masks/          a label map of the planted findings for each volume, and structures.csv
  reports.csv     volume, findings, impression
  labels.csv      volume, and a column a label: 1 present, 0 absent, empty unknown
  metadata.csv    volume, patient, scan, reconstruction, sex, age, contrast, kernel, ...
  findings.csv    every planted finding: place, size, volume, centre (LPS, mm), and how
                  well it shows in PA and LL: contrast is the mean difference of the
                  line integral in its shadow, visibility is that divided by the
                  standard deviation of the anatomy around it
  manifest/       the same as Parquet, a row a volume, and how each was made

Labels are exact for what was planted. Pulmonary fibrotic sequela, mosaic attenuation
pattern, peribronchial thickening, bronchiectasis and interlobular septal thickening
are not modeled: their columns are empty.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How often every label is true, and how often two are together, among the volumes.

    Attributes:
        volumes: All volumes.
        patients: All patients.
        without: Patients that never have a finding.
        failed: Patients that could not be made.
        present: Volumes with a label.
        known: Volumes in which a label is known.
        together: Volumes with both of two labels.
        reports: Distinct reports.
    """

    volumes: int
    patients: int
    without: int
    failed: int
    present: Counter[str]
    known: Counter[str]
    together: Counter[tuple[str, str]]
    reports: int


def read_cohort(out: Path) -> list[Row]:
    """Read the rows of a cohort, in the order of the volumes."""
    parts = sorted((out / "manifest").glob("part-*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return sorted(rows, key=lambda row: (row["sample_id"], row["volume"] or ""))


def write_tables(out: Path, rows: Sequence[Row]) -> None:
    """Write all tables of a cohort, and say what it is.

    Args:
        out: Output folder.
        rows: Of ``read_cohort``.
    """
    good = [row for row in rows if row["status"] == Status.OK]
    _write_csv(
        out / "reports.csv",
        ("volume", "findings", "impression"),
        ((row["volume"], row["report_findings"], row["report_impression"]) for row in good),
    )
    labels = [(row["volume"], {x["name"]: x["value"] for x in row["labels"]}) for row in good]
    _write_csv(
        out / "labels.csv",
        ("volume", *ALL_LABELS),
        ((volume, *(known.get(label) for label in ALL_LABELS)) for volume, known in labels),
    )
    _write_csv(out / "metadata.csv", METADATA, ([row[c] for c in METADATA] for row in good))
    found = [(row["volume"], finding) for row in good for finding in row["findings"]]
    columns = tuple(found[0][1]) if found else ()
    _write_csv(
        out / "findings.csv",
        ("volume", *columns),
        ((volume, *finding.values()) for volume, finding in found),
    )
    _write_csv(
        out / "masks" / "structures.csv",
        ("id", "structure"),
        (
            (number_mask(kind, i), f"{kind.value}_{i}")
            for kind in Kind
            for i in range(1, MOST_OF_A_KIND + 1)
        ),
    )
    write_bytes(out / "README.txt", README.encode())


def find_balance(rows: Sequence[Row]) -> Balance:
    """Count labels, and pairs of them.

    Args:
        rows: Of ``read_cohort``.
    """
    good = [row for row in rows if row["status"] == Status.OK]
    present, known = Counter[str](), Counter[str]()
    together = Counter[tuple[str, str]]()
    sick = {row["patient"] for row in good if row["findings"]}
    patients = {row["patient"] for row in good}
    for row in good:
        true = [x["name"] for x in row["labels"] if x["value"] == 1]
        present.update(true)
        known.update(x["name"] for x in row["labels"])
        together.update(combinations(sorted(true, key=ALL_LABELS.index), 2))
    return Balance(
        volumes=len(good),
        patients=len(patients),
        without=len(patients - sick),
        failed=len({row["patient"] for row in rows} - patients),
        present=present,
        known=known,
        together=together,
        reports=len({(row["report_findings"], row["report_impression"]) for row in good}),
    )


def _write_csv(path: Path, columns: Sequence[str], lines: Iterable[Iterable[Any]]) -> None:
    """Write a table; numbers with six digits, nothing for null."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_show(value) for value in line] for line in lines)
    write_bytes(path, text.getvalue().encode())


def _show(value: object) -> object:
    """Write a value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return int(value)
    return f"{value:.6g}" if isinstance(value, float) else value
