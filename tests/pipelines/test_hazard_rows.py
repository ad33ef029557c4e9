"""What the row of a CT says of its hazards: tilt, coverage, cut skin, thick slices, metal."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dicom_files import change_tags, make_slice, write_series, write_slices
from drrgen_pipelines.admission import admit
from typer.testing import CliRunner

from drrgen.anatomy.body import find_body
from drrgen.anatomy.coverage import Coverage, check_height, find_remarks, measure_coverage
from drrgen.choices import CTFormat, HuSource, OnTilt
from drrgen.cli import app
from drrgen.errors import Reason, VolumeError
from drrgen.phantoms import draw_ellipsoid, make_grid, make_torso
from drrgen.volume import CTSource, CTVolume

runner = CliRunner()


def render(folder: Path, *more: str) -> list[dict[str, Any]]:
    """Render a folder small, and read its rows."""
    out = folder.parent / "out"
    salt = folder.parent / "salt.txt"
    salt.write_text("a salt for tests only, long enough\n")
    result = runner.invoke(
        app, ["render", "--ct-dir", str(folder), "--out", str(out), "--salt-file", str(salt),
              "--size", "64", "--view", "PA", *more],
    )  # fmt: skip
    assert result.exit_code in (0, 3), result.output
    return [r for p in (out / "manifest").glob("*.parquet") for r in pq.read_table(p).to_pylist()]


def write_tilted(folder: Path, lean: float = 0.2) -> None:
    volume = make_torso(spacing_mm=8.0, height_mm=200.0)
    slices = []
    for z in range(len(volume.hu)):
        d = make_slice(volume, z, "a")
        x, y, height = d.ImagePositionPatient
        change_tags(d, {"ImagePositionPatient": [x, y + lean * 8.0 * z, height],
                        "ConvolutionKernel": "B30f", "SliceThickness": 5})  # fmt: skip
        slices.append(d)
    write_slices(folder, slices)


@pytest.mark.hazard(6, "the row of a tilted CT has tilt_deg; on_tilt = refuse turns it away")
def test_the_tilt_is_in_the_row_or_refused(tmp_path: Path) -> None:
    write_tilted(tmp_path / "ct")
    (row,) = render(tmp_path / "ct")
    assert row["status"] == "ok"
    assert row["tilt_deg"] == pytest.approx(np.degrees(np.arctan(0.2)), abs=0.01)
    assert (row["kernel"], row["slice_thickness_mm"]) == ("B30f", 5.0)
    assert row["warnings"][:2] == ["tilt_regridded", "thick_slices"]
    (tmp_path / "refuse.toml").write_text('[render]\non_tilt = "refuse"\n')
    (row,) = render(tmp_path / "ct", "--config", str(tmp_path / "refuse.toml"), "--overwrite")
    assert (row["status"], row["reason"]) == ("refused", Reason.TILT_REFUSED)


def test_a_straight_ct_is_admitted_by_either_policy() -> None:
    volume = make_torso(spacing_mm=8.0, height_mm=200.0)
    for policy in OnTilt:
        assert admit(volume, policy).cells.any()


@pytest.mark.hazard(30, "a CT under 150 mm high is refused, whatever its format and orientation")
@pytest.mark.parametrize("directions", [np.eye(3), np.eye(3)[[1, 2, 0]]])
def test_a_short_ct_is_refused(directions: np.ndarray, tmp_path: Path) -> None:
    check_height(make_torso(spacing_mm=5.0, height_mm=150.0, directions=directions))
    with pytest.raises(VolumeError) as caught:
        check_height(make_torso(spacing_mm=5.0, height_mm=145.0, directions=directions))
    assert caught.value.code is Reason.COVERAGE_SHORT


@pytest.mark.hazard(30, "a short CT is a refused row")
def test_a_short_ct_is_a_refused_row(tmp_path: Path) -> None:
    write_series(make_torso(spacing_mm=8.0, height_mm=120.0), tmp_path / "ct", "a")
    (row,) = render(tmp_path / "ct")
    assert (row["status"], row["reason"]) == ("refused", Reason.COVERAGE_SHORT)


def measure(volume: CTVolume) -> Coverage:
    return measure_coverage(volume, find_body(volume))


@pytest.mark.hazard(30, "lungs that reach the first or last slice: coverage_top, coverage_bottom")
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(("low_mm", "high_mm", "top", "bottom"), [
    (-150, 150, True, True), (-150, 100, False, True), (-80, 150, True, False),
    (-80, 100, False, False), (-400, -200, False, False),
])  # fmt: skip
def test_lungs_that_reach_the_end_are_cut(
    low_mm: float, high_mm: float, top: bool, bottom: bool, flipped: bool
) -> None:
    whole = make_torso(spacing_mm=5.0, height_mm=800.0)
    z_mm = whole.patient_from_voxel[2, 3] + 5.0 * np.arange(len(whole.hu))
    kept = np.nonzero((z_mm > low_mm) & (z_mm < high_mm))[0][:: -1 if flipped else 1]
    matrix = whole.patient_from_voxel.copy()
    matrix[2, 3], matrix[2, 2] = z_mm[kept[0]], -5.0 if flipped else 5.0
    coverage = measure(CTVolume(hu=whole.hu[kept].copy(), patient_from_voxel=matrix))
    assert (coverage.top, coverage.bottom) == (top, bottom)


def make_cylinder(radius_mm: float, field_mm: float, *, is_round: bool) -> CTVolume:
    """A body of one radius in a square field, or in the circle within it."""
    shape = (40, 100, 100)
    grid = make_grid(shape, (field_mm / 100, field_mm / 100, 5.0))
    hu = np.full(shape, -1000, np.int16)
    draw_ellipsoid(
        hu, grid, center_mm=(0, 0, 0), radii_mm=(radius_mm, radius_mm * 0.7, 1e5), inside_hu=40
    )
    if is_round:
        place = np.arange(100) - 49.5
        hu[:, np.hypot(place[:, None], place) > 50] = -1024
    return CTVolume(hu=hu, patient_from_voxel=grid)


# Of an ellipse of 220 x 154 mm the edges at 180 mm cut 354 mm of 1134 mm of outline, and a circle
# of 180 mm, which it crosses at 43.6 degrees, 548 mm of about 1110 mm.
CUT_TOL = 0.08  # skin is traced in cells of 5 mm, the circle a little within its rim


@pytest.mark.hazard(28, "the share of the skin that the field cuts: fov_truncated_fraction")
@pytest.mark.parametrize(("is_round", "share"), [(False, 0.31), (True, 0.49)])
def test_skin_cut_by_the_field_is_measured(is_round: bool, share: float) -> None:
    assert measure(make_cylinder(150, 400, is_round=is_round)).fov_truncated_fraction == 0
    cut = measure(make_cylinder(220, 360, is_round=is_round)).fov_truncated_fraction
    assert cut == pytest.approx(share, abs=CUT_TOL)


@pytest.mark.hazard(31, "slices thicker or further apart than 3 mm: `thick_slices`")
@pytest.mark.parametrize(("spacing", "nominal", "thick"), [
    (2.0, None, False), (3.0, 3.0, False), (3.5, None, True), (2.0, 5.0, True),
])  # fmt: skip
def test_thick_slices_are_said(spacing: float, nominal: float | None, thick: bool) -> None:
    source = CTSource(
        ct_format=CTFormat.DICOM, hu_source=HuSource.DICOM, slice_thickness_mm=nominal
    )
    volume = CTVolume(
        hu=np.zeros((3, 4, 5), np.int16),
        patient_from_voxel=make_grid((3, 4, 5), (1, 1, spacing)),
        source=source,
    )
    assert find_remarks(volume) == (("thick_slices",) if thick else ())


@pytest.mark.hazard(26, "voxels of metal are counted in the row: metal_voxels")
def test_metal_is_counted(tmp_path: Path) -> None:
    volume = make_torso(spacing_mm=8.0, height_mm=200.0)
    hu = volume.hu.copy()
    hu[10:12, 15:18, 20:22] = 8000
    write_series(replace(volume, hu=hu), tmp_path / "ct", "a")
    (row,) = render(tmp_path / "ct")
    assert (row["status"], row["metal_voxels"]) == ("ok", 12)
