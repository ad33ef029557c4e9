"""Scale and spacing beside the file: each file is judged by itself, and doubt refuses it."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ct_files import make_small_torso, to_nifti
from hypothesis import given
from hypothesis import strategies as st

from drrgen.choices import HuSource
from drrgen.errors import Reason, VolumeError
from drrgen.io.told_scale import ToldScale, parse_told_scale, read_told
from drrgen.io.volumes import find_ct
from drrgen.volume import CTVolume

TORSO = make_small_torso()
SPACING = tuple(TORSO.spacing_zyx_mm[::-1])
OFFSET = ToldScale(slope=1.0, intercept=-8192.0, spacing_xyz_mm=SPACING)


def write_blank(path: Path, stored: np.ndarray) -> None:
    """Write a file as CT-RATE's first ones are: stored values, and a header that tells nothing."""
    image = nib.Nifti1Image(stored.transpose(2, 1, 0), None, dtype=stored.dtype)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    image.to_filename(path)


def read(folder: Path, told: ToldScale) -> CTVolume:
    (files,) = find_ct(folder).found
    return read_told(files, told)


def check_refused(folder: Path, told: ToldScale, reason: Reason) -> None:
    with pytest.raises(VolumeError) as caught:
        read(folder, told)
    assert caught.value.code is reason


@pytest.mark.hazard(14, "CT-RATE's first files: scale and spacing of the table, hu_source csv")
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_a_file_with_a_blank_header_takes_scale_and_spacing_of_the_table(
    kind: type, tmp_path: Path
) -> None:
    write_blank(tmp_path / "a.nii.gz", (TORSO.hu.astype(np.int32) + 8192).astype(kind))
    volume = read(tmp_path, OFFSET)
    assert np.array_equal(volume.hu, TORSO.hu)
    assert volume.source is not None and volume.source.hu_source is HuSource.CSV
    assert {"spacing_from_csv", "orientation_assumed"} <= set(volume.source.warnings)
    assert volume.spacing_zyx_mm == pytest.approx(TORSO.spacing_zyx_mm)
    assert volume.orientation == "LPS"


@pytest.mark.hazard(14, "CT-RATE's fixed files: the table is not applied again, hu_source header")
def test_a_file_that_holds_hu_is_not_scaled_again(tmp_path: Path) -> None:
    to_nifti(TORSO).to_filename(tmp_path / "a.nii.gz")
    volume = read(tmp_path, OFFSET)
    assert np.array_equal(volume.hu, TORSO.hu)
    assert volume.source is not None and volume.source.hu_source is HuSource.HEADER
    assert volume.source.warnings == ()


@pytest.mark.hazard(14, "header and table both give HU, and differ: refused")
def test_two_scales_that_could_both_be_right_are_refused(tmp_path: Path) -> None:
    to_nifti(TORSO).to_filename(tmp_path / "a.nii.gz")
    told = ToldScale(slope=1.0, intercept=-60.0, spacing_xyz_mm=SPACING)
    check_refused(tmp_path, told, Reason.HU_DOUBLE_RESCALED)


@pytest.mark.hazard(15, "spacing of header and table differ by more than 1 %: refused")
def test_a_spacing_that_differs_is_refused_and_one_that_is_rounded_is_not(tmp_path: Path) -> None:
    to_nifti(TORSO).to_filename(tmp_path / "a.nii.gz")
    x, y, z = SPACING
    check_refused(tmp_path, ToldScale(spacing_xyz_mm=(x, y, z * 1.02)), Reason.SPACING_CONFLICT)
    read(tmp_path, ToldScale(spacing_xyz_mm=(x, y, z * 1.005)))


@pytest.mark.hazard(
    15, "no spacing in the table: the header's, with a warning; in neither: refused"
)
def test_a_spacing_that_only_one_tells_is_taken(tmp_path: Path) -> None:
    to_nifti(TORSO).to_filename(tmp_path / "a.nii.gz")
    source = read(tmp_path, parse_told_scale("1", "0", "nan", "")).source
    assert source is not None and source.warnings == ("csv_spacing_missing",)
    write_blank(tmp_path / "a.nii.gz", TORSO.hu)
    check_refused(tmp_path, parse_told_scale("1", "0", "nan", "1.5"), Reason.METADATA_MISSING)


@pytest.mark.parametrize("text", ["[0.7, 0.7]", "(0.7,0.7)", "0.7", "0.7 0.7"])
def test_spacings_are_read_as_people_write_them(text: str) -> None:
    assert parse_told_scale("", "", text, "1.5").spacing_xyz_mm == (0.7, 0.7, 1.5)


@pytest.mark.parametrize("text", ["", "nan", "[nan, nan]", "[0.7, nan]", "-0.7", "0", "[1,2,3]",
                                  "__import__('os')"])  # fmt: skip
def test_what_is_no_spacing_is_not_told(text: str) -> None:
    assert parse_told_scale("1", "-1024", text, "1.5").spacing_xyz_mm is None


NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(slope=NUMBERS, intercept=NUMBERS, spacing=st.none() | st.tuples(*[st.floats(0.01, 100)] * 3))
def test_json_holds_it_exactly(
    slope: float | None, intercept: float | None, spacing: tuple[float, float, float] | None
) -> None:
    told = ToldScale(slope=slope, intercept=intercept, spacing_xyz_mm=spacing)
    assert ToldScale.from_dict(json.loads(json.dumps(told.to_dict()))) == told
