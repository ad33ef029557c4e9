"""The manifest: the columns of the contract, and any row to Parquet and back."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drrgen.errors import ManifestError
from drrgen.manifest import (
    KEY,
    SCHEMA,
    SCHEMA_VERSION,
    Row,
    make_row,
    read_rows,
    sort_key,
    to_table,
)

# The contract's list, version 1: group by group, name and type.
CONTRACT = """
schema_version int16, sample_id string, draw int16, dataset string, patient_id string,
study_id string, series_id string, recon_id string, split string, split_version string,
status string, reason string, detail string, warnings list<string>,
ct_ref string, ct_format string, ct_bytes int64, ct_sha256 string, shape_zyx list<int32>[3],
spacing_zyx_mm list<float>[3], orientation string, hu_source string, hu_p01 float, hu_p50 float,
hu_p99 float, slice_thickness_mm float, kernel string, coverage_top bool, coverage_bottom bool,
fov_truncated_fraction float, tilt_deg float, table_removed_ml float, metal_voxels int64,
cxr_path string, cxr_sha256 string, cxr_kind string, view string, width int32, height int32,
exposed_xywh list<int32>[4], pitch_mm float, sid_mm float, sod_mm float, isocenter_mm list<float>[3],
rotation_deg list<float>[3], acquisition string, display string, kvp float, dose_ugy float,
seed int64, mask_path string, bone_path string, soft_path string, line_integral_path string,
report_findings string, report_impression string, report_lang string, report_sha256 string,
labels list<struct<name: string, value: int8>>,
render_fingerprint string, engine string, device string, drrgen_version string,
render_version int16
"""


def spell(kind: pa.DataType) -> str:
    """Spell a type as the contract does."""
    if pa.types.is_fixed_size_list(kind):
        return f"list<{spell(kind.value_type)}>[{kind.list_size}]"
    if pa.types.is_list(kind):
        return f"list<{spell(kind.value_type)}>"
    return str(kind)


def test_the_columns_are_those_of_the_contract_in_its_order() -> None:
    found = [f"{field.name} {spell(field.type)}" for field in SCHEMA]
    wanted = CONTRACT.strip().replace("name: string, value", "name: string; value")
    words = [word.strip().replace(";", ",") for word in wanted.replace("\n", " ").split(", ")]
    assert [word.rstrip(",") for word in words] == found


def test_every_column_is_described_and_measured_where_it_has_a_unit() -> None:
    for field in SCHEMA:
        assert field.metadata[b"description"]
        assert field.metadata[b"unit"].decode() == field.metadata[b"unit"].decode().strip()
        for suffix, unit in (("_mm", "mm"), ("_deg", "degrees"), ("_ml", "ml"), ("_ugy", "uGy")):
            if field.name.endswith(suffix):
                assert field.metadata[b"unit"].decode() == unit


def make_values(kind: pa.DataType) -> st.SearchStrategy[object]:
    """Any value that a column may hold, null included."""
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({f.name: make_values(f.type) for f in kind})
    if pa.types.is_fixed_size_list(kind):
        n = kind.list_size
        inner = make_plain(kind.value_type)
        return st.none() | st.lists(inner, min_size=n, max_size=n)
    if pa.types.is_list(kind):
        value = kind.value_type
        inner = make_values(value) if pa.types.is_struct(value) else make_plain(value)
        return st.none() | st.lists(inner, max_size=4)
    return st.none() | make_plain(kind)


def make_plain(kind: pa.DataType) -> st.SearchStrategy[object]:
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        return st.integers(int(info.min), int(info.max))
    if pa.types.is_floating(kind):
        return st.floats(width=32, allow_nan=False)
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


rows = st.fixed_dictionaries(
    {field.name: make_values(field.type) for field in SCHEMA}
    | {"sample_id": st.text("0123456789abcdef", min_size=1, max_size=20),
       "schema_version": st.just(SCHEMA_VERSION)}
)  # fmt: skip


@given(made=st.lists(rows, max_size=3))
def test_any_row_comes_back_from_parquet(
    made: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.parquet"
    pq.write_table(to_table(made, fingerprint="f"), path)
    read = read_rows(path)
    assert read == sorted(made, key=sort_key)
    assert pq.read_schema(path).metadata[b"drrgen_fingerprint"] == b"f"


def test_rows_are_in_the_order_of_their_key_whatever_order_they_come_in() -> None:
    made = [
        make_row(sample_id=sample, view=view, draw=draw)
        for sample, view, draw in [("b", "PA", 0), ("a", "PA", 1), ("a", "LL", 0), ("a", "PA", 0)]
    ] + [make_row(sample_id="a")]
    table = to_table(made, fingerprint="")
    found = [tuple(row[name] for name in KEY) for row in table.to_pylist()]
    assert found == [
        ("a", None, None), ("a", "LL", 0), ("a", "PA", 0), ("a", "PA", 1), ("b", "PA", 0),
    ]  # fmt: skip
    assert table.equals(to_table(made[::-1], fingerprint=""))


def test_a_row_has_every_column_and_nulls_where_nothing_is_given() -> None:
    row = make_row(sample_id="a")
    assert list(row) == SCHEMA.names
    given_columns = {name for name, value in row.items() if value is not None}
    assert given_columns == {"sample_id", "schema_version"}


def test_an_unknown_column_is_refused_by_name() -> None:
    with pytest.raises(ManifestError, match="no such column: sid, zoom"):
        make_row(zoom=1, sid=2)


def test_a_table_of_another_version_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for metadata, found in (({"drrgen_schema_version": "99"}, "99"), (None, "none")):
        schema = SCHEMA.with_metadata(metadata)
        pq.write_table(pa.Table.from_pylist([make_row(sample_id="a")], schema=schema), path)
        with pytest.raises(ManifestError, match=f"has schema version {found}, wanted 1"):
            read_rows(path)


def test_a_file_that_is_no_parquet_or_is_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    for name in ("a.parquet", "none.parquet"):
        with pytest.raises(ManifestError, match="cannot be read as Parquet"):
            read_rows(tmp_path / name)
