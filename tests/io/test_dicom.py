from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import PLAIN, Storage, make_slice, write_series
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from drrgen.errors import Reason, VolumeError
from drrgen.io.volumes import find_ct, read_ct, read_volume
from drrgen.phantoms import make_grid, make_torso
from drrgen.volume import CTVolume

POSITION_TOL_MM = 1e-4  # DICOM writes decimal strings


def test_shuffled_slices_of_three_patients_give_three_right_volumes(tmp_path: Path) -> None:
    volumes = {name: make_torso(spacing_mm=8.0, height_mm=160.0 + 8 * len(name)) for name in
               ("a", "bb", "ccc")}  # fmt: skip
    for name, volume in volumes.items():
        write_series(volume, tmp_path / "mixed", name)
    found = find_ct(tmp_path).found
    assert [files.patient for files in found] == ["a", "bb", "ccc"]
    for files in found:
        read, made = read_ct(files), volumes[files.patient or ""]
        assert np.array_equal(read.hu, made.hu)
        assert np.abs(read.patient_from_voxel - made.patient_from_voxel).max() < POSITION_TOL_MM


def make_noise(low: int, high: int) -> CTVolume:
    """Every slice different, odd sizes, and the extremes in it."""
    hu = np.random.default_rng(0).integers(low, high, (5, 7, 9)).astype(np.int16)
    hu[0, 0, :2] = low, high - 1
    return CTVolume(hu=hu, patient_from_voxel=make_grid((5, 7, 9), (0.7, 0.9, 2.5)))


STORAGES = {
    f"{'signed' if signed else 'unsigned'} {bits} of 16, {syntax.keyword}{junk}": Storage(
        syntax=syntax, bits=bits, signed=signed, intercept=0 if signed else -1024, junk=bool(junk)
    )
    for signed in (False, True)
    for bits in (12, 13, 16)
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian,
                   DeflatedExplicitVRLittleEndian, RLELossless)
    for junk in ("", ", junk above")
    if not (junk and (bits == 16 or syntax in (RLELossless, DeflatedExplicitVRLittleEndian)))
}  # fmt: skip


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_every_way_to_store_a_pixel_gives_the_same_hu(storage: Storage, tmp_path: Path) -> None:
    low = storage.intercept if not storage.signed else -(2 ** (storage.bits - 1))
    high = min(low + 2**storage.bits, 2**15)
    volume = make_noise(low, high)
    write_series(volume, tmp_path / "ct", "a", storage=storage)
    wanted = np.where(volume.hu < -1100, -1024, volume.hu)  # nothing is lighter than air
    assert np.array_equal(read_volume(tmp_path / "ct").hu, wanted)


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEGLS", "JPEG"])
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_slices_are_read_without_a_plugin(
    compressor: str, signed: bool, tmp_path: Path
) -> None:
    """Lossless JPEG of all kinds, as archives keep CT: the GDCM inside SimpleITK decodes them."""
    volume = make_noise(-1000, 2000)
    storage = Storage(signed=signed, intercept=0 if signed else -1024)

    def compress(d: Dataset, z: int) -> None:
        words = storage.pack(volume.hu[z]).view(np.int16 if signed else np.uint16)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
        writer.SetFileName(str(tmp_path / "one.dcm"))
        writer.Execute(sitk.GetImageFromArray(words[None]))
        packed = pydicom.dcmread(tmp_path / "one.dcm")
        d.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        assert d.file_meta.TransferSyntaxUID.is_encapsulated
        d["PixelData"] = packed["PixelData"]

    write_changed(volume, tmp_path / "ct", compress, storage)
    assert np.array_equal(read_volume(tmp_path / "ct").hu, volume.hu)


def write_changed(
    volume: CTVolume,
    folder: Path,
    change: Callable[[Dataset, int], None],
    storage: Storage = PLAIN,
) -> None:
    """Write a series with every slice changed."""
    folder.mkdir()
    for z in range(len(volume.hu)):
        d = make_slice(volume, z, "a", storage)
        change(d, z)
        d.save_as(folder / f"{z}.dcm", enforce_file_format=True)


def check_refused(folder: Path, reason: Reason) -> None:
    with pytest.raises(VolumeError) as caught:
        read_volume(folder)
    assert caught.value.code is reason


def test_padding_outside_the_field_of_view_becomes_air(tmp_path: Path) -> None:
    volume = make_noise(-1000, 2000)
    volume.hu[:, 0] = -1024 + 5
    storage = Storage(bits=12, signed=False)

    def pad(d: Dataset, z: int) -> None:
        d.add_new("PixelPaddingValue", "US", 5)

    write_changed(volume, tmp_path / "ct", pad, storage)
    wanted = volume.hu.copy()
    wanted[:, 0] = -1024
    assert np.array_equal(read_volume(tmp_path / "ct").hu, wanted)


def test_padding_below_zero_is_found_whatever_sign_its_tag_has(tmp_path: Path) -> None:
    """-2000 as US is 63536: some scanners write it so beside signed pixels."""
    volume = make_noise(-1000, 2000)
    volume.hu[:, 0] = -2000

    def pad(d: Dataset, z: int) -> None:
        d.add_new("PixelPaddingValue", "US", 63536)

    write_changed(volume, tmp_path / "ct", pad, Storage(signed=True, intercept=0))
    hu = read_volume(tmp_path / "ct").hu
    assert (hu[:, 0] == -1024).all()
    assert np.array_equal(hu[:, 1:], volume.hu[:, 1:])


def test_a_slope_of_each_slice_is_applied_to_it(tmp_path: Path) -> None:
    volume = make_noise(0, 1000)

    def scale(d: Dataset, z: int) -> None:
        d.RescaleSlope, d.RescaleIntercept = z + 0.5, -1000

    write_changed(volume, tmp_path / "ct", scale)
    slope = (np.arange(5) + 0.5)[:, None, None]
    wanted = np.rint((volume.hu.astype(float) + 1024) * slope - 1000)
    assert np.array_equal(read_volume(tmp_path / "ct").hu, wanted)


def test_hu_that_int16_cannot_hold_are_clipped_with_a_warning(tmp_path: Path) -> None:
    volume = make_noise(-1024, 2000)

    def lift(d: Dataset, z: int) -> None:
        d.RescaleIntercept = 32000

    write_changed(volume, tmp_path / "ct", lift)
    read = read_volume(tmp_path / "ct")
    wanted = np.minimum(volume.hu.astype(int) + 1024 + 32000, 32767)
    assert np.array_equal(read.hu, wanted)
    assert read.source is not None and read.source.warnings == ("hu_clipped",)


def remove(tag: str) -> Callable[[Dataset, int], None]:
    def change(d: Dataset, z: int) -> None:
        if z == 2:
            del d[tag]

    return change


def put(tag: str, value: object, *, only: int | None = 2) -> Callable[[Dataset, int], None]:
    def change(d: Dataset, z: int) -> None:
        if only in (None, z):
            setattr(d, tag, value)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (remove("ImagePositionPatient"), Reason.NO_POSITION),
        (remove("ImageOrientationPatient"), Reason.NO_ORIENTATION),
        (remove("RescaleSlope"), Reason.NO_RESCALE),
        (remove("RescaleIntercept"), Reason.NO_RESCALE),
        (remove("PixelData"), Reason.UNREADABLE_SLICE),
        (put("RescaleType", "OD"), Reason.HU_SUSPECT),
        (put("PhotometricInterpretation", "MONOCHROME1"), Reason.NOT_CT),
        (put("PixelSpacing", [0.5, 0.5]), Reason.PIXEL_MISMATCH),
        (put("Rows", 3), Reason.PIXEL_MISMATCH),
        (put("NumberOfFrames", 2), Reason.ENHANCED_UNSUPPORTED),
        (put("BitsStored", 17, only=None), Reason.UNREADABLE_SLICE),
        (put("Rows", 300, only=None), Reason.UNREADABLE_SLICE),
        (put("PixelSpacing", [0.5], only=None), Reason.METADATA_MISSING),
        (put("ImageOrientationPatient", [1, 0, 0, 0, 0, 1]), Reason.MIXED_ORIENTATION),
        (put("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], only=None), Reason.NO_ORIENTATION),
        (lambda d, z: put("ImagePositionPatient", [0, 0, 2.5 * min(z, 3)], only=z)(d, z),
         Reason.DUPLICATE_POSITIONS),
        (lambda d, z: put("ImagePositionPatient", [0, 5 * z, 2.5 * z], only=z)(d, z),
         Reason.TILT_REFUSED),
    ],
)  # fmt: skip
def test_a_series_that_cannot_be_trusted_is_refused_with_its_reason(
    change: Callable[[Dataset, int], None], reason: Reason, tmp_path: Path
) -> None:
    write_changed(make_noise(-1000, 2000), tmp_path / "ct", change)
    check_refused(tmp_path / "ct", reason)


def test_too_few_slices_are_refused(tmp_path: Path) -> None:
    volume = make_noise(-1000, 2000)
    two = CTVolume(hu=volume.hu[:2].copy(), patient_from_voxel=volume.patient_from_voxel)
    write_series(two, tmp_path / "ct", "a")
    check_refused(tmp_path / "ct", Reason.TOO_FEW_SLICES)


def test_a_slice_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    write_series(make_noise(-1000, 2000), tmp_path / "ct", "a")
    path = tmp_path / "ct" / "a3"
    path.write_bytes(path.read_bytes()[:-40])
    check_refused(tmp_path / "ct", Reason.UNREADABLE_SLICE)


def test_a_broken_compressed_slice_is_refused(tmp_path: Path) -> None:
    def spoil(d: Dataset, z: int) -> None:
        if z == 2:
            d.PixelData = pydicom.encaps.encapsulate([b"no picture at all"])
            d["PixelData"].VR = "OB"

    write_changed(make_noise(-1000, 2000), tmp_path / "ct", spoil, Storage(syntax=RLELossless))
    check_refused(tmp_path / "ct", Reason.UNSUPPORTED_TRANSFER_SYNTAX)


def test_files_without_preamble_and_meta_group_are_read(tmp_path: Path) -> None:
    volume = make_noise(-1000, 2000)
    (tmp_path / "ct").mkdir()
    for z in range(len(volume.hu)):
        d = make_slice(volume, z, "a")
        del d.file_meta
        d.save_as(tmp_path / "ct" / f"{z}", implicit_vr=True, little_endian=True)
    assert np.array_equal(read_volume(tmp_path / "ct").hu, volume.hu)


def test_localizers_and_secondary_captures_are_left_aside_and_counted(tmp_path: Path) -> None:
    volume = make_noise(-1000, 2000)
    write_series(volume, tmp_path / "ct", "a")
    for name, tag, value in (
        ("scout", "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ("report", "SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.22"),
        ("mr", "Modality", "MR"),
    ):
        d = make_slice(volume, 0, "a")
        setattr(d, tag, value)
        if name == "mr":
            d.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID
        d.save_as(tmp_path / "ct" / name, enforce_file_format=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cut").write_bytes((tmp_path / "ct" / "a0").read_bytes()[:140])
    listing = find_ct(tmp_path)
    assert listing.ignored == {"localizer": 1, "secondary": 1, "not_ct": 2}
    assert np.array_equal(read_ct(listing.found[0]).hu, volume.hu)


@pytest.mark.parametrize("directions", [np.diag([-1.0, -1.0, 1.0]), np.diag([1.0, 1.0, -1.0]),
                                        np.eye(3)[[1, 2, 0]]])  # fmt: skip
def test_slices_of_any_orientation_keep_their_place(directions: np.ndarray, tmp_path: Path) -> None:
    """A left-handed stack comes back right-handed, its voxels where they were."""
    made = make_torso(spacing_mm=12.0, directions=directions)
    write_series(made, tmp_path / "ct", "a")
    read = read_volume(tmp_path / "ct")
    flipped = np.linalg.det(made.patient_from_voxel[:3, :3]) < 0
    assert np.array_equal(read.hu, made.hu[::-1] if flipped else made.hu)
    assert np.allclose(np.sort(read.corners_mm, 0), np.sort(made.corners_mm, 0), atol=1e-3)
