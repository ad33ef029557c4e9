"""Radiographs as DICOM: Digital X-Ray Image Storage - For Presentation out; CR and DX in.

What is written is marked as derived and synthetic, names nobody, and holds no time: the same
picture gives the same bytes and the same UIDs.

Source: DICOM PS3.3 A.26 (the object), C.8.11 (digital X-ray), C.11.2 (windows), C.7.6.1 (image).
"""

import io
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float64, Shaped, UInt16
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import format_number_as_ds

from drrgen.choices import View
from drrgen.errors import RadiographError, Reason
from drrgen.geometry.pose import make_pose
from drrgen.io.dicom_header import PARSE_ERRORS, quiet

# Of this program, not of one file: a UUID under the root that needs no registration (PS3.5 B.2).
_UID_SPACE = uuid.UUID(int=36127100223088896509831114107155098158)
IMPLEMENTATION_UID = UID(f"2.25.{_UID_SPACE.int}")
_OBLIQUE = 0.26  # sine of 15 degrees: a lean below it gets no letter of its own
_PRIVATE_CREATOR, _PRIVATE_GROUP = "DRRGEN", 0x0019
# SNOMED CT codes of PS3.16, CID 4009 and 4010.
_CHEST = ("816094009", "Chest")
_VIEWS = {
    View.PA: ("272479007", "postero-anterior"),
    View.AP: ("399348003", "antero-posterior"),
    View.LL: ("399173006", "left lateral"),
    View.RL: ("399198007", "right lateral"),
}
_MODALITIES = ("CR", "DX", "RG")
_FOR_PROCESSING = "FOR PROCESSING"


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFacts:
    """What a DICOM file says of a radiograph beside its pixels; named like the manifest's columns.

    Attributes:
        patient_id: Pseudonym of the patient.
        study_id: Pseudonym of the study; the views of one study share its UID.
        sample_id: Pseudonym of the reconstruction.
        view: The named view.
        draw: Number of the augmentation draw.
        pitch_mm: Detector pitch, at the detector [mm].
        sid_mm: Source to detector [mm]; None for a picture without rays.
        sod_mm: Source to isocenter [mm]; None likewise.
        rotation_deg: Turn of source and detector about the patient's x, y, z [degrees]; None for
            no turn.
        exposed_xywh: Open part of the collimator: left, top, width, height [pixels]; None for all.
        kvp: Tube voltage [kV]; None for a beam of one energy.
        render_fingerprint: Digest of the settings.
        drrgen_version: Version of drrgen.
    """

    patient_id: str
    study_id: str
    sample_id: str
    view: View | str
    draw: int
    pitch_mm: float
    sid_mm: float | None = None
    sod_mm: float | None = None
    rotation_deg: tuple[float, float, float] | list[float] | None = None
    exposed_xywh: tuple[int, int, int, int] | list[int] | None = None
    kvp: float | None = None
    render_fingerprint: str = ""
    drrgen_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DicomPicture:
    """What a DICOM radiograph holds.

    Attributes:
        grey: From 0 (black) to 1 (white, dense), windowed as the file asks.
        pitch_mm: Detector pitch [mm]; None when the file gives none that can be.
        exposed_xywh: Inside of a rectangular collimator [pixels]; None when not known.
        view: Its View Position; None when it is none of ours.
        body_part: Its Body Part Examined; None when not told.
    """

    grey: Float64[np.ndarray, "v u"]
    pitch_mm: float | None
    exposed_xywh: tuple[int, int, int, int] | None
    view: View | None
    body_part: str | None


def make_dicom_facts(row: Mapping[str, Any]) -> DicomFacts:
    """Take from a row of the manifest what a DICOM file says.

    Args:
        row: A complete row of a rendered radiograph.
    """
    return DicomFacts(**{f.name: row[f.name] for f in fields(DicomFacts)})


def encode_dicom(
    pixels: UInt16[np.ndarray, "v u"], facts: DicomFacts, settings: Mapping[str, str], digest: str
) -> bytes:
    """Encode a display image as Digital X-Ray Image Storage - For Presentation.

    Args:
        pixels: Grey, 0 black to 65535 white.
        facts: Who, how and from where.
        settings: All settings, kept as JSON in a private element.
        digest: SHA-256 of the pixels: other pixels are another instance.
    """
    dataset = Dataset()
    for part in (
        _describe_identity(facts, digest),
        _describe_image(pixels),
        _describe_geometry(facts, pixels.shape),
    ):
        dataset.update(part)
    block = dataset.private_block(_PRIVATE_GROUP, _PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "UT", json.dumps(dict(settings), sort_keys=True))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    # Our own: pydicom would put its version here, and another pydicom make other bytes.
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    dataset.file_meta.ImplementationVersionName = "DRRGEN"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def decode_dicom(path: Path, data: bytes) -> DicomPicture:
    """Decode a radiograph of one frame as its header says that it is to be shown.

    The modality LUT, then the first VOI LUT or window are applied; MONOCHROME1 is inverted.
    Without a window the grey spans the values there are, padding left out.

    Args:
        path: Where it came from, for messages.
        data: Content of the file.

    Raises:
        RadiographError: No radiograph, not for presentation, or pixels that cannot be decoded.
    """
    with quiet():
        dataset = _parse(path, data)
        _check_radiograph(dataset, path)
        try:
            stored = dataset.pixel_array
            grey = _show(stored, dataset)
            if not np.isfinite(grey).all():
                raise ValueError("its header makes grey that is not finite")
        except PARSE_ERRORS as error:
            syntax = getattr(dataset.file_meta.get("TransferSyntaxUID"), "name", "not told")
            raise RadiographError(
                Reason.UNSUPPORTED_TRANSFER_SYNTAX,
                path,
                f"its pixels cannot be decoded ({type(error).__name__}; transfer syntax {syntax})",
                remedy="decompress the file, or get a whole copy of it",
            ) from error
        rows, columns = grey.shape
        return DicomPicture(
            grey=grey,
            pitch_mm=_find_pitch_mm(dataset),
            exposed_xywh=_find_exposed(dataset, rows, columns),
            view=_find_view(dataset),
            body_part=str(dataset.get("BodyPartExamined") or "").upper() or None,
        )


def _describe_identity(facts: DicomFacts, digest: str) -> Dataset:
    """Patient, study, series, equipment and instance: pseudonyms, and no time anywhere."""
    view = View(facts.view)
    picture = (facts.sample_id, view.value, str(facts.draw), facts.render_fingerprint)
    part = Dataset()
    part.SpecificCharacterSet = "ISO_IR 192"
    part.PatientName = ""
    part.PatientID = facts.patient_id
    part.PatientBirthDate = ""
    part.PatientSex = ""
    part.PatientIdentityRemoved = "YES"
    part.DeidentificationMethod = "pseudonyms by keyed hash, no dates, no names"
    part.LongitudinalTemporalInformationModified = "REMOVED"
    part.StudyInstanceUID = make_uid("study", facts.study_id)
    part.StudyDate = ""
    part.StudyTime = ""
    part.StudyID = ""
    part.AccessionNumber = ""
    part.ReferringPhysicianName = ""
    part.Modality = "DX"
    part.SeriesInstanceUID = make_uid("series", *picture[:2], facts.render_fingerprint)
    part.SeriesNumber = list(View).index(view) + 1
    part.SeriesDescription = f"synthetic chest {view.value}"
    part.PresentationIntentType = "FOR PRESENTATION"
    part.Manufacturer = "drrgen"
    part.ManufacturerModelName = "drrgen"
    part.SoftwareVersions = facts.drrgen_version
    part.SOPClassUID = DigitalXRayImageStorageForPresentation
    part.SOPInstanceUID = make_uid("instance", *picture, digest)
    part.InstanceNumber = facts.draw + 1
    return part


def _describe_image(pixels: UInt16[np.ndarray, "v u"]) -> Dataset:
    """Pixels, and how they are to be shown: as they are."""
    part = Dataset()
    part.ImageType = ["DERIVED", "PRIMARY"]
    # Not Synthetic Data (0008,001C): it came in 2023, and validators with older tables call it an
    # error. The words below say the same.
    part.DerivationDescription = (
        "digitally reconstructed from CT by drrgen, synthetic, not for diagnosis"
    )
    part.ImageComments = "synthetic, not for diagnosis"
    part.BurnedInAnnotation = "NO"
    part.RecognizableVisualFeatures = "NO"
    part.LossyImageCompression = "00"
    part.AcquisitionContextSequence = []
    part.SamplesPerPixel = 1
    part.PhotometricInterpretation = "MONOCHROME2"
    part.Rows, part.Columns = pixels.shape
    part.BitsAllocated = 16
    part.BitsStored = 16
    part.HighBit = 15
    part.PixelRepresentation = 0
    # The grey follows the logarithm of the beam, and more of the beam is darker.
    part.PixelIntensityRelationship = "LOG"
    part.PixelIntensityRelationshipSign = -1
    part.RescaleIntercept = "0"
    part.RescaleSlope = "1"
    part.RescaleType = "US"
    # PS3.3 C.11.2.1.2.1: this window maps 0 to black and 65535 to white, and changes nothing.
    part.WindowCenter = "32768"
    part.WindowWidth = "65536"
    part.PresentationLUTShape = "IDENTITY"
    part.PixelData = np.ascontiguousarray(pixels, dtype="<u2").tobytes()
    part["PixelData"].VR = "OW"
    return part


def _describe_geometry(facts: DicomFacts, shape: tuple[int, ...]) -> Dataset:
    """What is shown, and where source, patient and detector stood."""
    part = Dataset()
    part.BodyPartExamined = "CHEST"
    part.AnatomicRegionSequence = [_make_code(*_CHEST)]
    part.ImageLaterality = "U"
    part.ViewPosition = View(facts.view).value
    part.ViewCodeSequence = [_make_code(*_VIEWS[View(facts.view)])]
    part.ViewCodeSequence[0].ViewModifierCodeSequence = []
    part.PatientOrientation = find_patient_orientation(facts.view, facts.rotation_deg)
    part.DetectorType = ""
    part.PositionerType = "NONE"
    part.ImagerPixelSpacing = [to_decimal(facts.pitch_mm)] * 2
    if facts.sid_mm is not None and facts.sod_mm is not None:
        part.update(_describe_distances(facts.sid_mm, facts.sod_mm, facts.pitch_mm))
    if facts.kvp is not None:
        part.KVP = to_decimal(facts.kvp)
    # Edges are the last covered columns and rows, counted from 1: 0 and N + 1 cover nothing.
    left, top, width, height = facts.exposed_xywh or (0, 0, shape[1], shape[0])
    part.CollimatorShape = "RECTANGULAR"
    part.CollimatorLeftVerticalEdge = left
    part.CollimatorRightVerticalEdge = left + width + 1
    part.CollimatorUpperHorizontalEdge = top
    part.CollimatorLowerHorizontalEdge = top + height + 1
    return part


def _describe_distances(sid_mm: float, sod_mm: float, pitch_mm: float) -> Dataset:
    """Where source, patient and detector stood on the central ray."""
    part = Dataset()
    magnification = sid_mm / sod_mm
    # The pitch brought back to the isocenter: right for what lies there, and said to be so.
    part.PixelSpacing = [to_decimal(pitch_mm / magnification)] * 2
    part.PixelSpacingCalibrationType = "GEOMETRY"
    part.PixelSpacingCalibrationDescription = "at the isocenter, middle of the body"
    part.DistanceSourceToDetector = to_decimal(sid_mm)
    # DICOM means the side of table or support that is next to the patient, and notes that the
    # value is traditionally the source to object distance. Ours is exactly that: sod_mm goes to
    # the isocenter in the middle of the body, so that SID / SOD is the magnification beside it.
    part.DistanceSourceToPatient = to_decimal(sod_mm)
    part.EstimatedRadiographicMagnificationFactor = to_decimal(magnification)
    return part


def find_patient_orientation(
    view: View | str, rotation_deg: tuple[float, float, float] | list[float] | None = None
) -> list[str]:
    """Say where the picture's rows and columns lead: DICOM Patient Orientation (0020,0020).

    Args:
        view: The named view.
        rotation_deg: Turn of source and detector about the patient's x, y, z [degrees]; None for
            no turn.

    Returns:
        The direction of the rows (to the viewer's right), and of the columns (downwards).

    Example:
        In PA the viewer's right is the patient's left, and down is towards the feet:

        >>> find_patient_orientation("PA")
        ['L', 'F']
    """
    turn = rotation_deg or (0.0, 0.0, 0.0)
    pose = make_pose(view, isocenter_mm=(0.0, 0.0, 0.0), sod_mm=1.0, rotation_deg=turn)
    axes = pose.patient_from_camera[:3, :2].T.tolist()
    return [_name_direction(axis) for axis in axes]


def _name_direction(axis: list[float]) -> str:
    """Name a direction in patient LPS, the nearest letter first."""
    letters = [(abs(x), pair[x < 0]) for x, pair in zip(axis, ("LR", "PA", "HF"), strict=True)]
    return "".join(letter for size, letter in sorted(letters, reverse=True) if size > _OBLIQUE)


def make_uid(*words: str) -> str:
    """Derive a UID: the same words give the same one (version 5 UUID under 2.25)."""
    return f"2.25.{uuid.uuid5(_UID_SPACE, json.dumps(words)).int}"


def _make_code(value: str, meaning: str) -> Dataset:
    """Make a coded entry of SNOMED CT."""
    code = Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = "SCT"
    code.CodeMeaning = meaning
    return code


def to_decimal(value: float) -> str:
    """Write a number in the sixteen characters that DICOM allows."""
    return format_number_as_ds(round(float(value), 9))


def _parse(path: Path, data: bytes) -> Dataset:
    """Parse a file."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    except PARSE_ERRORS as error:
        raise RadiographError(
            Reason.TRUNCATED_FILE,
            path,
            f"it cannot be read as DICOM ({type(error).__name__})",
            remedy="get a whole copy of the file",
        ) from error
    if "TransferSyntaxUID" not in dataset.file_meta:  # old files come without a head
        implicit = dataset.original_encoding[0]
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def _check_radiograph(dataset: Dataset, path: Path) -> None:
    """Refuse what is no single radiograph made for viewing."""
    sop_class = dataset.get("SOPClassUID")
    known = (
        sop_class in (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)
        or dataset.get("Modality") in _MODALITIES
    )
    name = getattr(sop_class, "name", None) or "no SOP class"
    if not known:
        raise RadiographError(
            Reason.NOT_RADIOGRAPH,
            path,
            f"it is {name}, modality {dataset.get('Modality') or 'unknown'}, wanted a radiograph "
            "(CR or DX)",
            remedy="leave it out",
        )
    if dataset.get("PresentationIntentType") == _FOR_PROCESSING:
        raise RadiographError(
            Reason.NOT_RADIOGRAPH,
            path,
            "it is the detector's raw image, for processing; wanted one for presentation",
            remedy="give the image that the system made of it for viewing",
        )
    if "PixelData" not in dataset:
        raise RadiographError(
            Reason.NO_IMAGE, path, f"it is {name} without pixels", remedy="leave it out"
        )
    frames, samples = dataset.get("NumberOfFrames") or 1, dataset.get("SamplesPerPixel") or 1
    if not (_is_one(frames) and _is_one(samples)):
        raise RadiographError(
            Reason.NOT_RADIOGRAPH,
            path,
            f"it has {frames} frames of {samples} colours, wanted one frame of grey",
            remedy="leave it out, or export the frame that is a radiograph",
        )


def _is_one(value: Any) -> bool:
    """Say whether a value is the number one; what is no number is not."""
    try:
        return int(value) == 1
    except (TypeError, ValueError):
        return False


def _show(stored: Shaped[np.ndarray, "v u"], dataset: Dataset) -> Float64[np.ndarray, "v u"]:
    """Take stored values to grey as the header says."""
    values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float64)
    padding = dataset.get("PixelPaddingValue")
    padded = None if padding is None else stored == padding
    if dataset.get("VOILUTSequence"):
        grey = _look_up(values, dataset.VOILUTSequence[0])
    elif (_first(dataset.get("WindowWidth")) or 0) > 0:  # another one means nothing
        grey = _window(
            values,
            _first(dataset.get("WindowCenter")) or 0.0,
            _first(dataset.get("WindowWidth")) or 1.0,
            str(dataset.get("VOILUTFunction") or "LINEAR"),
        )
    else:
        seen = values if padded is None or padded.all() else values[~padded]
        grey = (values - seen.min()) / max(float(np.ptp(seen)), 1e-12)
    grey = np.clip(grey, 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    if padded is not None:
        grey[padded] = 0
    return grey


def _window(
    values: Float64[np.ndarray, "v u"], center: float, width: float, function: str
) -> Float64[np.ndarray, "v u"]:
    """Apply a window (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    return (values - (center - 0.5)) / max(width - 1, 1e-12) + 0.5


def _look_up(values: Float64[np.ndarray, "v u"], lut: Dataset) -> Float64[np.ndarray, "v u"]:
    """Apply a VOI LUT; its largest entry is white, for not every maker fills all its bits."""
    entries, first, _ = (int(x) for x in lut.LUTDescriptor)
    data = lut.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, dtype="<u2" if len(data) >= 2 * (entries or 65536) else "u1")
    table = np.asarray(data, dtype=np.float64)
    if first >= 1 << 15 and values.min() < 0:
        first -= 1 << 16
    index = np.clip(np.rint(values) - first, 0, len(table) - 1).astype(np.int64)
    return table[index] / max(float(table.max()), 1.0)


def _first(value: Any) -> float | None:
    """Take the first of one or several numbers; None when there is none."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, (str, float, int)) else value[0])


def _find_pitch_mm(dataset: Dataset) -> float | None:
    """Find the detector pitch: square and positive, or none."""
    for keyword in ("ImagerPixelSpacing", "PixelSpacing"):
        found = dataset.get(keyword)
        try:
            down, across = (float(x) for x in found or ())
        except (TypeError, ValueError):
            continue
        if down > 0 and abs(down - across) < 1e-3 * down:
            return down
    return None


def _find_exposed(dataset: Dataset, rows: int, columns: int) -> tuple[int, int, int, int] | None:
    """Find the inside of a rectangular collimator; some makers write millimetres: no use."""
    if dataset.get("CollimatorShape") != "RECTANGULAR":
        return None
    words = ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
    edges = [dataset.get(f"Collimator{word}Edge") for word in words]
    if any(edge is None for edge in edges):
        return None
    left, right, top, bottom = (int(edge) for edge in edges)
    if not (0 <= left < right - 1 <= columns and 0 <= top < bottom - 1 <= rows):
        return None
    return left, top, right - left - 1, bottom - top - 1


def _find_view(dataset: Dataset) -> View | None:
    """Find the view; None when the file names none of ours."""
    try:
        return View(str(dataset.get("ViewPosition") or "").strip())
    except ValueError:
        return None
