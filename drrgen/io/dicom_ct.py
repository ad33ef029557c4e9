"""CT out as DICOM: one series of CT Image Storage, marked as derived and synthetic.

It names nobody and holds no time: the same volume gives the same bytes and the same UIDs.

Source: DICOM PS3.3 A.3 (the object), C.8.2.1 (CT image), C.7.6.2 (image plane).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from drrgen.io.atomic import atomic_path
from drrgen.io.dicom_radiographs import IMPLEMENTATION_UID, make_uid, to_decimal
from drrgen.volume import CTVolume

_INTERCEPT_HU = -1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CTFacts:
    """What a series says of itself beside its pixels.

    Attributes:
        patient_id: Pseudonym of the patient.
        study: Name of the visit; its series share a study UID made of it.
        series: Name of the reconstruction.
        number: Of the series in its study.
        kernel: Reconstruction kernel.
        sex: M, F or O.
        contrast: Contrast medium was given.
        version: Version of drrgen, and the fingerprint of the settings: part of every UID.
    """

    patient_id: str
    study: str
    series: str
    number: int
    kernel: str
    sex: str
    contrast: bool
    version: str


def write_ct_series(folder: Path, volume: CTVolume, facts: CTFacts) -> list[Path]:
    """Write a CT as a DICOM series, a file a slice.

    Args:
        folder: Is made; files are called ``0001.dcm`` and so on.
        volume: The CT.
        facts: What to say of it.

    Returns:
        The files.
    """
    paths = []
    for z, plane in enumerate(volume.hu):
        dataset = _describe_series(facts)
        dataset.update(_describe_slice(volume, z, plane))
        dataset.SOPInstanceUID = make_uid("ct instance", facts.version, facts.series, str(z))
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
        path = folder / f"{z + 1:04d}.dcm"
        with atomic_path(path) as partial:
            dataset.save_as(partial, enforce_file_format=True)
        paths.append(path)
    return paths


def _describe_series(facts: CTFacts) -> Dataset:
    """Patient, study, series and equipment: pseudonyms, and no time anywhere."""
    part = Dataset()
    part.SpecificCharacterSet = "ISO_IR 192"
    part.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    part.SOPClassUID = CTImageStorage
    part.StudyDate = part.StudyTime = part.AccessionNumber = part.ReferringPhysicianName = ""
    part.Modality = "CT"
    part.Manufacturer = part.ManufacturerModelName = "drrgen"
    part.SoftwareVersions = facts.version
    part.SeriesDescription = f"synthetic chest CT, {facts.kernel}"
    part.DerivationDescription = (
        "virtual patient made from one real CT by drrgen, synthetic, not for diagnosis"
    )
    part.ImageComments = "synthetic, not for diagnosis"
    part.PatientName = part.PatientBirthDate = ""
    part.PatientID = facts.patient_id
    part.PatientSex = facts.sex
    part.PatientIdentityRemoved = "YES"
    part.DeidentificationMethod = "no real person"
    part.BodyPartExamined = "CHEST"
    part.PatientPosition = "HFS"
    part.ContrastBolusAgent = "iodine" if facts.contrast else ""
    part.ConvolutionKernel = facts.kernel
    part.StudyInstanceUID = make_uid("ct study", facts.version, facts.study)
    part.SeriesInstanceUID = make_uid("ct series", facts.version, facts.series)
    part.FrameOfReferenceUID = make_uid("ct frame", facts.version, facts.study)
    part.PositionReferenceIndicator = ""
    part.StudyID = ""
    part.SeriesNumber = facts.number
    part.AcquisitionNumber = 1
    part.KVP = ""
    return part


def _describe_slice(volume: CTVolume, z: int, plane: Int16[np.ndarray, "y x"]) -> Dataset:
    """Where a slice lies, and its pixels."""
    matrix = volume.patient_from_voxel
    unit = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    spacing_z, spacing_y, spacing_x = volume.spacing_zyx_mm
    part = Dataset()
    part.InstanceNumber = z + 1
    part.ImagePositionPatient = [to_decimal(x) for x in (matrix @ [0, 0, z, 1])[:3]]
    part.ImageOrientationPatient = [to_decimal(x) for x in (*unit[:, 0], *unit[:, 1])]
    part.PixelSpacing = [to_decimal(spacing_y), to_decimal(spacing_x)]
    part.SliceThickness = to_decimal(spacing_z)
    part.SamplesPerPixel = 1
    part.PhotometricInterpretation = "MONOCHROME2"
    part.Rows, part.Columns = plane.shape
    part.BitsAllocated = part.BitsStored = 16
    part.HighBit = 15
    part.PixelRepresentation = 0
    part.RescaleIntercept = str(_INTERCEPT_HU)
    part.RescaleSlope = "1"
    part.RescaleType = "HU"
    stored = plane.astype(np.int32) - _INTERCEPT_HU
    part.PixelData = np.clip(stored, 0, 2**16 - 1).astype("<u2").tobytes()
    part["PixelData"].VR = "OW"
    return part
