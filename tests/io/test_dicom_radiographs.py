import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tifffile
import torch
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian

from drrgen.choices import ImageFormat, View
from drrgen.errors import InputError, RadiographError, Reason
from drrgen.io.dicom_radiographs import DicomFacts, find_patient_orientation
from drrgen.io.radiograph_listing import find_radiographs
from drrgen.io.radiographs import digest_pixels, read_radiograph, write_radiograph

EIGHT_BITS = 1 / 255 / 2 + 1e-6  # half a grey level of PNG8
SIXTEEN_BITS = 1 / 65535 / 2 + 1e-7  # half a grey level of PNG16
WINDOW_TOL = 1e-6  # float32 of numbers near 1
ROWS, COLUMNS = 40, 52
COLLIMATED, OPEN = (4, 6, 30, 20), (0, 0, COLUMNS, ROWS)
SETTINGS = {"drrgen:view": "PA", "drrgen:exposed_xywh": "[4, 6, 30, 20]", "drrgen:pitch_mm": "0.4"}


@pytest.fixture
def grey() -> torch.Tensor:
    return torch.rand((ROWS, COLUMNS), generator=torch.Generator().manual_seed(1))


def make_facts(view: str = "PA", **more: object) -> DicomFacts:
    values = {
        "patient_id": "ab" * 10, "study_id": "cd" * 10, "sample_id": "ef" * 10, "view": view,
        "draw": 0, "pitch_mm": 0.4123456789, "sid_mm": 1800.0, "sod_mm": 1630.0, "kvp": 125.0,
        "exposed_xywh": COLLIMATED, "render_fingerprint": "0123", "drrgen_version": "0.1.0",
    }  # fmt: skip
    return DicomFacts(**(values | more))  # type: ignore[arg-type]


def write(path: Path, image: torch.Tensor, **more: object) -> Dataset:
    write_radiograph(path, image, settings=SETTINGS, facts=make_facts(**more))  # type: ignore[arg-type]
    return pydicom.dcmread(path)


def change(path: Path, **elements: object) -> Path:
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def refuse(path: Path) -> Reason:
    with pytest.raises(RadiographError) as caught:
        read_radiograph(path)
    assert caught.value.remedy and caught.value.detail
    return caught.value.code


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not here; Debian has it in dicom3tools"
)
@pytest.mark.parametrize("view", list(View))
@pytest.mark.parametrize("exposed", [COLLIMATED, OPEN])
@pytest.mark.parametrize("more", [{}, {"kvp": None, "sid_mm": None, "sod_mm": None}])
def test_the_validator_finds_no_error(
    grey: torch.Tensor,
    tmp_path: Path,
    view: View,
    exposed: tuple[int, ...],
    more: dict[str, object],
) -> None:
    write(tmp_path / "x.dcm", grey, view=view, exposed_xywh=exposed, **more)
    said = subprocess.run(
        ["dciodvfy", str(tmp_path / "x.dcm")], capture_output=True, text=True, check=False
    ).stderr
    assert "DXImageForPresentation" in said
    assert not [line for line in said.splitlines() if "Error" in line]


def test_every_reader_sees_the_pixels_of_the_png(grey: torch.Tensor, tmp_path: Path) -> None:
    digest = write_radiograph(tmp_path / "x.png", grey, format=ImageFormat.PNG16)
    assert digest == write_radiograph(tmp_path / "x.dcm", grey, facts=make_facts())
    with Image.open(tmp_path / "x.png") as image:
        png = np.asarray(image).astype(np.uint16)
    assert (pydicom.dcmread(tmp_path / "x.dcm").pixel_array == png).all()
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "x.dcm")))[0] == png).all()
    assert digest_pixels(png) == digest


def test_the_same_picture_gives_the_same_bytes_and_another_one_another_instance(
    grey: torch.Tensor, tmp_path: Path
) -> None:
    first = write(tmp_path / "a.dcm", grey)
    write(tmp_path / "b.dcm", grey)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    others = [
        write(tmp_path / "c.dcm", grey, view="LL"),
        write(tmp_path / "c.dcm", grey, draw=1),
        write(tmp_path / "c.dcm", grey, render_fingerprint="4567"),
        write(tmp_path / "c.dcm", 1 - grey),
    ]
    assert len({d.SOPInstanceUID for d in [first, *others]}) == 5
    assert {d.StudyInstanceUID for d in others} == {first.StudyInstanceUID}
    assert first.SeriesInstanceUID != others[0].SeriesInstanceUID
    assert write(tmp_path / "c.dcm", grey, study_id="00").StudyInstanceUID != first.StudyInstanceUID


def test_it_says_what_it_is_and_who_it_is_not(grey: torch.Tensor, tmp_path: Path) -> None:
    dataset = write(tmp_path / "x.dcm", grey)
    assert dataset.ImageType[0] == "DERIVED" and "synthetic" in dataset.DerivationDescription
    assert dataset.PatientID == "ab" * 10 and dataset.PatientName == ""
    times = [e for e in dataset.iterall() if e.VR in ("DA", "TM", "DT") and e.value]
    assert times == []
    private = dataset.private_block(0x0019, "DRRGEN")[0x01].value
    assert json.loads(private) == SETTINGS


def test_its_geometry_is_that_of_the_picture(grey: torch.Tensor, tmp_path: Path) -> None:
    dataset = write(tmp_path / "x.dcm", grey, pitch_mm=0.9, sid_mm=1800.0, sod_mm=1200.0)
    assert (dataset.DistanceSourceToDetector, dataset.DistanceSourceToPatient) == (1800, 1200)
    assert dataset.EstimatedRadiographicMagnificationFactor == 1.5
    assert list(dataset.ImagerPixelSpacing) == [0.9, 0.9]
    assert list(dataset.PixelSpacing) == [0.6, 0.6]
    assert dataset.KVP == 125


@pytest.mark.parametrize(
    ("view", "letters"),
    [("PA", ["L", "F"]), ("AP", ["L", "F"]), ("LL", ["P", "F"]), ("RL", ["A", "F"])],
)
def test_rows_and_columns_lead_where_a_radiologist_expects(view: str, letters: list[str]) -> None:
    assert find_patient_orientation(view) == letters
    assert find_patient_orientation(view, (5.0, -5.0, 10.0)) == letters


def test_a_quarter_turn_changes_the_letters() -> None:
    assert find_patient_orientation("PA", (0.0, 0.0, 90.0)) in (["P", "F"], ["A", "F"])
    assert find_patient_orientation("PA", (0.0, 0.0, -30.0))[0] in ("LA", "LP")


def test_dicom_without_facts_is_the_callers_mistake(grey: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="facts"):
        write_radiograph(tmp_path / "x.dcm", grey)
    assert not (tmp_path / "x.dcm").exists()


@pytest.mark.parametrize(
    ("name", "format_", "tolerance"),
    [("x.png", ImageFormat.PNG8, EIGHT_BITS), ("x.png", ImageFormat.PNG16, SIXTEEN_BITS),
     ("x.dcm", ImageFormat.DICOM, SIXTEEN_BITS)],
)  # fmt: skip
def test_what_was_written_is_read_back(
    grey: torch.Tensor, tmp_path: Path, name: str, format_: ImageFormat, tolerance: float
) -> None:
    path = tmp_path / name
    facts = make_facts(pitch_mm=0.4)
    write_radiograph(path, grey, format=format_, settings=SETTINGS, facts=facts)
    back = read_radiograph(path)
    assert torch.allclose(back.grey, grey, rtol=0, atol=tolerance)
    assert (back.view, back.exposed_xywh, back.pitch_mm) == (View.PA, COLLIMATED, 0.4)


@pytest.mark.parametrize("name", ["x.npy", "x.tiff"])
def test_line_integrals_are_read_in_proportion(tmp_path: Path, name: str) -> None:
    line_integral = torch.tensor([[0.0, 6.0, 12.0]])
    write_radiograph(tmp_path / name, line_integral, settings=SETTINGS)
    assert read_radiograph(tmp_path / name).grey.tolist() == [[0.0, 0.5, 1.0]]


def test_colour_and_jpeg_pictures_become_grey(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), (255, 255, 255)).save(tmp_path / "x.jpg")
    back = read_radiograph(tmp_path / "x.jpg")
    assert back.grey.shape == (6, 8) and float(back.grey.min()) > 0.99
    assert (back.view, back.pitch_mm, back.exposed_xywh) == (None, None, None)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_tiff_that_keeps_white_as_zero_is_not_read_as_a_negative(
    tmp_path: Path, kind: type, compression: str | None
) -> None:
    white = np.iinfo(kind).max
    stored = np.linspace(white, 0, 20).astype(kind).reshape(4, 5)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="miniswhite", compression=compression)
    assert np.allclose(read_radiograph(tmp_path / "x.tif").grey * white, white - stored)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("name", ["x.png", "x.npy", "x.tif", "negative.tif"])
def test_sixteen_bits_that_hold_a_detectors_fewer_are_not_nearly_black(
    tmp_path: Path, bits: int, name: str
) -> None:
    white = 2**bits - 1
    stored = np.linspace(0.2 * white, 0.9 * white, 20).astype(np.uint16).reshape(4, 5)
    if name == "x.png":
        Image.fromarray(stored).save(tmp_path / name)
    elif name == "x.npy":
        np.save(tmp_path / name, stored)
    else:
        photometric = "miniswhite" if name == "negative.tif" else "minisblack"
        tifffile.imwrite(tmp_path / name, stored, photometric=photometric)
    back = read_radiograph(tmp_path / name)
    wanted = 1 - stored / white if name == "negative.tif" else stored / white
    assert back.used_bits == (None if bits == 16 else bits)
    assert np.allclose(back.grey, wanted, rtol=0, atol=SIXTEEN_BITS)


@pytest.mark.parametrize("settings", [None, SETTINGS, {"note": "mine"}])
def test_a_dark_picture_of_our_own_stays_dark(
    tmp_path: Path, settings: dict[str, str] | None
) -> None:
    write_radiograph(tmp_path / "x.png", torch.full((4, 5), 0.01), settings=settings)
    back = read_radiograph(tmp_path / "x.png")
    assert back.used_bits is None and float(back.grey.max()) < 0.011


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "I;16"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits"])
def test_scans_as_tiff_are_read_whatever_their_colours(
    tmp_path: Path, mode: str, compression: str
) -> None:
    picture = np.zeros((6, 8), dtype=np.uint8)
    picture[:, 5:] = 255
    image = (
        Image.fromarray(picture.astype(np.uint16) * 257) if mode == "I;16"
        else Image.fromarray(picture).convert(mode)
    )  # fmt: skip
    image.save(tmp_path / "x.tif", compression=compression)
    assert np.allclose(read_radiograph(tmp_path / "x.tif").grey, picture / 255, atol=EIGHT_BITS)


def test_a_photograph_of_a_film_is_turned_upright(tmp_path: Path) -> None:
    upright = np.zeros((8, 4), dtype=np.uint8)
    upright[:2] = 255  # the top
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned clockwise for viewing: EXIF 2.32, 4.6.4
    Image.fromarray(np.rot90(upright)).save(tmp_path / "x.png", exif=turned)
    assert np.array_equal(read_radiograph(tmp_path / "x.png").grey, upright / 255)


def test_pictures_are_found_by_their_content_too(tmp_path: Path) -> None:
    Image.new("L", (8, 6)).save(tmp_path / "IM0001", "PNG")
    Image.new("L", (8, 6)).save(tmp_path / "IM0002", "JPEG")
    (tmp_path / "notes").write_text("no picture")
    found = find_radiographs(tmp_path)
    assert [each.name for each in found.found] == ["IM0001", "IM0002"]
    assert found.ignored == {"not_radiograph": 1}


def test_monochrome1_is_inverted(grey: torch.Tensor, tmp_path: Path) -> None:
    write(tmp_path / "x.dcm", grey)
    change(tmp_path / "x.dcm", PhotometricInterpretation="MONOCHROME1")
    back = read_radiograph(tmp_path / "x.dcm").grey
    assert torch.allclose(back, 1 - grey, rtol=0, atol=SIXTEEN_BITS)


def test_the_first_window_is_applied(grey: torch.Tensor, tmp_path: Path) -> None:
    write(tmp_path / "x.dcm", grey)
    stored = pydicom.dcmread(tmp_path / "x.dcm").pixel_array.astype(float)
    change(tmp_path / "x.dcm", WindowCenter=["20000", "1"], WindowWidth=["10001", "2"])
    back = read_radiograph(tmp_path / "x.dcm").grey.numpy()
    # PS3.3 C.11.2.1.2.1 with centre 20000 and width 10001: 14999.5 is black, 24999.5 white.
    expected = np.clip((stored - 14999.5) / 10000, 0, 1)
    assert np.allclose(back, expected, rtol=0, atol=WINDOW_TOL)


def test_a_voi_lut_is_applied_and_its_largest_entry_is_white(
    grey: torch.Tensor, tmp_path: Path
) -> None:
    write(tmp_path / "x.dcm", grey)
    lut = Dataset()
    lut.LUTDescriptor = [256, 0, 12]
    lut.LUTData = np.minimum(np.arange(256) * 32, 4000).astype("<u2").tobytes()
    change(tmp_path / "x.dcm", VOILUTSequence=[lut], RescaleSlope="0.00390625")
    stored = pydicom.dcmread(tmp_path / "x.dcm").pixel_array
    expected = np.minimum(np.minimum(np.rint(stored / 256), 255) * 32, 4000) / 4000
    back = read_radiograph(tmp_path / "x.dcm").grey.numpy()
    assert np.allclose(back, expected, rtol=0, atol=WINDOW_TOL)


def test_without_a_window_the_grey_spans_the_values(grey: torch.Tensor, tmp_path: Path) -> None:
    write(tmp_path / "x.dcm", 0.2 + 0.1 * grey)
    change(tmp_path / "x.dcm", WindowCenter=None, WindowWidth=None)
    back = read_radiograph(tmp_path / "x.dcm").grey
    assert (float(back.min()), float(back.max())) == (0.0, 1.0)


@pytest.mark.parametrize("width", ["0", "-5"])
def test_a_window_that_cannot_be_counts_as_none(
    grey: torch.Tensor, tmp_path: Path, width: str
) -> None:
    write(tmp_path / "x.dcm", 0.2 + 0.1 * grey)
    wanted = read_radiograph(change(tmp_path / "x.dcm", WindowCenter=None, WindowWidth=None)).grey
    back = read_radiograph(change(tmp_path / "x.dcm", WindowCenter="9", WindowWidth=width)).grey
    assert torch.equal(back, wanted)


def test_headers_that_make_no_grey_are_refused(grey: torch.Tensor, tmp_path: Path) -> None:
    for elements in ({"RescaleSlope": "1e306", "WindowCenter": None, "WindowWidth": None},
                     {"NumberOfFrames": "1\\1"}):  # fmt: skip
        write(tmp_path / "x.dcm", grey)
        refuse(change(tmp_path / "x.dcm", **elements))


def test_a_deflated_file_that_is_cut_short_is_refused_and_stops_no_search(
    grey: torch.Tensor, tmp_path: Path
) -> None:
    dataset = write(tmp_path / "x.dcm", grey)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "x.dcm")
    assert torch.allclose(read_radiograph(tmp_path / "x.dcm").grey, grey, rtol=0, atol=SIXTEEN_BITS)
    (tmp_path / "x.dcm").write_bytes((tmp_path / "x.dcm").read_bytes()[:-50])
    assert [each.name for each in find_radiographs(tmp_path).found] == ["x.dcm"]
    assert refuse(tmp_path / "x.dcm") is Reason.TRUNCATED_FILE


def test_a_pitch_of_zero_and_a_collimator_in_other_units_count_as_unknown(
    grey: torch.Tensor, tmp_path: Path
) -> None:
    write(tmp_path / "x.dcm", grey)
    change(tmp_path / "x.dcm", ImagerPixelSpacing=None, PixelSpacing=["0.000", "0.000"],
           CollimatorLeftVerticalEdge=-184, ViewPosition="LLO")  # fmt: skip
    back = read_radiograph(tmp_path / "x.dcm")
    assert (back.pitch_mm, back.exposed_xywh, back.view) == (None, None, None)


def test_a_ct_and_a_raw_image_and_a_header_alone_are_refused(
    grey: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "x.dcm"
    write(path, grey)
    assert refuse(change(path, PixelData=None)) is Reason.NO_IMAGE
    write(path, grey)
    assert refuse(change(path, PresentationIntentType="FOR PROCESSING")) is Reason.NOT_RADIOGRAPH
    write(path, grey)
    assert refuse(change(path, NumberOfFrames=2)) is Reason.NOT_RADIOGRAPH
    write(path, grey)
    assert refuse(change(path, SOPClassUID=CTImageStorage, Modality="CT")) is Reason.NOT_RADIOGRAPH


def test_pixels_cut_short_are_refused(grey: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    write(path, grey)
    path.write_bytes(path.read_bytes()[:-100])
    assert refuse(path) is Reason.UNSUPPORTED_TRANSFER_SYNTAX


@pytest.mark.parametrize("content", [b"", b"no radiograph at all" * 20, b"\0" * 128 + b"DICM"])
def test_what_is_only_called_dicom_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.dcm").write_bytes(content)
    assert refuse(tmp_path / "x.dcm") in (Reason.NOT_RADIOGRAPH, Reason.TRUNCATED_FILE)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_dicom_file_without_a_head_is_read(
    grey: torch.Tensor, tmp_path: Path, implicit: bool
) -> None:
    dataset = write(tmp_path / "x.dcm", grey)
    del dataset.file_meta
    dataset.save_as(tmp_path / "y.dcm", implicit_vr=implicit, little_endian=True)
    back = read_radiograph(tmp_path / "y.dcm").grey
    assert torch.allclose(back, grey, rtol=0, atol=SIXTEEN_BITS)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\x93NUMPY\x01", b"II*\0\0\0", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    assert refuse(tmp_path / "x.png") is Reason.TRUNCATED_FILE


def test_arrays_of_other_shapes_or_with_gaps_are_refused(tmp_path: Path) -> None:
    for values, code in (
        (np.zeros((2, 3, 4)), Reason.NOT_RADIOGRAPH),
        (np.zeros((0, 4)), Reason.NOT_RADIOGRAPH),
        (np.array([["a"]]), Reason.NOT_RADIOGRAPH),
        (np.full((2, 2), np.nan), Reason.NAN_VOXELS),
        (np.full((2, 2), 1e300), Reason.NAN_VOXELS),
    ):
        buffer = io.BytesIO()
        np.save(buffer, values)
        (tmp_path / "x.npy").write_bytes(buffer.getvalue())
        assert refuse(tmp_path / "x.npy") is code
