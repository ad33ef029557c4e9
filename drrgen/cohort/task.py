"""What is done for one virtual patient: its scans are made, written, and told in rows.

A row is a volume. The rows are a table of their own, with the findings inside; the tables that a
user's data would come with are written from them (see ``tables``).
"""

import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from drrgen.cohort.base import Base, find_source, read_base
from drrgen.cohort.grid import Grid, Zyx
from drrgen.cohort.kinds import LABELS_OF, Kind
from drrgen.cohort.patient import Patient, draw_patient
from drrgen.cohort.report import Text, write_report
from drrgen.cohort.scan import Planted, Study, make_study, reconstruct
from drrgen.cohort.settings import SIZES, CohortConfig, find_cohort_fingerprint
from drrgen.errors import DataError, DrrgenError, Reason, Status, status_of
from drrgen.io.atomic import digest_file
from drrgen.io.dicom_ct import CTFacts, write_ct_series
from drrgen.io.nifti import write_nifti
from drrgen.jobs.task import Item
from drrgen.jobs.threads import one_thread
from drrgen.manifest import Row
from drrgen.volume import CTVolume, Hu

log = logging.getLogger(__name__)

_FINDING = pa.struct([
    ("name", pa.string()), ("side", pa.string()), ("lobe", pa.string()), ("variant", pa.string()),
    ("size_mm", pa.float32()), ("severity", pa.string()), ("volume_ml", pa.float32()),
    ("center_x_mm", pa.float32()), ("center_y_mm", pa.float32()), ("center_z_mm", pa.float32()),
    ("contrast_pa", pa.float32()), ("contrast_ll", pa.float32()),
    ("visibility_pa", pa.float32()), ("visibility_ll", pa.float32()),
    ("mask_label", pa.int16()), ("labels", pa.string()),
])  # fmt: skip
_LABEL = pa.struct([("name", pa.string()), ("value", pa.int8())])
SCHEMA = pa.schema([
    ("sample_id", pa.string()), ("status", pa.string()), ("reason", pa.string()),
    ("detail", pa.string()), ("volume", pa.string()), ("patient", pa.string()),
    ("scan", pa.string()), ("reconstruction", pa.int16()), ("months", pa.int16()),
    ("sex", pa.string()), ("age", pa.int16()), ("contrast", pa.bool_()), ("kernel", pa.string()),
    ("noise_hu", pa.float32()), ("spacing_x_mm", pa.float32()), ("spacing_y_mm", pa.float32()),
    ("spacing_z_mm", pa.float32()), ("cardiothoracic_ratio", pa.float32()),
    ("seed", pa.int64()), ("ct_path", pa.string()), ("mask_path", pa.string()),
    ("report_findings", pa.string()), ("report_impression", pa.string()),
    ("labels", pa.list_(_LABEL)), ("findings", pa.list_(_FINDING)),
])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CohortTask:
    """Make virtual patients; runs in any process (see ``drrgen.jobs``).

    Attributes:
        out: Output folder.
        config: All settings.
        cache: Folder that keeps the real CT at its size.
    """

    out: Path
    config: CohortConfig
    cache: Path

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that touches a file: the settings and the real CT."""
        ct, mask, _ = find_source()
        return find_cohort_fingerprint(self.config, digest_file(ct) + digest_file(mask))

    def prepare(self) -> None:
        """Read the real CT, and load the compiled renderer, before the clock runs."""
        from drrgen.cohort.visibility import make_room

        base = self._read()
        coarse = Grid(shape=(8, 8, 8), spacing_mm=(9.0, 9.0, 9.0), origin_mm=(0.0, 0.0, 0.0))
        make_room(base.hu[:8, :8, :8].astype("float32"), coarse)

    def __call__(self, item: Item) -> list[Row]:
        """Make one patient into its rows; whatever goes wrong becomes a row."""
        with one_thread():
            return make_rows(int(item.payload), self)

    def files(self, rows: Sequence[Row]) -> list[str]:
        """Name the files that were written for some rows."""
        named = []
        for row in rows:
            if row["status"] == Status.OK:
                path = self.out / row["ct_path"]
                parts = sorted(path.iterdir()) if path.is_dir() else [path]
                named += [part.relative_to(self.out).as_posix() for part in parts]
                named.append(row["mask_path"])
        return named

    def failure(self, item: Item, reason: Reason, detail: str) -> list[Row]:
        """Make the row of a patient whose process died."""
        return [_make_failed_row(item.key, reason, detail)]

    def to_table(self, rows: Sequence[Row]) -> pa.Table:
        """Turn rows into a part of the table, in the order of the volumes."""
        ordered = sorted(rows, key=lambda row: (row["sample_id"], row["volume"] or ""))
        metadata = {b"drrgen_fingerprint": self.fingerprint.encode()}
        return pa.Table.from_pylist(ordered, schema=SCHEMA.with_metadata(metadata))

    def digest(self, item: Item) -> str:
        """Digest an item's input, which is its number alone."""
        return str(item.payload)

    def _read(self) -> Base:
        """Read the real CT, once in a process."""
        return read_base(SIZES[self.config.patients.size], self.cache)


def make_item(number: int) -> Item:
    """Wrap a patient's number for the runner."""
    return Item(key=f"virtual_{number:04d}", payload=number, n_bytes=0, mtime_ns=0)


def make_rows(number: int, task: CohortTask) -> list[Row]:
    """Make all scans of a patient, write them, and tell them in rows.

    Args:
        number: Of the patient, from 1.
        task: Settings and output folder.

    Returns:
        A row a volume; one row with a reason where something went wrong.
    """
    key = make_item(number).key
    try:
        return list(_make_patient(number, task))
    except DataError as error:
        return [_make_failed_row(key, error.code, f"{error.detail}; {error.remedy}")]
    except MemoryError:
        log.error("%s: out of memory", key)  # noqa: TRY400  where tells nothing
        detail = "the machine has too little memory for this size; use fewer workers"
        return [_make_failed_row(key, Reason.OUT_OF_MEMORY, detail)]
    except OSError as error:
        log.error("%s: output failed: %s", key, error)  # noqa: TRY400
        word = os.strerror(error.errno) if error.errno else type(error).__name__
        detail = f"{word}; see to the disk, and run the same command again"
        return [_make_failed_row(key, Reason.IO_ERROR, detail)]
    except Exception as error:  # noqa: BLE001  one bad patient costs one row
        log.error("%s: crashed\n%s", key, traceback.format_exc())  # noqa: TRY400
        shown = f": {error}" if isinstance(error, DrrgenError) else ""
        detail = f"{type(error).__name__}{shown}; the log has the traceback"
        return [_make_failed_row(key, Reason.CRASHED, detail)]


def _make_patient(number: int, task: CohortTask) -> Iterator[Row]:
    """Make a patient's scans one after the other: a later one remembers the earlier ones."""
    base = task._read()  # noqa: SLF001  its own
    patient = draw_patient(number, task.config, base)
    anchors: dict[int, Zyx] = {}
    before = None
    for visit in range(len(patient.scans)):
        study = make_study(patient, visit, base, anchors)
        text = write_report(study, before)
        before = study
        for number_ in range(len(study.scan.kernels)):
            yield _write(study, number_, text, task)


def _write(study: Study, number: int, text: Text, task: CohortTask) -> Row:
    """Write one reconstruction with its mask; tell it in a row."""
    name = f"{study.patient.key}_{study.scan.name}_{number + 1}"
    hu = reconstruct(study, number)
    volume = CTVolume(hu=hu, patient_from_voxel=study.grid.matrix)
    mask: Hu = study.mask
    mask_path = f"masks/{name}.nii.gz"
    write_nifti(task.out / mask_path, CTVolume(hu=mask, patient_from_voxel=study.grid.matrix))
    if task.config.patients.dicom:
        ct_path = f"ct/{name}"
        write_ct_series(task.out / ct_path, volume, _make_facts(study, name, number, task))
    else:
        ct_path = f"ct/{name}.nii.gz"
        write_nifti(task.out / ct_path, volume)
    return _describe(study, number, text) | {
        "volume": name,
        "ct_path": ct_path,
        "mask_path": mask_path,
        "seed": task.config.patients.seed,
    }


def _make_facts(study: Study, name: str, number: int, task: CohortTask) -> CTFacts:
    """Say in DICOM whose a series is."""
    return CTFacts(
        patient_id=study.patient.key,
        study=f"{study.patient.key}_{study.scan.name}",
        series=name,
        number=number + 1,
        kernel=study.scan.kernels[number],
        sex=_name_sex(study.patient),
        contrast=study.scan.contrast,
        version=f"{version('drrgen')} {task.fingerprint}",
    )


def _describe(study: Study, number: int, text: Text) -> Row:
    """Fill the columns of a volume."""
    patient, scan = study.patient, study.scan
    z, y, x = study.grid.spacing_mm
    labels = [{"name": name, "value": value} for name, value in study.labels.items()]
    return dict.fromkeys(SCHEMA.names) | {
        "sample_id": patient.key,
        "status": Status.OK.value,
        "patient": patient.key,
        "scan": scan.name,
        "reconstruction": number + 1,
        "months": scan.months,
        "sex": _name_sex(patient),
        "age": patient.age + scan.months // 12,
        "contrast": scan.contrast,
        "kernel": scan.kernels[number],
        "noise_hu": scan.noise_hu,
        "spacing_x_mm": x,
        "spacing_y_mm": y,
        "spacing_z_mm": z,
        "cardiothoracic_ratio": study.cardiothoracic_ratio,
        "report_findings": text.findings,
        "report_impression": text.impression,
        "labels": labels,
        "findings": [_describe_finding(each) for each in study.planted],
    }


def _describe_finding(planted: Planted) -> dict[str, Any]:
    """Fill the columns of a finding."""
    finding = planted.finding
    in_lobe = finding.place.endswith("lobe")
    pa, ll = planted.shadows
    z, y, x = planted.center_mm
    return {
        "name": finding.kind.value,
        "side": str(finding.side) if finding.side else None,
        "lobe": finding.place if in_lobe else None,
        "variant": finding.variant or (None if in_lobe else finding.place) or None,
        "size_mm": planted.size_mm,
        "severity": planted.severity or None,
        "volume_ml": planted.volume_ml,
        "center_x_mm": x,
        "center_y_mm": y,
        "center_z_mm": z,
        "contrast_pa": pa.contrast,
        "contrast_ll": ll.contrast,
        "visibility_pa": pa.contrast_to_noise,
        "visibility_ll": ll.contrast_to_noise,
        "mask_label": planted.mask_label,
        "labels": "; ".join(LABELS_OF[Kind(finding.kind)]),
    }


def _name_sex(patient: Patient) -> str:
    """Write the sex as DICOM does."""
    return "F" if patient.female else "M"


def _make_failed_row(key: str, reason: Reason, detail: str) -> Row:
    """Make the one row of a patient that could not be made."""
    return dict.fromkeys(SCHEMA.names) | {
        "sample_id": key,
        "patient": key,
        "status": status_of(reason).value,
        "reason": reason.value,
        "detail": detail,
    }
