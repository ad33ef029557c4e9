from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from drrgen.errors import Reason, VolumeError
from drrgen.io.volumes import find_ct, read_ct, read_volume
from drrgen.phantoms import make_torso
from drrgen.volume import CTVolume

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
POSITION_TOL_MM = 1e-4  # DICOM writes decimal strings


def write_series(volume: CTVolume, folder: Path, patient: str, *, skip: int = -1) -> None:
    folder.mkdir(exist_ok=True)
    matrix = volume.patient_from_voxel
    unit = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    order = np.random.default_rng(0).permutation(len(volume.hu))
    for name, z in enumerate(order):
        if z == skip:
            continue
        d = Dataset()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CT_IMAGE
        uid = f"1.2.3.{len(patient)}.{z + 1}"
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = uid
        d.Modality, d.PatientID = "CT", patient
        d.StudyInstanceUID = d.SeriesInstanceUID = f"1.2.3.{len(patient)}"
        d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        d.Rows, d.Columns = volume.hu.shape[1:]
        d.ImageOrientationPatient = [f"{x:.10g}" for x in [*unit[:, 0], *unit[:, 1]]]
        d.ImagePositionPatient = [f"{x:.8g}" for x in (matrix @ [0, 0, z, 1])[:3]]
        d.PixelSpacing = list(volume.spacing_zyx_mm[1:])
        d.RescaleSlope, d.RescaleIntercept = 1, -1024
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated = d.BitsStored = 16
        d.HighBit, d.PixelRepresentation = 15, 0
        d.PixelData = (volume.hu[z].astype(np.int32) + 1024).astype("<u2").tobytes()
        d.save_as(folder / f"{patient}{name}", enforce_file_format=True)


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


def test_a_missing_slice_is_refused(tmp_path: Path) -> None:
    write_series(make_torso(spacing_mm=8.0), tmp_path / "ct", "a", skip=7)
    with pytest.raises(VolumeError) as caught:
        read_volume(tmp_path)
    assert caught.value.code is Reason.SLICE_GAP
