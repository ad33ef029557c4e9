"""Where clinical CT lie: a table beside the output, and never in it."""

import io
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drrgen.errors import ManifestError
from drrgen.io.atomic import write_bytes
from drrgen.io.stores import Place
from drrgen.jobs.plan import find_private, make_private
from drrgen_pipelines.study import Study

_BATCH = 256
_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("patient", pa.string()),
        ("study_uid", pa.string()),
        ("series_uid", pa.string()),
        ("paths", pa.list_(pa.string())),
    ]
)


def note_locations(out: Place, studies: Iterable[Study]) -> Iterator[Study]:
    """Pass studies on, and in the end write where those of DICOM lie.

    A locator that is there already is extended: one row a sample. Rows are packed as they come, so
    that a large cohort costs little memory.

    Args:
        out: Output folder; the locator goes to ``<out>.private/locator.parquet``.
        studies: All studies of this run.

    Raises:
        ManifestError: The locator that is there is broken.
    """
    buffer, seen = io.BytesIO(), set[str]()
    with pq.ParquetWriter(buffer, _SCHEMA, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for study in studies:
            if study.is_clinical:
                seen.add(study.sample_id)
                rows.append(_describe(study))
            if len(rows) == _BATCH:
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
                rows = []
            yield study
        path = find_private(out) / "locator.parquet"
        rows += [row for row in _read_rows(path) if row["sample_id"] not in seen]
        writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
    if seen:
        make_private(out)
        write_bytes(path, buffer.getvalue())


def read_locator(out: Place) -> dict[str, dict[str, Any]]:
    """Read where the CT of an output lie, by sample; nothing where no locator is."""
    return {row["sample_id"]: row for row in _read_rows(find_private(out) / "locator.parquet")}


def _read_rows(path: Place) -> list[dict[str, Any]]:
    """Read the rows of a locator; none where there is none."""
    if not path.exists():
        return []
    try:
        return pq.read_table(io.BytesIO(path.read_bytes())).cast(_SCHEMA).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise ManifestError(
            f"{path} is broken; remove it and run the same command again: it is made anew for all "
            "CT that are still there"
        ) from error


def _describe(study: Study) -> dict[str, Any]:
    """Say where the files of a study lie, under its true names."""
    return {
        "sample_id": study.sample_id,
        "patient": study.picture.patient,
        "study_uid": study.picture.study_uid,
        "series_uid": study.picture.name if study.files else None,
        "paths": [str(path.absolute()) for path in study.paths],
    }
