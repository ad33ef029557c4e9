from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from ct_files import make_small_torso

from drrgen.io.dicom_ct import CTFacts, write_ct_series
from drrgen.io.volumes import find_ct, read_ct
from drrgen.volume import CTVolume

FACTS = CTFacts(
    patient_id="virtual_0001", study="virtual_0001_a", series="virtual_0001_a_1", number=1,
    kernel="soft", sex="F", contrast=True, version="1 abc",
)  # fmt: skip


def test_a_written_series_is_read_back_voxel_for_voxel(tmp_path: Path) -> None:
    volume = make_small_torso()
    paths = write_ct_series(tmp_path / "ct", volume, FACTS)
    assert len(paths) == len(volume.hu)
    (files,) = find_ct(tmp_path).found
    read = read_ct(files)
    np.testing.assert_array_equal(read.hu, volume.hu)
    np.testing.assert_allclose(read.patient_from_voxel, volume.patient_from_voxel, atol=1e-6)


def test_an_oblique_series_keeps_its_place(tmp_path: Path) -> None:
    torso = make_small_torso()
    matrix = torso.patient_from_voxel.copy()
    cos, sin = np.cos(0.2), np.sin(0.2)
    matrix[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ matrix[:3, :3]
    volume = CTVolume(hu=torso.hu, patient_from_voxel=matrix)
    write_ct_series(tmp_path, volume, FACTS)
    read = read_ct(find_ct(tmp_path).found[0])
    np.testing.assert_allclose(read.patient_from_voxel, matrix, atol=1e-5)


def test_the_same_volume_gives_the_same_bytes_and_other_names_other_uids(tmp_path: Path) -> None:
    volume = make_small_torso()
    first = write_ct_series(tmp_path / "a", volume, FACTS)
    again = write_ct_series(tmp_path / "b", volume, FACTS)
    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in again]
    other = write_ct_series(tmp_path / "c", volume, replace(FACTS, series="virtual_0001_a_2"))
    one, two = (pydicom.dcmread(paths[0]) for paths in (first, other))
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID


def test_it_says_that_nobody_is_shown(tmp_path: Path) -> None:
    (path, *_) = write_ct_series(tmp_path, make_small_torso(), FACTS)
    dataset = pydicom.dcmread(path)
    assert "synthetic" in dataset.ImageComments
    assert dataset.ImageType[0] == "DERIVED"
    assert dataset.PatientName == ""
    assert dataset.StudyDate == ""
    assert dataset.ContrastBolusAgent == "iodine"
