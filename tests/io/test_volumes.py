"""NRRD, MetaImage and RAD-ChestCT, and what a folder or a glob stands for."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import write_series
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from drrgen.choices import CTFormat
from drrgen.errors import InputError, Reason, VolumeError
from drrgen.io.volumes import choose_series, find_ct, read_volume
from drrgen.phantoms import make_grid, make_torso

TEXT_MM = 1e-4  # headers are decimal text
VALUES = np.arange(-30, 30, dtype=np.int16).reshape(3, 4, 5)


def write_image(
    path: Path, values: np.ndarray = VALUES, turn: tuple[float, float, float] = (0, 0, 0)
) -> np.ndarray:
    """Write through ITK; return the matrix that must come back."""
    directions = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    spacing = (0.7, 0.9, 2.5)
    grid = make_grid((3, 4, 5), spacing, center_mm=(10, -20, 300), directions=directions)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetDirection(directions.ravel().tolist())
    image.SetOrigin(grid[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return grid


def check_refused(path: Path, reason: Reason) -> None:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert caught.value.code is reason


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("kind", ["i2", "u2", "u1", "i4", "f4", "f8"])
def test_itk_formats_come_back_in_every_type(suffix: str, kind: str, tmp_path: Path) -> None:
    values = (VALUES - VALUES.min()).astype(kind)
    grid = write_image(tmp_path / f"a{suffix}", values, (10, 20, 30))
    volume = read_volume(tmp_path / f"a{suffix}")
    assert np.array_equal(volume.hu, values.astype(np.int16))
    assert np.allclose(volume.patient_from_voxel, grid, atol=TEXT_MM)


@given(turn=st.tuples(*[st.floats(-180, 180)] * 3))
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_any_rotation_comes_back(
    suffix: str, turn: tuple[float, float, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"turned{suffix}"
    grid = write_image(path, turn=turn)
    assert np.allclose(read_volume(path).patient_from_voxel, grid, atol=TEXT_MM)


@pytest.mark.parametrize(
    ("suffix", "line"),
    [(".nhdr", "space directions:"), (".nhdr", "space:"), (".mhd", "TransformMatrix"),
     (".mhd", "Offset"), (".mhd", "ElementSpacing")],
)  # fmt: skip
def test_a_header_that_leaves_the_place_open_is_refused(
    suffix: str, line: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    write_image(path)
    text = path.read_text()
    path.write_text(re.sub(rf"^{line}.*\n", "", text, flags=re.MULTILINE))
    assert path.read_text() != text
    check_refused(path, Reason.NO_ORIENTATION)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_an_image_that_ends_too_early_is_refused(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    write_image(tmp_path / f"a{suffix}", noise)
    data = (tmp_path / f"a{suffix}").read_bytes()
    for length in (0, len(data) - 20):
        (tmp_path / f"b{suffix}").write_bytes(data[:length])
        check_refused(tmp_path / f"b{suffix}", Reason.TRUNCATED_FILE)


@pytest.mark.parametrize("kind", ["i2", "i4", "f4"])
def test_radchest_runs_from_head_to_foot_at_08_mm(kind: str, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "trn00001.npz", ct=VALUES.astype(kind))
    volume = read_volume(tmp_path / "trn00001.npz")
    assert np.array_equal(volume.hu, VALUES)
    assert np.allclose(np.diag(volume.patient_from_voxel), [0.8, 0.8, -0.8, 1])
    assert volume.orientation == "LPI"


def test_an_npz_of_something_else_is_passed_over_and_a_broken_one_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=VALUES)
    with pytest.raises(InputError, match="no CT"):
        read_volume(tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    check_refused(tmp_path / "broken.npz", Reason.TRUNCATED_FILE)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (VALUES[0], Reason.NOT_CT),
        (VALUES.astype(complex), Reason.NOT_CT),
        (np.array([{"a": 1}], dtype=object), Reason.TRUNCATED_FILE),  # a pickle is never opened
        (np.full((3, 4, 5), np.nan), Reason.NAN_VOXELS),
    ],
    ids=["flat", "complex", "pickle", "NaN"],
)
def test_an_npz_that_holds_no_ct_is_refused(
    array: np.ndarray, reason: Reason, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", ct=array)
    check_refused(tmp_path / "a.npz", reason)


@pytest.mark.parametrize(("first", "second"), [("ct.nii", "ct.nii.gz"), ("ct.nii.gz", "ct.nii")])
def test_a_ct_beside_its_namesake_is_read_with_its_own_pixels(
    first: str, second: str, tmp_path: Path
) -> None:
    write_image(tmp_path / first)
    write_image(tmp_path / second, VALUES[::-1].copy())
    assert np.array_equal(read_volume(tmp_path / first).hu, VALUES)
    assert np.array_equal(read_volume(tmp_path / second).hu, VALUES[::-1])


def test_a_folder_is_searched_in_depth_and_what_is_no_ct_is_counted(tmp_path: Path) -> None:
    for name in ("b/x/two.nii.gz", "one.nrrd", "b/lungs.seg.nrrd", ".hidden/three.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no CT")
    (tmp_path / "__MACOSX").mkdir()
    shutil.copy(tmp_path / "one.nrrd", tmp_path / "__MACOSX" / "one.nrrd")
    listing = find_ct(tmp_path)
    assert [entry.name for entry in listing.found] == ["b/x/two.nii.gz", "one.nrrd"]
    assert listing.ignored == {"label_map": 1, "not_ct": 1}


def test_a_glob_keeps_the_names_under_its_fixed_part(tmp_path: Path) -> None:
    for name in ("p1/ct.nii.gz", "p2/ct.nii.gz", "p2/other.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name)
    found = find_ct(f"{tmp_path}/p*/ct.nii.gz").found
    assert [entry.name for entry in found] == ["p1/ct.nii.gz", "p2/ct.nii.gz"]
    assert [entry.name for entry in find_ct(f"{tmp_path}/p*").found] == [
        "p1/ct.nii.gz", "p2/ct.nii.gz", "p2/other.nii.gz",
    ]  # fmt: skip


def test_nothing_and_no_ct_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is at"):
        find_ct(tmp_path / "no*")
    with pytest.raises(InputError, match="looked at 0 files"):
        find_ct(tmp_path)


def test_several_ct_where_one_is_wanted_are_named(tmp_path: Path) -> None:
    for name in ("a.nrrd", "b.nrrd"):
        write_image(tmp_path / name)
    with pytest.raises(InputError, match=r"2 CT.*a\.nrrd, b\.nrrd"):
        read_volume(tmp_path)


def test_a_series_is_chosen_by_its_uid_or_is_unknown(tmp_path: Path) -> None:
    for patient in ("a", "bb"):
        write_series(make_torso(spacing_mm=20), tmp_path, patient)
    found = find_ct(tmp_path).found
    assert {entry.ct_format for entry in found} == {CTFormat.DICOM}
    assert choose_series(found, "all") == (list(found), 0)
    assert choose_series(found, "best") == (list(found), 0)  # two studies
    assert choose_series(found, "1.2.3.2") == ([found[1]], 1)
    with pytest.raises(InputError, match=r"no series 9\.9; found 2"):
        choose_series(found, "9.9")
