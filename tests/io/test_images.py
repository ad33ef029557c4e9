"""NRRD and MetaImage: frames, byte orders, detached data, and headers that disagree with it."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from ct_files import make_small_torso, write_ct

from drrgen.errors import Reason, VolumeError
from drrgen.io.hounsfield import PADDING_TO_AIR, check_hounsfield
from drrgen.io.volumes import read_volume
from drrgen.volume import CTVolume

TEXT_MM = 1e-4  # headers are decimal text
REAL_NRRD = Path(os.environ.get("DRRGEN_CTCHEST4", ""))


@pytest.fixture
def torso() -> CTVolume:
    return make_small_torso()


def check_refused(path: Path, reason: Reason) -> None:
    with pytest.raises(VolumeError) as caught:
        read_volume(path)
    assert caught.value.code is reason


def make_nrrd(volume: CTVolume, **changes: str | None) -> bytes:
    """Write a NRRD by hand, lines changed, added or (None) left out."""
    nz, ny, nx = volume.hu.shape
    x, y, z, origin = (tuple(column) for column in volume.patient_from_voxel[:3].T.tolist())
    lines = {
        "type": "short", "dimension": "3", "space": "left-posterior-superior",
        "sizes": f"{nx} {ny} {nz}", "space directions": f"{x} {y} {z}",
        "kinds": "domain domain domain", "endian": "little", "encoding": "raw",
        "space origin": str(origin),
    }  # fmt: skip
    lines |= {name.replace("_", " "): text for name, text in changes.items()}
    text = "".join(f"{name}: {value}\n" for name, value in lines.items() if value is not None)
    return f"NRRD0004\n# written by hand\n{text}\n".replace(" (", " (").encode()


@pytest.mark.hazard(35, "NRRD in RAS, LAS and LPS: the same patient")
@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-posterior-superior", (1, 1, 1)), ("LPS", (1, 1, 1)), ("RAS", (-1, -1, 1)),
     ("right-anterior-superior", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1))],
)  # fmt: skip
def test_the_space_of_a_nrrd_is_believed(
    space: str, signs: tuple[int, int, int], torso: CTVolume, tmp_path: Path
) -> None:
    grid = np.diag([*signs, 1.0]) @ torso.patient_from_voxel
    said = CTVolume(hu=torso.hu, patient_from_voxel=grid)
    (tmp_path / "a.nrrd").write_bytes(make_nrrd(said, space=space) + torso.hu.tobytes())
    volume = read_volume(tmp_path / "a.nrrd")
    assert np.allclose(volume.patient_from_voxel, torso.patient_from_voxel)
    assert np.array_equal(volume.hu, torso.hu)


@pytest.mark.hazard(12, "flipped and swapped axes: the matrix tells, and agrees with ITK's")
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAI", "SPL", "PIR", "AIR"])
def test_any_order_of_axes_agrees_with_itk(
    axes: str, suffix: str, torso: CTVolume, tmp_path: Path
) -> None:
    image = sitk.GetImageFromArray(torso.hu)
    image.SetSpacing((0.7, 1.3, 2.9))
    image.SetOrigin((-10.0, 20.0, 300.0))
    sitk.WriteImage(sitk.DICOMOrient(image, axes), str(tmp_path / f"a{suffix}"))
    volume, itk = read_volume(tmp_path / f"a{suffix}"), sitk.ReadImage(tmp_path / f"a{suffix}")
    assert volume.orientation == axes
    assert np.array_equal(volume.hu, sitk.GetArrayFromImage(itk))
    for index in ((0, 0, 0), (3, 2, 1), (5, 0, 7)):
        point = volume.patient_from_voxel @ [*index, 1]
        assert np.allclose(point[:3], itk.TransformIndexToPhysicalPoint(index), atol=TEXT_MM)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_compressed_voxels_come_back(suffix: str, torso: CTVolume, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(torso.hu)
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), useCompression=True)
    assert np.array_equal(read_volume(tmp_path / f"a{suffix}").hu, torso.hu)


@pytest.mark.parametrize("order", ["little", "big"])
def test_both_byte_orders_are_read(order: str, torso: CTVolume, tmp_path: Path) -> None:
    data = torso.hu.astype("<i2" if order == "little" else ">i2").tobytes()
    (tmp_path / "a.nrrd").write_bytes(make_nrrd(torso, endian=order) + data)
    assert np.array_equal(read_volume(tmp_path / "a.nrrd").hu, torso.hu)
    write_ct(torso, tmp_path / "b.mhd")
    text = (tmp_path / "b.mhd").read_text()
    text = text.replace("ByteOrderMSB = False", f"ByteOrderMSB = {order == 'big'}")
    (tmp_path / "b.mhd").write_text(text.replace("b.raw", "c.raw").replace("CompressedData = True",
                                                                         "CompressedData = False"))  # fmt: skip
    (tmp_path / "c.raw").write_bytes(data)
    assert np.array_equal(read_volume(tmp_path / "b.mhd").hu, torso.hu)


@pytest.mark.hazard(35, "byte order that is not the data's: refused by the histogram")
def test_a_wrong_byte_order_is_found_by_the_values(torso: CTVolume, tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(make_nrrd(torso, endian="big") + torso.hu.tobytes())
    with pytest.raises(VolumeError) as caught:
        check_hounsfield(read_volume(tmp_path / "a.nrrd").hu)
    assert caught.value.code is Reason.HU_SUSPECT


@pytest.mark.hazard(35, "NRRD headers that leave something open: refused")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"space": None}, Reason.NO_ORIENTATION),
        ({"space": "scanner-xyz"}, Reason.NO_ORIENTATION),
        ({"space": None, "space_dimension": "3"}, Reason.NO_ORIENTATION),
        ({"space_directions": None}, Reason.NO_ORIENTATION),
        ({"space_directions": None, "spacings": "1 1 1"}, Reason.NO_ORIENTATION),
        ({"space_directions": "(1,0,0) (0,1,0) none"}, Reason.NO_ORIENTATION),
        ({"space_directions": "(1,0) (0,1) (1,1)"}, Reason.NO_ORIENTATION),
        ({"space_directions": "(1,0,0) (0,1,0) (0,nan,1)"}, Reason.NO_ORIENTATION),
        ({"space_directions": "(1,0,0) (0,1,0) (0,1,0)"}, Reason.NO_ORIENTATION),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0.2,1)"}, Reason.TILT_REFUSED),
        ({"space_directions": "(0,0,0) (0,1,0) (0,0,1)"}, Reason.NO_ORIENTATION),
        ({"space_directions": "(1,0,0) (0,1e9,0) (0,0,1)"}, Reason.SPACING_CONFLICT),
        ({"space_directions": "(a,b,c) (0,1,0) (0,0,1)"}, Reason.NO_ORIENTATION),
        ({"space_origin": None}, Reason.NO_POSITION),
        ({"space_origin": "(nan,0,0)"}, Reason.NO_ORIENTATION),
        ({"space_units": '"m" "m" "m"'}, Reason.METADATA_MISSING),
        ({"type": "block"}, Reason.NOT_CT),
        ({"type": None}, Reason.METADATA_MISSING),
        ({"endian": None}, Reason.METADATA_MISSING),
        ({"encoding": "bzip2"}, Reason.NO_IMAGE),
        ({"encoding": None}, Reason.NO_IMAGE),
        ({"sizes": "33 23"}, Reason.NO_IMAGE),
        ({"sizes": "33 23 -12"}, Reason.NO_IMAGE),
        ({"sizes": "33 23 1e3"}, Reason.NO_IMAGE),
        ({"sizes": "33 23 2"}, Reason.TOO_FEW_SLICES),
        ({"sizes": "33 23 11"}, Reason.PIXEL_MISMATCH),
        ({"sizes": "33 23 13"}, Reason.TRUNCATED_FILE),
        ({"sizes": "99999 99999 99999"}, Reason.NO_IMAGE),
        ({"dimension": "2"}, Reason.NO_IMAGE),
        ({"byte_skip": "-7"}, Reason.NO_IMAGE),
        ({"data_file": "LIST"}, Reason.NO_IMAGE),
        ({"data_file": "slice%03d.raw 1 12 1"}, Reason.NO_IMAGE),
        ({"data_file": "/dev/zero"}, Reason.NO_IMAGE),
        ({"data_file": "../a.raw"}, Reason.NO_IMAGE),
        ({"data_file": "missing.raw"}, Reason.NO_IMAGE),
    ],
)  # fmt: skip
def test_a_nrrd_that_leaves_something_open_is_refused(
    changes: dict[str, str | None], reason: Reason, torso: CTVolume, tmp_path: Path
) -> None:
    (tmp_path / "a.nrrd").write_bytes(make_nrrd(torso, **changes) + torso.hu.tobytes())
    check_refused(tmp_path / "a.nrrd", reason)


@pytest.mark.hazard(7, "4-D NRRD: multi_phase; several numbers a voxel: not_ct")
@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        ("domain domain domain list", Reason.MULTI_PHASE),
        ("vector domain domain domain", Reason.NOT_CT),
    ],
)
def test_a_fourth_axis_is_refused(
    kinds: str, reason: Reason, torso: CTVolume, tmp_path: Path
) -> None:
    axes = "(1,0,0) (0,1,0) (0,0,1)"
    directions = f"none {axes}" if kinds.startswith("vector") else f"{axes} none"
    head = make_nrrd(
        torso, dimension="4", sizes="2 2 2 2", kinds=kinds, space_directions=directions
    )
    (tmp_path / "a.nrrd").write_bytes(head + bytes(32))
    check_refused(tmp_path / "a.nrrd", reason)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_skips_before_the_voxels_are_taken(encoding: str, torso: CTVolume, tmp_path: Path) -> None:
    voxels = b"1234567" + torso.hu.tobytes()
    lines = b"a line\nanother\n"
    head = make_nrrd(torso, data_file="a.raw", line_skip="2", byte_skip="7", encoding=encoding)
    (tmp_path / "a.nhdr").write_bytes(head.rstrip(b"\n"))
    (tmp_path / "a.raw").write_bytes(
        lines + (gzip.compress(voxels) if encoding == "gzip" else voxels)
    )
    assert np.array_equal(read_volume(tmp_path / "a.nhdr").hu, torso.hu)


def test_voxels_at_the_end_of_their_file_are_found(torso: CTVolume, tmp_path: Path) -> None:
    (tmp_path / "a.nhdr").write_bytes(make_nrrd(torso, data_file="a.raw", byte_skip="-1"))
    (tmp_path / "a.raw").write_bytes(b"some header" + torso.hu.tobytes())
    assert np.array_equal(read_volume(tmp_path / "a.nhdr").hu, torso.hu)


def write_mhd(torso: CTVolume, path: Path, **changes: str | None) -> None:
    """Write header and .raw, lines changed, added or (None) left out."""
    image = sitk.GetImageFromArray(torso.hu)
    sitk.WriteImage(image, str(path))
    text = path.read_text()
    for name, value in changes.items():
        line = "" if value is None else f"{name} = {value}\n"
        text, count = re.subn(rf"^{name} =.*\n", line, text, flags=re.MULTILINE)
        text = text if count else line + text
    path.write_text(text)


@pytest.mark.hazard(35, "MetaImage headers that disagree with their data or leave something open")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"DimSize": "33 23 13"}, Reason.TRUNCATED_FILE),
        ({"DimSize": "33 23 11"}, Reason.PIXEL_MISMATCH),
        ({"DimSize": "32 23 12"}, Reason.PIXEL_MISMATCH),
        ({"DimSize": "33 23 0"}, Reason.NO_IMAGE),
        ({"DimSize": "33 23"}, Reason.NO_IMAGE),
        ({"DimSize": "9999999 9999999 9999999"}, Reason.NO_IMAGE),
        ({"ElementType": "MET_FLOAT"}, Reason.TRUNCATED_FILE),
        ({"ElementType": "MET_UCHAR"}, Reason.PIXEL_MISMATCH),
        ({"ElementType": "MET_STRING"}, Reason.NOT_CT),
        ({"ElementNumberOfChannels": "3"}, Reason.NOT_CT),
        ({"NDims": "4"}, Reason.MULTI_PHASE),
        ({"NDims": "2"}, Reason.NO_IMAGE),
        ({"NDims": None}, Reason.TRUNCATED_FILE),
        ({"BinaryData": "False"}, Reason.NO_IMAGE),
        ({"TransformMatrix": None}, Reason.NO_ORIENTATION),
        ({"TransformMatrix": "1 0 0 0 1 0"}, Reason.NO_ORIENTATION),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 0"}, Reason.NO_ORIENTATION),
        ({"Offset": None}, Reason.NO_ORIENTATION),
        ({"Offset": "nan 0 0"}, Reason.NO_ORIENTATION),
        ({"ElementSpacing": None}, Reason.NO_ORIENTATION),
        ({"ElementSpacing": "0 1 1"}, Reason.NO_ORIENTATION),
        ({"ElementSpacing": "nan 1 1"}, Reason.NO_ORIENTATION),
        ({"ElementDataFile": "gone.raw"}, Reason.NO_IMAGE),
        ({"ElementDataFile": "LIST"}, Reason.NO_IMAGE),
        ({"ElementDataFile": "/etc/passwd"}, Reason.NO_IMAGE),
        ({"HeaderSize": "-2"}, Reason.NO_IMAGE),
        ({"CompressedData": "True"}, Reason.TRUNCATED_FILE),
    ],
)  # fmt: skip
def test_a_metaimage_that_disagrees_with_itself_is_refused(
    changes: dict[str, str | None], reason: Reason, torso: CTVolume, tmp_path: Path
) -> None:
    write_mhd(torso, tmp_path / "a.mhd", **changes)
    check_refused(tmp_path / "a.mhd", reason)


@pytest.mark.hazard(35, ".mhd whose .raw is missing or cut: refused")
def test_a_header_without_its_data_is_refused(torso: CTVolume, tmp_path: Path) -> None:
    write_mhd(torso, tmp_path / "a.mhd")
    data = (tmp_path / "a.raw").read_bytes()
    (tmp_path / "a.raw").write_bytes(data[:-1])
    check_refused(tmp_path / "a.mhd", Reason.TRUNCATED_FILE)
    (tmp_path / "a.raw").unlink()
    check_refused(tmp_path / "a.mhd", Reason.NO_IMAGE)


@pytest.mark.hazard(24, "truncated anywhere: refused")
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_file_cut_anywhere_is_refused(suffix: str, torso: CTVolume, tmp_path: Path) -> None:
    write_ct(torso, tmp_path / f"a{suffix}")
    data = (tmp_path / f"a{suffix}").read_bytes()
    for length in {0, 1, 20, *np.linspace(0, len(data) - 1, 40).astype(int)}:
        (tmp_path / f"b{suffix}").write_bytes(data[:length])
        with pytest.raises(VolumeError):
            read_volume(tmp_path / f"b{suffix}")


@pytest.mark.skipif(not REAL_NRRD.is_file(), reason="DRRGEN_CTCHEST4 names no CTChest4.nrrd")
def test_the_real_nrrd_is_right_in_place_orientation_and_hu() -> None:
    volume, itk = read_volume(REAL_NRRD), sitk.ReadImage(REAL_NRRD)
    hu = sitk.GetArrayFromImage(itk)
    assert np.array_equal(volume.hu, np.where(hu < -1100, -1024, np.maximum(hu, -1024)))
    assert volume.source is not None and volume.source.warnings == (PADDING_TO_AIR,)
    point = volume.patient_from_voxel @ [5, 90, 30, 1]
    assert np.allclose(point[:3], itk.TransformIndexToPhysicalPoint((5, 90, 30)), atol=1e-3)
    check_hounsfield(volume.hu)
    # The lungs are the light part inside the body; the liver makes the right of the base heavier.
    assert volume.find_axis(2)[0] == 0
    base = volume.hu[:8] if volume.find_axis(2)[1] > 0 else volume.hu[-8:]
    middle = (base.shape[2] - 1) / 2
    soft = np.argwhere((base > 0) & (base < 150))[:, 2].mean()
    to_left = volume.find_axis(0)[1] * (soft - middle)
    assert to_left < 0
