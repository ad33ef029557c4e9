"""The manifest: one schema, one way to make a row, one way to store rows.

One row is one radiograph, or one study that has none. Null means *does not apply*, never *failed*:
``status`` and ``reason`` say that.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drrgen.errors import ManifestError

SCHEMA_VERSION = 1

Row = dict[str, Any]

_STRING, _FLOAT, _BOOL = pa.string(), pa.float32(), pa.bool_()
_INT16, _INT32, _INT64 = pa.int16(), pa.int32(), pa.int64()
_XYZ = pa.list_(_FLOAT, 3)
_LABEL = pa.struct([pa.field("name", _STRING), pa.field("value", pa.int8())])

# name, type, unit, description
_COLUMNS: tuple[tuple[str, pa.DataType, str, str], ...] = (
    ("schema_version", _INT16, "", "version of this table"),
    ("sample_id", _STRING, "", "pseudonym of data set, study and reconstruction"),
    ("draw", _INT16, "", "number of the augmentation draw, 0 for the plain one"),
    ("dataset", _STRING, "", "name of the data set"),
    ("patient_id", _STRING, "", "pseudonym of the patient"),
    ("study_id", _STRING, "", "pseudonym of the study"),
    ("series_id", _STRING, "", "pseudonym of the series"),
    ("recon_id", _STRING, "", "pseudonym of the reconstruction"),
    ("split", _STRING, "", "train, dev or test, by patient"),
    ("split_version", _STRING, "", "rule that made the split"),
    ("status", _STRING, "", "ok, refused or failed"),
    ("reason", _STRING, "", "null, or why there is no picture"),
    ("detail", _STRING, "", "the reason in a sentence"),
    ("warnings", pa.list_(_STRING), "", "what was repaired, assumed or missing"),
    ("ct_ref", _STRING, "", "where the CT lies under its root, or a pseudonym"),
    ("ct_format", _STRING, "", "file format of the CT"),
    ("ct_bytes", _INT64, "bytes", "size of the CT's files"),
    ("ct_sha256", _STRING, "", "digest of the CT's files"),
    ("shape_zyx", pa.list_(_INT32, 3), "voxels", "size of the CT's grid"),
    ("spacing_zyx_mm", _XYZ, "mm", "distance between voxel centres"),
    ("orientation", _STRING, "", "patient directions of the x, y and z index"),
    ("hu_source", _STRING, "", "where the HU scale came from"),
    ("hu_p01", _FLOAT, "HU", "1st percentile of the volume"),
    ("hu_p50", _FLOAT, "HU", "median of the volume"),
    ("hu_p99", _FLOAT, "HU", "99th percentile of the volume"),
    ("slice_thickness_mm", _FLOAT, "mm", "nominal slice thickness"),
    ("kernel", _STRING, "", "reconstruction kernel"),
    ("coverage_top", _BOOL, "", "the lung apices are inside the CT"),
    ("coverage_bottom", _BOOL, "", "the costophrenic angles are inside the CT"),
    ("fov_truncated_fraction", _FLOAT, "", "share of the skin cut by the field of view"),
    ("tilt_deg", _FLOAT, "degrees", "gantry tilt that was straightened"),
    ("table_removed_ml", _FLOAT, "ml", "volume of table and cushions removed"),
    ("metal_voxels", _INT64, "voxels", "voxels above 2500 HU"),
    ("cxr_path", _STRING, "", "radiograph, under the output folder"),
    ("cxr_sha256", _STRING, "", "digest of the decoded pixels"),
    ("cxr_kind", _STRING, "", "rendered or real"),
    ("view", _STRING, "", "PA, AP, LL or RL"),
    ("width", _INT32, "pixels", "columns of the radiograph"),
    ("height", _INT32, "pixels", "rows of the radiograph"),
    ("exposed_xywh", pa.list_(_INT32, 4), "pixels", "exposed rectangle: left, top, width, height"),
    ("pitch_mm", _FLOAT, "mm", "detector pitch, at the detector"),
    ("sid_mm", _FLOAT, "mm", "source to detector"),
    ("sod_mm", _FLOAT, "mm", "source to isocenter"),
    ("isocenter_mm", _XYZ, "mm", "point that the central ray passes, patient LPS"),
    ("rotation_deg", _XYZ, "degrees", "turn of source and detector about x, y, z"),
    ("acquisition", _STRING, "", "preset of distances and beam"),
    ("display", _STRING, "", "look of the radiograph"),
    ("kvp", _FLOAT, "kV", "tube voltage; null for a beam of one energy"),
    ("dose_ugy", _FLOAT, "uGy", "dose at the detector; null without noise"),
    ("seed", _INT64, "", "seed of the draw; null where there is no chance"),
    ("mask_path", _STRING, "", "projected structures, under the output folder"),
    ("bone_path", _STRING, "", "bone-only radiograph, under the output folder"),
    ("soft_path", _STRING, "", "soft-tissue radiograph, under the output folder"),
    ("line_integral_path", _STRING, "", "line integrals, under the output folder"),
    ("report_findings", _STRING, "", "findings section of the report"),
    ("report_impression", _STRING, "", "impression section of the report"),
    ("report_lang", _STRING, "", "language of the report"),
    ("report_sha256", _STRING, "", "digest of the report"),
    ("labels", pa.list_(_LABEL), "", "1 present, 0 absent, -1 uncertain; missing = unknown"),
    ("render_fingerprint", _STRING, "", "digest of all settings that touch pixels"),
    ("engine", _STRING, "", "engine that integrated the rays"),
    ("device", _STRING, "", "kind of device it ran on"),
    ("drrgen_version", _STRING, "", "version of drrgen"),
    ("render_version", _INT16, "", "rises whenever a pixel would change"),
)

SCHEMA = pa.schema(
    [
        pa.field(name, kind, metadata={"unit": unit, "description": text})
        for name, kind, unit, text in _COLUMNS
    ],
    metadata={"drrgen_schema_version": str(SCHEMA_VERSION)},
)

KEY = ("sample_id", "view", "draw")


def make_row(**values: Any) -> Row:
    """Make a complete row: every column there, null where nothing is given.

    Raises:
        ManifestError: A name is not a column.
    """
    unknown = sorted(values.keys() - set(SCHEMA.names))
    if unknown:
        raise ManifestError(f"no such column: {', '.join(unknown)}; see drrgen.manifest.SCHEMA")
    return dict.fromkeys(SCHEMA.names) | {"schema_version": SCHEMA_VERSION} | values


def sort_key(row: Mapping[str, Any]) -> tuple[str, str, int]:
    """Order rows by sample, view and draw; a study without a view comes first."""
    return row["sample_id"], row["view"] or "", row["draw"] or 0


def to_table(rows: Iterable[Row], *, fingerprint: str) -> pa.Table:
    """Turn rows into a table of the schema, in the order of the key.

    Args:
        rows: Rows of ``make_row``.
        fingerprint: Digest of the settings that made them, kept in the metadata.
    """
    schema = SCHEMA.with_metadata({**SCHEMA.metadata, b"drrgen_fingerprint": fingerprint.encode()})
    return pa.Table.from_pylist(sorted(rows, key=sort_key), schema=schema)


def describe_schema() -> str:
    """Describe the columns as a table in Markdown, as the README shows it."""
    lines = ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
    for field in SCHEMA:
        told = {key.decode(): value.decode() for key, value in field.metadata.items()}
        kind = re.sub(r"(fixed_size_)?list<\w+: (.+?)>", r"list<\2>", str(field.type))
        lines.append(f"| `{field.name}` | {kind} | {told['unit']} | {told['description']} |")
    return "\n".join(lines) + "\n"


def read_rows(path: Any) -> list[Row]:
    """Read the rows of one shard, here or in a store.

    Args:
        path: Path, or a path of a store.

    Raises:
        ManifestError: The file is no shard of this schema version.
    """
    return read_table(path).to_pylist()


def read_table(path: Any, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one shard, here or in a store.

    Args:
        path: Path, or a path of a store.
        columns: Which columns; all by default.

    Raises:
        ManifestError: The file is no shard of this schema version.
    """
    try:
        with path.open("rb") as file:
            table = pq.read_table(file, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(
            f"{path} cannot be read as Parquet ({error}); delete it and its .stats.json, and run "
            "the same command again"
        ) from error
    found = (table.schema.metadata or {}).get(b"drrgen_schema_version", b"none").decode()
    if found != str(SCHEMA_VERSION):
        raise ManifestError(
            f"{path} has schema version {found}, wanted {SCHEMA_VERSION}; use the drrgen that "
            "wrote it, or another output folder"
        )
    return table
