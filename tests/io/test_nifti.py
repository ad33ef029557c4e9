"""NIfTI as nibabel writes it: every type, version, byte order and orientation."""

import gzip
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ct_files import make_small_torso, patch_bytes, to_nifti, write_ct
from hypothesis import given, reject
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from drrgen.choices import HuSource
from drrgen.errors import InputError, Reason, VolumeError
from drrgen.io.grids import BLANK_GRID, STRAIGHTENED
from drrgen.io.hounsfield import NAN_TO_AIR, PADDING_HU, PADDING_TO_AIR
from drrgen.io.nifti import FORMS_DIFFER, PIXDIM_DIFFERS
from drrgen.io.packed import TRAILING_BYTES
from drrgen.io.volumes import read_volume
from drrgen.volume import AIR_HU, CTVolume, check_grid

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
    try:
        image.to_filename(path)
    except ValueError:
        reject()  # nibabel takes a half turn for no rotation, by a rounding error
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


# What follows are the hazards of docs/hazards.md, as far as NIfTI has them.


@pytest.fixture
def torso() -> CTVolume:
    return make_small_torso()


def read_words(path: Path) -> tuple[str, ...]:
    source = read_volume(path).source
    assert source is not None
    return source.warnings


@pytest.mark.hazard(11, "sform taken where its code is set; 0.1 mm of difference is a warning")
@pytest.mark.parametrize(("shift_mm", "words"), [(0.05, ()), (0.2, (FORMS_DIFFER,))])
def test_forms_may_differ_by_a_tenth_of_a_millimetre(
    shift_mm: float, words: tuple[str, ...], torso: CTVolume, tmp_path: Path
) -> None:
    image = to_nifti(torso)
    moved = image.affine.copy()
    moved[0, 3] += shift_mm
    image.set_qform(moved, 1)
    image.to_filename(tmp_path / "a.nii.gz")
    assert read_words(tmp_path / "a.nii.gz") == words
    found = read_volume(tmp_path / "a.nii.gz").patient_from_voxel
    assert np.allclose(found, torso.patient_from_voxel, atol=FLOAT32_MM)


@pytest.mark.hazard(11, "neither sform nor qform: refused, nothing is guessed")
def test_no_form_is_refused_with_what_to_do(torso: CTVolume, tmp_path: Path) -> None:
    image = to_nifti(torso)
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    image.to_filename(tmp_path / "a.nii")
    check_refused(tmp_path / "a.nii", Reason.NO_ORIENTATION)


def shear(affine: np.ndarray, degrees: float) -> np.ndarray:
    sheared = affine.copy()
    sheared[:3, 2] += (
        np.tan(np.radians(degrees))
        * np.linalg.norm(affine[:3, 2])
        * (affine[:3, 1] / np.linalg.norm(affine[:3, 1]))
    )
    return sheared


@pytest.mark.hazard(11, "shear below 0.5 degrees: straightened around the middle, with a warning")
def test_a_slight_shear_is_straightened(torso: CTVolume, tmp_path: Path) -> None:
    image = to_nifti(torso)
    sheared = shear(image.affine, 0.3)
    image.set_sform(sheared, 1)
    image.set_qform(None, 0)
    image.to_filename(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.source is not None and STRAIGHTENED in volume.source.warnings
    check_grid(volume.patient_from_voxel)
    middle = np.append((np.array(torso.hu.shape[::-1]) - 1) / 2, 1)
    wanted = LPS_FROM_RAS @ sheared @ middle
    assert np.allclose(volume.patient_from_voxel @ middle, wanted, atol=FLOAT32_MM)
    assert np.allclose(volume.spacing_zyx_mm, torso.spacing_zyx_mm, rtol=1e-4)


@pytest.mark.hazard(11, "shear of 0.5 degrees and more: refused, with what to do")
@pytest.mark.parametrize("degrees", [0.6, 5.0, 30.0])
def test_a_large_shear_is_refused(degrees: float, torso: CTVolume, tmp_path: Path) -> None:
    image = to_nifti(torso)
    image.set_sform(shear(image.affine, degrees), 1)
    image.to_filename(tmp_path / "a.nii")
    check_refused(tmp_path / "a.nii", Reason.TILT_REFUSED)


@pytest.mark.hazard(11, "an sform whose axes lie in one plane: refused")
def test_axes_in_one_plane_are_refused(torso: CTVolume, tmp_path: Path) -> None:
    image = to_nifti(torso)
    affine = image.affine.copy()
    affine[:3, 2] = affine[:3, 1]
    image.to_filename(tmp_path / "a.nii")
    patch_bytes(tmp_path / "a.nii", 280, affine[:3].astype("<f4").tobytes())
    check_refused(tmp_path / "a.nii", Reason.NO_ORIENTATION)


@pytest.mark.hazard(11, "the unit matrix, which programs write that know nothing, is a warning")
def test_a_blank_grid_is_a_warning(torso: CTVolume, tmp_path: Path) -> None:
    nib.Nifti1Image(torso.hu.transpose(2, 1, 0), np.eye(4)).to_filename(tmp_path / "a.nii")
    assert read_words(tmp_path / "a.nii") == (BLANK_GRID,)


@pytest.mark.hazard(15, "spacing beside an sform that differs by more than 1 %: a warning")
@pytest.mark.parametrize(("factor", "words"), [(1.005, ()), (1.02, (PIXDIM_DIFFERS,))])
def test_spacing_that_contradicts_the_sform_is_a_warning(
    factor: float, words: tuple[str, ...], torso: CTVolume, tmp_path: Path
) -> None:
    image = to_nifti(torso)
    image.set_qform(None, 0)
    image.to_filename(tmp_path / "a.nii")
    patch_bytes(tmp_path / "a.nii", 88, np.float32(12 * factor).tobytes())
    assert read_words(tmp_path / "a.nii") == words


@pytest.mark.hazard(15, "zero, negative or NaN spacing in a qform: refused")
@pytest.mark.parametrize("spacing", [0.0, -0.7, np.nan, np.inf, 1e9])
def test_a_spacing_that_is_none_is_refused(spacing: float, torso: CTVolume, tmp_path: Path) -> None:
    image = to_nifti(torso)
    image.set_sform(None, 0)
    image.to_filename(tmp_path / "a.nii")
    patch_bytes(tmp_path / "a.nii", 80, np.float32(spacing).tobytes())
    check_refused(tmp_path / "a.nii", Reason.SPACING_CONFLICT)


def test_a_broken_qform_beside_a_good_sform_is_a_warning(torso: CTVolume, tmp_path: Path) -> None:
    to_nifti(torso).to_filename(tmp_path / "a.nii")
    patch_bytes(tmp_path / "a.nii", 80, np.float32(np.nan).tobytes())
    assert read_words(tmp_path / "a.nii") == (FORMS_DIFFER,)


def test_a_quaternion_that_is_no_rotation_is_refused(torso: CTVolume, tmp_path: Path) -> None:
    image = to_nifti(torso)
    image.set_sform(None, 0)
    image.to_filename(tmp_path / "a.nii")
    patch_bytes(tmp_path / "a.nii", 256, np.array([0.9, 0.9, 0.9], "<f4").tobytes())
    check_refused(tmp_path / "a.nii", Reason.NO_ORIENTATION)


@pytest.mark.hazard(7, "4-D NIfTI: refused; a fourth axis of one is no matter")
def test_phases_in_one_file_are_refused(torso: CTVolume, tmp_path: Path) -> None:
    for count in (1, 2):
        values = np.stack([torso.hu.transpose(2, 1, 0)] * count, axis=-1)
        image = nib.Nifti1Image(values, to_nifti(torso).affine)
        image.to_filename(tmp_path / f"{count}.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "1.nii.gz").hu, torso.hu)
    check_refused(tmp_path / "2.nii.gz", Reason.MULTI_PHASE)


@pytest.mark.hazard(14, "a slope without an intercept: refused")
def test_half_a_scale_is_refused(torso: CTVolume, tmp_path: Path) -> None:
    to_nifti(torso).to_filename(tmp_path / "a.nii")
    patch_bytes(tmp_path / "a.nii", 112, np.array([2, np.nan], "<f4").tobytes())
    check_refused(tmp_path / "a.nii", Reason.NO_RESCALE)


@pytest.mark.hazard(17, "a few voxels outside the body that are not finite: air, with a warning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_nan_in_the_air_becomes_air_and_never_water(
    value: float, torso: CTVolume, tmp_path: Path
) -> None:
    hu = torso.hu.astype(np.float32)
    hu[5, 0, 0] = value
    write_ct(torso, tmp_path / "a.nii", hu)
    volume = read_volume(tmp_path / "a.nii")
    assert volume.hu[5, 0, 0] == AIR_HU
    assert volume.source is not None and volume.source.warnings == (NAN_TO_AIR,)


@pytest.mark.hazard(17, "voxels inside the body, or many, that are not finite: refused")
@pytest.mark.parametrize(
    "where",
    [np.s_[6, 11, 16], np.s_[6, 11, 10], np.s_[:, 0, :3]],
    ids=["mediastinum", "lung", "too many"],
)
def test_a_nan_in_the_body_is_refused(where: object, torso: CTVolume, tmp_path: Path) -> None:
    hu = torso.hu.astype(np.float32)
    hu[where] = np.nan  # type: ignore[index]
    write_ct(torso, tmp_path / "a.nii", hu)
    check_refused(tmp_path / "a.nii", Reason.NAN_VOXELS)


@pytest.mark.hazard(16, "values below -1100 HU: air, with a warning")
@pytest.mark.parametrize("padding", [-2000, -2048, -3024, -32768])
def test_padding_becomes_air(padding: int, torso: CTVolume, tmp_path: Path) -> None:
    hu = torso.hu.copy()
    hu[:, :3] = padding
    write_ct(torso, tmp_path / "a.nii.gz", hu)
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.hu.min() == PADDING_HU and (volume.hu[:, :3] == PADDING_HU).all()
    assert np.array_equal(volume.hu[:, 3:], torso.hu[:, 3:])
    assert volume.source is not None and volume.source.warnings == (PADDING_TO_AIR,)


@pytest.mark.hazard(18, "numbers that int16 cannot hold: clipped, with a warning, never wrapped")
@pytest.mark.parametrize("kind", ["i4", "f4", "f8", "i8"])
def test_metal_beyond_int16_is_clipped(kind: str, torso: CTVolume, tmp_path: Path) -> None:
    hu = torso.hu.astype(kind)
    hu[6, 11, 16] = 70_000
    to_nifti(torso, hu).to_filename(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.hu[6, 11, 16] == 32767
    assert volume.source is not None and volume.source.warnings == ("hu_clipped",)


@pytest.mark.hazard(24, "truncated anywhere: refused")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_cut_anywhere_is_refused(suffix: str, torso: CTVolume, tmp_path: Path) -> None:
    write_ct(torso, tmp_path / f"a{suffix}")
    data = (tmp_path / f"a{suffix}").read_bytes()
    cut = tmp_path / f"b{suffix}"
    for length in {0, 1, 2, 10, 347, 348, 351, 352, *np.linspace(0, len(data) - 1, 40).astype(int)}:
        cut.write_bytes(data[:length])
        check_refused(cut, Reason.TRUNCATED_FILE)


@pytest.mark.hazard(24, "a gzip whose check sum is wrong: refused")
def test_a_flipped_bit_of_a_gzip_is_found(torso: CTVolume, tmp_path: Path) -> None:
    write_ct(torso, tmp_path / "a.nii.gz")
    data = bytearray((tmp_path / "a.nii.gz").read_bytes())
    for at in (-1, -5, -8):  # size, then sum
        spoiled = data.copy()
        spoiled[at] ^= 1
        (tmp_path / "b.nii.gz").write_bytes(spoiled)
        check_refused(tmp_path / "b.nii.gz", Reason.TRUNCATED_FILE)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_follows_the_voxels_is_a_warning(suffix: str, torso: CTVolume, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_ct(torso, path)
    data = path.read_bytes()
    path.write_bytes(data + b"garbage")
    assert read_words(path) == (TRAILING_BYTES,)
    path.write_bytes(data + bytes(512))  # as tapes and archives fill their blocks
    assert read_words(path) == ()


def test_more_voxels_than_the_header_says_are_refused(torso: CTVolume, tmp_path: Path) -> None:
    for suffix in (".nii", ".nii.gz"):
        image = to_nifti(torso)
        data = bytearray(image.to_bytes())
        data[46:48] = np.int16(len(torso.hu) - 1).tobytes()
        path = tmp_path / f"a{suffix}"
        path.write_bytes(gzip.compress(data) if suffix == ".nii.gz" else data)
        check_refused(path, Reason.PIXEL_MISMATCH)


def test_bits_that_contradict_the_type_are_refused(torso: CTVolume, tmp_path: Path) -> None:
    write_ct(torso, tmp_path / "a.nii")
    patch_bytes(tmp_path / "a.nii", 72, np.int16(32).tobytes())
    check_refused(tmp_path / "a.nii", Reason.PIXEL_MISMATCH)


def test_a_pair_of_header_and_image_is_refused_in_plain_words(
    torso: CTVolume, tmp_path: Path
) -> None:
    pair = nib.Nifti1Pair(torso.hu.transpose(2, 1, 0), to_nifti(torso).affine)
    pair.to_filename(tmp_path / "a.hdr")
    assert (tmp_path / "a.img").exists()
    with pytest.raises(VolumeError, match="pair to one") as caught:
        read_volume(tmp_path)
    assert caught.value.code is Reason.NO_IMAGE


def test_analyze_has_no_orientation_and_is_refused(torso: CTVolume, tmp_path: Path) -> None:
    write_ct(torso, tmp_path / "a.nii")
    patch_bytes(tmp_path / "a.nii", 344, bytes(4))
    check_refused(tmp_path / "a.nii", Reason.NO_IMAGE)
    (tmp_path / "a.nii").rename(tmp_path / "a.hdr")
    with pytest.raises(InputError, match="no CT"):
        read_volume(tmp_path)


@pytest.mark.hazard(11, "ct.nii beside ct.nii.gz: each is read with its own pixels")
def test_a_namesake_in_another_packing_is_another_file(torso: CTVolume, tmp_path: Path) -> None:
    write_ct(torso, tmp_path / "ct.nii")
    write_ct(torso, tmp_path / "ct.nii.gz", torso.hu[::-1].copy())
    assert np.array_equal(read_volume(tmp_path / "ct.nii").hu, torso.hu)
    assert np.array_equal(read_volume(tmp_path / "ct.nii.gz").hu, torso.hu[::-1])
