"""What values mean: rescale, padding, bits, byte order and compression."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import Plan, Storage, check_field, write_slices
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from drrgen.errors import Reason, VolumeError
from drrgen.io import dicom
from drrgen.io.volumes import read_volume
from drrgen.volume import CTVolume

PLACES = [2.0 * k for k in range(6)]
SIGNED = Plan(storage=Storage(signed=True, intercept=0))


def read(folder: Path, *warnings: str) -> CTVolume:
    volume = read_volume(folder)
    assert volume.source is not None and volume.source.warnings == warnings
    return volume


def check_refused(folder: Path, reason: Reason) -> None:
    with pytest.raises(VolumeError) as caught:
        read_volume(folder)
    assert caught.value.code is reason


def write(folder: Path, plan: Plan | None = None, **tags: object) -> None:
    write_slices(folder, [(plan or Plan()).make(mm, **tags) for mm in PLACES])


def put_words(d: Dataset, words: np.ndarray) -> Dataset:
    """Put stored values in place of those of the field."""
    d.PixelData = words.astype("<i2" if d.PixelRepresentation else "<u2").tobytes()
    d["PixelData"].VR = "OW"
    return d


@pytest.mark.hazard(13, "some slices without a scale: refused")
@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
def test_a_scale_that_some_slices_lack_is_refused(tag: str, tmp_path: Path) -> None:
    tags: dict[str, Any] = {tag: None}
    write_slices(tmp_path, [Plan().make(mm, **(tags if mm == 4 else {})) for mm in PLACES])
    check_refused(tmp_path, Reason.NO_RESCALE)


@pytest.mark.hazard(13, "no scale at all, and values that are no HU: refused")
@pytest.mark.parametrize("signed", [False, True])
def test_stored_values_without_a_scale_are_refused(signed: bool, tmp_path: Path) -> None:
    plan = Plan(storage=Storage(signed=signed, intercept=-1024))
    slices = [plan.make(mm, RescaleSlope=None, RescaleIntercept=None) for mm in PLACES]
    write_slices(tmp_path, slices)
    check_refused(tmp_path, Reason.NO_RESCALE)


@pytest.mark.hazard(13, "no scale, but signed values with air in them are HU: `rescale_assumed`")
def test_signed_values_with_air_are_taken_for_hu_and_it_is_said(tmp_path: Path) -> None:
    slices = []
    for mm in PLACES:
        d = SIGNED.make(mm, RescaleSlope=None, RescaleIntercept=None)
        words = np.frombuffer(d.PixelData, "<i2").copy()
        words[:40] = -1000
        slices.append(put_words(d, words))
    write_slices(tmp_path, slices)
    volume = read(tmp_path, "rescale_assumed")
    assert volume.source is not None and volume.source.hu_source == "assumed"
    assert (volume.hu.reshape(6, -1)[:, :40] == -1000).all()


@pytest.mark.hazard(13, "a slope of zero, or values said to be no HU: refused")
@pytest.mark.parametrize(
    ("tags", "reason"),
    [({"RescaleSlope": 0}, Reason.NO_RESCALE), ({"RescaleType": "OD"}, Reason.HU_SUSPECT)],
)
def test_a_scale_of_something_else_is_refused(
    tags: dict[str, object], reason: Reason, tmp_path: Path
) -> None:
    write(tmp_path, **tags)
    check_refused(tmp_path, reason)


@pytest.mark.hazard(13, "each slice has a scale of its own, and gets it")
def test_a_slope_of_each_slice_is_applied_to_it(tmp_path: Path) -> None:
    slices = []
    for k, mm in enumerate(PLACES):
        d = SIGNED.make(mm)
        hu = np.frombuffer(d.PixelData, "<i2")
        d.RescaleSlope, d.RescaleIntercept = 0.25 * (k + 1), -10 * k
        slices.append(put_words(d, np.rint((hu + 10 * k) / (0.25 * (k + 1)))))
    write_slices(tmp_path, slices)
    assert not check_field(read(tmp_path), tolerance_hu=1.5).any()


PADDINGS = {
    "signed": (True, 0, -2000, None),
    "signed, HU -3024 after rescale": (True, -1024, -2000, None),
    "unsigned": (False, -1024, 0, None),
    "a range": (True, 0, -2000, -1500),
    "a range the other way round": (True, 0, -1500, -2000),
    "bright padding": (False, -1024, 4000, None),
}


@pytest.mark.hazard(16, "padding is masked before the rescale, its range too, and becomes air")
@pytest.mark.parametrize(("signed", "intercept", "value", "limit"), PADDINGS.values(), ids=PADDINGS)
@pytest.mark.parametrize("slope", [1, 1.5])
def test_padding_becomes_air(
    signed: bool, intercept: int, value: int, limit: int | None, slope: float, tmp_path: Path
) -> None:
    plan = Plan(storage=Storage(signed=signed, intercept=intercept))
    slices = []
    for mm in PLACES:
        d = plan.make(mm, RescaleSlope=slope)
        words = np.frombuffer(d.PixelData, "<i2" if signed else "<u2").copy()
        words[:10], words[10:20] = value, value if limit is None else (value + limit) // 2
        d.add_new("PixelPaddingValue", "US", value & 0xFFFF)  # many write signed values so
        if limit is not None:
            d.add_new("PixelPaddingRangeLimit", "US", limit & 0xFFFF)
        slices.append(put_words(d, words))
    write_slices(tmp_path, slices)
    hu = read(tmp_path).hu.reshape(6, -1)
    assert (hu[:, :20] == -1024).all()
    assert (hu[:, 20:] > -1000).all()


@pytest.mark.hazard(16, "what is less than -1100 HU is padding that no tag told of")
def test_values_lighter_than_air_become_air(tmp_path: Path) -> None:
    slices = [SIGNED.make(mm) for mm in PLACES]
    for d in slices:
        words = np.frombuffer(d.PixelData, "<i2").copy()
        words[:10] = -3024
        put_words(d, words)
    write_slices(tmp_path, slices)
    padding = check_field(read(tmp_path))
    assert padding.sum() == 60


@pytest.mark.hazard(18, "values beyond BitsStored are refused, not wrapped around")
@pytest.mark.parametrize("signed", [False, True])
def test_values_beyond_their_bits_are_refused(signed: bool, tmp_path: Path) -> None:
    plan = Plan(storage=Storage(bits=12, signed=signed, intercept=0 if signed else -1024))
    slices = [plan.make(mm) for mm in PLACES]
    words = np.frombuffer(slices[3].PixelData, "<i2").copy()
    words[7] = 5000
    put_words(slices[3], words)
    write_slices(tmp_path, slices)
    check_refused(tmp_path, Reason.PIXEL_MISMATCH)


@pytest.mark.hazard(18, "bits of an overlay above the pixels are said to be that, and cut off")
def test_an_overlay_above_the_pixels_is_cut_off(tmp_path: Path) -> None:
    write(tmp_path, Plan(storage=Storage(bits=12, junk=True)))
    assert not check_field(read(tmp_path)).any()


@pytest.mark.hazard(18, "one slice of each series is compared with SimpleITK's reading")
def test_two_readers_that_differ_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    original = dicom.read_with_sitk

    def differ(path: Path) -> np.ndarray:
        theirs = original(path)
        assert theirs is not None
        theirs[0, 3, 3] += 5
        return theirs

    monkeypatch.setattr(dicom, "read_with_sitk", differ)
    check_refused(tmp_path, Reason.PIXEL_MISMATCH)
    monkeypatch.setattr(dicom, "read_with_sitk", lambda path: None)
    read(tmp_path, "pixels_unchecked")


@pytest.mark.hazard(19, "inverted or colored pixels are no CT: refused")
@pytest.mark.parametrize(
    "tags", [{"PhotometricInterpretation": "MONOCHROME1"}, {"SamplesPerPixel": 3}]
)
def test_inverted_pixels_are_refused(tags: dict[str, object], tmp_path: Path) -> None:
    write(tmp_path, **tags)
    check_refused(tmp_path, Reason.NOT_CT)


@pytest.mark.hazard(21, "big-endian, implicit and deflated files are read")
@pytest.mark.hazard(22, "read with pydicom 3, which has none of the old names")
@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian,
     DeflatedExplicitVRLittleEndian],
    ids=lambda uid: uid.keyword,
)  # fmt: skip
def test_every_uncompressed_syntax_gives_the_field(syntax: Any, tmp_path: Path) -> None:
    write(tmp_path, Plan(storage=Storage(syntax=syntax)))
    assert not check_field(read(tmp_path)).any()


def compress(d: Dataset, compressor: str, folder: Path) -> Dataset:
    """Compress a slice with the GDCM inside SimpleITK."""
    shape = (d.Rows, d.Columns)
    words = np.frombuffer(d.PixelData, "<i2" if d.PixelRepresentation else "<u2").reshape(1, *shape)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.SetFileName(str(folder / "one.dcm"))
    writer.Execute(sitk.GetImageFromArray(words))
    packed = pydicom.dcmread(folder / "one.dcm")
    d.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    d["PixelData"] = packed["PixelData"]
    return d


@pytest.mark.hazard(20, "JPEG lossless, JPEG-LS, JPEG 2000 and RLE are decoded")
@pytest.mark.parametrize("compressor", ["JPEG", "JPEGLS", "JPEG2000", "RLE"])
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_slices_give_the_field(compressor: str, signed: bool, tmp_path: Path) -> None:
    storage = Storage(signed=signed, intercept=0 if signed else -1024)
    if compressor == "RLE":
        storage = Storage(signed=signed, intercept=storage.intercept, syntax=RLELossless)
    slices = [Plan(storage=storage).make(mm) for mm in PLACES]
    if compressor != "RLE":
        slices = [compress(d, compressor, tmp_path) for d in slices]
    write_slices(tmp_path / "ct", slices)
    assert not check_field(read(tmp_path / "ct")).any()


@pytest.mark.hazard(20, "lossy compression is read and said: `lossy_compression`")
@pytest.mark.parametrize("told_by", ["tag", "syntax"])
def test_lossy_compression_is_told(told_by: str, tmp_path: Path) -> None:
    slices = [compress(Plan().make(mm), "JPEG2000", tmp_path) for mm in PLACES]
    for d in slices:
        assert d.file_meta.TransferSyntaxUID == JPEG2000Lossless
        if told_by == "tag":
            d.LossyImageCompression = "01"
        else:
            d.file_meta.TransferSyntaxUID = JPEG2000
    write_slices(tmp_path / "ct", slices)
    read(tmp_path / "ct", "lossy_compression")


@pytest.mark.hazard(20, "what cannot be decoded is refused, with what to install")
def test_what_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    slices = [Plan(storage=Storage(syntax=RLELossless)).make(mm) for mm in PLACES]
    slices[2].PixelData = encapsulate([b"no picture at all"])
    slices[2]["PixelData"].VR = "OB"
    write_slices(tmp_path, slices)
    check_refused(tmp_path, Reason.UNSUPPORTED_TRANSFER_SYNTAX)


@pytest.mark.hazard(26, "metal keeps its HU, beyond int16 it is clipped: `hu_clipped`")
def test_metal_keeps_its_hu_and_what_int16_cannot_hold_is_clipped(tmp_path: Path) -> None:
    slices = [Plan().make(mm) for mm in PLACES]
    for d in slices:
        words = np.frombuffer(d.PixelData, "<u2").copy()
        words[:3] = 1024 + 8000, 65535, 1024 + 3072
        put_words(d, words)
    write_slices(tmp_path, slices)
    hu = read(tmp_path, "hu_clipped").hu.reshape(6, -1)
    assert (hu[:, :3] == [8000, 32767, 3072]).all()


@pytest.mark.hazard(17, "DICOM's whole numbers hold no NaN, but a scale may: refused")
def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    slices = [Plan().make(mm) for mm in PLACES]
    slices[1].add_new("RescaleSlope", "LO", "nan")
    write_slices(tmp_path, slices)
    check_refused(tmp_path, Reason.NO_RESCALE)
