"""DICOM series written for tests: shuffled names, and every way to store a pixel that we read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from drrgen.volume import CTVolume

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How pixels are stored.

    Attributes:
        syntax: Transfer syntax.
        bits: Bits stored of the 16 allocated.
        signed: Two's complement or unsigned.
        intercept: RescaleIntercept [HU].
        junk: Fill the bits above the stored ones, as overlays of old did.
    """

    syntax: UID = ExplicitVRLittleEndian
    bits: int = 16
    signed: bool = False
    intercept: int = -1024
    junk: bool = False

    def pack(self, hu: np.ndarray) -> np.ndarray:
        """Turn HU into stored 16-bit words, in native order."""
        stored = hu.astype(np.int32) - self.intercept
        words = stored & (2**self.bits - 1)
        if self.junk:
            words |= 0xFFFF << self.bits & 0xFFFF
        elif self.signed:
            words = stored  # signed values fill the word with their sign
        return (words & 0xFFFF).astype(np.uint16)


PLAIN = Storage()


def make_slice(volume: CTVolume, z: int, patient: str, storage: Storage = PLAIN) -> Dataset:
    """Make one slice of a volume, uncompressed or run-length encoded."""
    matrix = volume.patient_from_voxel
    unit = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = storage.syntax
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
    d.RescaleSlope, d.RescaleIntercept = 1, storage.intercept
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit = 16, storage.bits, storage.bits - 1
    d.PixelRepresentation = int(storage.signed)
    if storage.junk:
        d.add_new(0x60000102, "US", storage.bits)  # OverlayBitPosition
    words = storage.pack(volume.hu[z])
    if storage.syntax.is_encapsulated:
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.PixelData = words.astype("<u2").tobytes()
        d.compress(storage.syntax, generate_instance_uid=False)
    else:
        order = ">" if storage.syntax == ExplicitVRBigEndian else "<"
        d.PixelData = words.astype(order + "u2").tobytes()
    d["PixelData"].VR = "OW"
    return d


def write_series(
    volume: CTVolume, folder: Path, patient: str, *, skip: int = -1, storage: Storage = PLAIN
) -> None:
    """Write a series under names that say nothing of the order of its slices."""
    folder.mkdir(exist_ok=True, parents=True)
    order = np.random.default_rng(0).permutation(len(volume.hu))
    for name, z in enumerate(order):
        if z != skip:
            d = make_slice(volume, int(z), patient, storage)
            d.save_as(folder / f"{patient}{name}", enforce_file_format=True)
