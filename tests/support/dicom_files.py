"""DICOM series written for tests: shuffled names, and every way to store a pixel that we read."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian
from scipy.spatial.transform import Rotation

from drrgen.phantoms import find_voxel_centers
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


# A field of HU that any error of position, spacing or orientation changes: linear in the patient.
FIELD_HU_PER_MM = np.array([0.9, -0.7, 1.3])
FIELD_HU = -150.0
TURN = Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix()
ROUNDING_HU = 1.01  # once when it is stored, once when it is moved
PADDING_HU = -1024


def find_field(points_mm: np.ndarray) -> np.ndarray:
    """The field at points of the patient."""
    return points_mm @ FIELD_HU_PER_MM + FIELD_HU


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How slices of the field are laid out: oblique, with pixels that are not square.

    Attributes:
        axes: Directions of x and y index and of the normal, as columns.
        lean: In-plane drift (x, y) of the stack a millimetre along the normal.
        shape: Rows and columns.
        spacing_mm: Between rows, and between columns.
        start_mm: The first pixel of the slice at 0.
        storage: How pixels are stored.
    """

    axes: np.ndarray = field(default_factory=lambda: TURN)
    lean: tuple[float, float] = (0.0, 0.0)
    shape: tuple[int, int] = (12, 10)
    spacing_mm: tuple[float, float] = (0.8, 0.7)
    start_mm: tuple[float, float, float] = (-20.0, 35.0, -80.0)
    storage: Storage = PLAIN

    def make(self, along_mm: float, **tags: object) -> Dataset:
        """Make the slice at a place along the normal, with some tags of its own; None: without."""
        drift = np.array([*self.lean, 1.0]) * along_mm
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes * np.array([*self.spacing_mm[::-1], 1.0])
        matrix[:3, 3] = np.array(self.start_mm) + self.axes @ drift
        points = find_voxel_centers((1, *self.shape), matrix)
        hu = np.rint(find_field(points)).astype(np.int16)
        volume = CTVolume(hu=hu, patient_from_voxel=matrix)
        d = make_slice(volume, 0, "a", self.storage)
        change_tags(d, tags)
        return d


def change_tags(d: Dataset, tags: dict[str, object]) -> None:
    """Set tags; None removes one."""
    for keyword, value in tags.items():
        if value is None:
            del d[keyword]
        else:
            setattr(d, keyword, value)


def write_slices(folder: Path, slices: Iterable[Dataset], first: int = 0) -> None:
    """Write slices under names that say nothing of their order."""
    folder.mkdir(exist_ok=True, parents=True)
    slices = list(slices)
    names = np.random.default_rng(0).permutation(len(slices)) + first
    for name, d in zip(names, slices, strict=True):
        uid = f"1.2.3.9.{len(str(folder))}.{name + 1}"
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = uid
        d.save_as(folder / f"{name}.dcm", enforce_file_format=True)


def check_field(volume: CTVolume, *, tolerance_hu: float = ROUNDING_HU) -> np.ndarray:
    """Check that every voxel has the HU of its place, or is padding; say which are padding."""
    wanted = find_field(find_voxel_centers(volume.hu.shape, volume.patient_from_voxel))
    padding = volume.hu == PADDING_HU
    assert np.abs(volume.hu - wanted)[~padding].max() <= tolerance_hu
    return padding


ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def make_enhanced(slices: Sequence[Dataset], *, shared: bool = False) -> Dataset:
    """Join slices into one enhanced multi-frame file, in the order given.

    Orientation and pixel spacing are told once for all frames, or with each of them.
    """
    d = copy.deepcopy(slices[0])
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = ENHANCED_CT
    d.NumberOfFrames = len(slices)
    common = Dataset()
    groups = [_make_groups(each) for each in slices]
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        setattr(common, keyword, getattr(groups[0], keyword))
        for each in groups if shared else ():
            delattr(each, keyword)
    d.SharedFunctionalGroupsSequence = [common] if shared else [Dataset()]
    d.PerFrameFunctionalGroupsSequence = groups
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
                    "RescaleSlope", "RescaleIntercept"):  # fmt: skip
        delattr(d, keyword)
    if d.file_meta.TransferSyntaxUID.is_encapsulated:
        frames = [next(generate_frames(each.PixelData, number_of_frames=1)) for each in slices]
        d.PixelData = encapsulate(frames)
        d["PixelData"].VR = "OB"
    else:
        d.PixelData = b"".join(each.PixelData for each in slices)
        d["PixelData"].VR = "OW"
    return d


def _make_groups(d: Dataset) -> Dataset:
    """Make the functional groups of a frame."""
    groups = Dataset()
    for sequence, keywords in (
        ("PlanePositionSequence", ["ImagePositionPatient"]),
        ("PlaneOrientationSequence", ["ImageOrientationPatient"]),
        ("PixelMeasuresSequence", ["PixelSpacing", "SliceThickness"]),
        ("PixelValueTransformationSequence", ["RescaleSlope", "RescaleIntercept"]),
        ("FrameContentSequence", ["TemporalPositionIndex"]),
    ):
        item = Dataset()
        for keyword in keywords:
            if keyword in d:
                item[keyword] = d[keyword]
                if keyword == "TemporalPositionIndex":
                    del d[keyword]
        setattr(groups, sequence, [item])
    return groups
