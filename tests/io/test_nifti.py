"""NIfTI as nibabel writes it: every type, version, byte order and orientation."""

import gzip
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from drrgen.choices import HuSource
from drrgen.errors import Reason, VolumeError
from drrgen.io.nifti import FORMS_DIFFER
from drrgen.io.volumes import read_volume

FLOAT32_MM = 1e-3  # headers hold float32, and origins some hundred millimetres
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE_XYZ = (5, 4, 3)
TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def make_values(kind: str = "i2") -> np.ndarray:
    """Whole numbers that every type holds, all different, (x, y, z)."""
    return np.arange(60).reshape(SHAPE_XYZ, order="F").astype(kind)


def make_affine(
    turn: tuple[float, float, float] = (0, 0, 0), *, mirror: bool = False
) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * (0.7, 0.9, 2.5)
    affine[:3, 0] *= -1 if mirror else 1
    affine[:3, 3] = (-120.5, 80.25, -300.0)
    return affine


def make_image(values: np.ndarray, affine: np.ndarray, *, version: int = 1, order: str = "<"):
    kind = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version]
    header = kind.header_class(endianness=order)
    header.set_data_dtype(values.dtype.newbyteorder(order))
    image = kind(values, affine, header)
    image.header.set_xyzt_units("mm")
    return image


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", TYPES)
def test_every_type_version_and_byte_order_is_read(
    version: int, order: str, kind: str, tmp_path: Path
) -> None:
    image = make_image(make_values(kind), make_affine((10, 20, 30)), version=version, order=order)
    for name in ("ct.nii", "ct.nii.gz"):
        image.to_filename(tmp_path / name)
        read = read_volume(tmp_path / name)
        assert np.array_equal(read.hu, make_values().T)
        wanted = LPS_FROM_RAS @ make_affine((10, 20, 30))
        assert np.allclose(read.patient_from_voxel, wanted, atol=FLOAT32_MM)


@given(turn=st.tuples(*[st.floats(-180, 180)] * 3), mirror=st.booleans(), version=st.integers(1, 2))
@pytest.mark.parametrize("form", ["sform", "qform", "both"])
def test_any_rotation_comes_back_from_either_form(
    form: str,
    turn: tuple[float, float, float],
    mirror: bool,
    version: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    affine = make_affine(turn, mirror=mirror)
    image = make_image(make_values(), affine, version=version)
    image.set_sform(affine if form != "qform" else None, code=int(form != "qform"))
    image.set_qform(affine if form != "sform" else None, code=int(form != "sform"))
    path = tmp_path_factory.getbasetemp() / f"{form}.nii"
    image.to_filename(path)
    volume = read_volume(path)
    assert np.allclose(volume.patient_from_voxel, LPS_FROM_RAS @ affine, atol=FLOAT32_MM)
    assert volume.source is not None and volume.source.warnings == ()


def test_the_sform_is_taken_where_the_forms_differ_and_a_warning_says_so(tmp_path: Path) -> None:
    image = make_image(make_values(), make_affine())
    image.set_sform(make_affine((0, 0, 40)), code=1)
    image.set_qform(make_affine(), code=1)
    image.to_filename(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    wanted = LPS_FROM_RAS @ make_affine((0, 0, 40))
    assert np.allclose(volume.patient_from_voxel, wanted, atol=FLOAT32_MM)
    assert volume.source is not None and volume.source.warnings == (FORMS_DIFFER,)


def test_without_a_form_nothing_is_guessed(tmp_path: Path) -> None:
    image = make_image(make_values(), make_affine())
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    image.to_filename(tmp_path / "a.nii")
    check_refused(tmp_path / "a.nii", Reason.NO_ORIENTATION)


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0)])
def test_units_of_length_become_millimetres(unit: str, mm: float, tmp_path: Path) -> None:
    affine = make_affine()
    affine[:3] /= mm
    image = make_image(make_values(), affine)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "a.nii")
    found = read_volume(tmp_path / "a.nii").patient_from_voxel
    assert np.allclose(found, LPS_FROM_RAS @ make_affine(), atol=FLOAT32_MM)


def test_slope_and_intercept_of_the_header_give_hu(tmp_path: Path) -> None:
    image = make_image(make_values("u2"), make_affine())
    image.header.set_slope_inter(2, -1024)
    image.to_filename(tmp_path / "a.nii")
    # nibabel rescales what it writes, so put the header's numbers there as a scanner would.
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[112:120] = np.array([2, -1024], "<f4").tobytes()
    data[352:] = make_values("u2").tobytes(order="F")
    (tmp_path / "a.nii").write_bytes(data)
    volume = read_volume(tmp_path / "a.nii")
    assert np.array_equal(volume.hu, make_values().T * 2 - 1024)
    assert volume.source is not None and volume.source.hu_source is HuSource.HEADER


def test_a_gzip_of_several_members_is_read_whole(tmp_path: Path) -> None:
    make_image(make_values(), make_affine()).to_filename(tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes()
    for cuts in ([100], [348, 352], [400, 401]):
        ends = [0, *cuts, len(data)]
        parts = [gzip.compress(data[a:b]) for a, b in pairwise(ends)]
        (tmp_path / "b.nii.gz").write_bytes(b"".join(parts))
        assert np.array_equal(read_volume(tmp_path / "b.nii.gz").hu, make_values().T)


def test_a_gzip_without_the_ending_is_told_by_its_content(tmp_path: Path) -> None:
    make_image(make_values(), make_affine()).to_filename(tmp_path / "a.nii")
    (tmp_path / "b.nii").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    assert np.array_equal(read_volume(tmp_path / "b.nii").hu, make_values().T)


def test_a_fourth_axis_of_one_is_no_matter_and_of_two_is_refused(tmp_path: Path) -> None:
    for count in (1, 2):
        values = np.stack([make_values()] * count, axis=-1)
        make_image(values, make_affine()).to_filename(tmp_path / f"{count}.nii")
    assert np.array_equal(read_volume(tmp_path / "1.nii").hu, make_values().T)
    check_refused(tmp_path / "2.nii", Reason.MULTI_PHASE)


def check_refused(path: Path, reason: Reason) -> None:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert caught.value.code is reason


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_file_that_ends_too_early_is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-1000, 1000, (20, 20, 20)).astype("i2")
    make_image(noise, make_affine()).to_filename(tmp_path / f"a{suffix}")
    data = (tmp_path / f"a{suffix}").read_bytes()
    (tmp_path / f"b{suffix}").write_bytes(data[: int(share * len(data))])
    check_refused(tmp_path / f"b{suffix}", Reason.TRUNCATED_FILE)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (make_values()[:, :, :2], Reason.TOO_FEW_SLICES),
        (np.full(SHAPE_XYZ, np.nan, "f4"), Reason.NAN_VOXELS),
        (np.full(SHAPE_XYZ, np.inf, "f8"), Reason.NAN_VOXELS),
        (make_values("f4").astype("c8"), Reason.NOT_CT),
        (make_values()[:, :, 0], Reason.NO_IMAGE),
    ],
    ids=["two slices", "NaN", "infinite", "complex", "flat"],
)
def test_what_is_no_ct_is_refused(values: np.ndarray, reason: Reason, tmp_path: Path) -> None:
    make_image(values, make_affine()).to_filename(tmp_path / "a.nii")
    check_refused(tmp_path / "a.nii", reason)


@pytest.mark.parametrize(
    ("at", "data", "reason"),
    [
        (0, b"\x01\x02\x03\x04", Reason.NO_IMAGE),  # size of the header
        (42, np.array([-5], "<i2").tobytes(), Reason.NO_IMAGE),  # columns
        (42, np.array([32767] * 3, "<i2").tobytes(), Reason.NO_IMAGE),  # a bomb
        (108, np.array([1e30], "<f4").tobytes(), Reason.NO_IMAGE),  # where the voxels start
        (108, np.array([np.nan], "<f4").tobytes(), Reason.NO_IMAGE),
        (123, b"\x07", Reason.METADATA_MISSING),  # unit of length
        (280, np.zeros(12, "<f4").tobytes(), Reason.NO_ORIENTATION),  # rows of the sform
        (280, np.full(12, np.nan, "<f4").tobytes(), Reason.NO_ORIENTATION),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(
    at: int, data: bytes, reason: Reason, tmp_path: Path
) -> None:
    make_image(make_values(), make_affine()).to_filename(tmp_path / "a.nii")
    whole = bytearray((tmp_path / "a.nii").read_bytes())
    whole[at : at + len(data)] = data
    (tmp_path / "a.nii").write_bytes(whole)
    check_refused(tmp_path / "a.nii", reason)


def test_values_that_int16_cannot_hold_are_clipped_with_a_warning(tmp_path: Path) -> None:
    values = make_values("f4")
    values[0, 0, 0], values[1, 0, 0] = 1e6, -1e6
    make_image(values, make_affine()).to_filename(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert (volume.hu[0, 0, 0], volume.hu[0, 0, 1]) == (32767, -32768)
    assert volume.source is not None and volume.source.warnings == ("hu_clipped",)
