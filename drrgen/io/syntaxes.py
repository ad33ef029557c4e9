"""Which DICOM transfer syntaxes can be decoded here, found out by decoding a tiny sample of each.

The samples are one picture of 8 x 8 pixels, ``value = 509 row + 61 column``. What pydicom cannot
encode by itself was encoded once by libjpeg-turbo, CharLS, OpenJPEG and OpenJPH, losslessly.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813  the name its own documentation uses
from jaxtyping import UInt16
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from drrgen.io.dicom_header import quiet

SIDE = 8
_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_JPEG = {
    JPEGLosslessSV1: (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAIAAgBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAABgkQ/9oACAEB"
        "AAEAAM9evXr169v69evXr169v69evXr169v69evXr169v69evXr169v69evXr169v69evXr169v69evXr169"
        "/9k="
    ),
    JPEGLSLossless: (
        "/9j/6AAgU1BJRkYAAgAAAQAAAAgAAAAIChAGAQAAASwAAAEs/+gACAAAAAH/2P/3AAsQAAgACAEBEQD/+AAN"
        "Af//ABIAQwEUAED/2gAIAQEAAAAAo8x5jzHedY8x3/1HqPE7TpcrhHr/K3Wy1WizWSPH+LFwb25tbE7f21tT"
        "S0M7MnT+mVkY2JhYFy/lfXl1cW1pcP4WVlYWFdWW4P/Z"
    ),
    JPEG2000Lossless: (
        "/0//UQApAAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1IADAAAAAEAAAQEAAH/XAAE"
        "QID/ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAB7AAH/k9/4k0gSK2cW"
        "j4+hghgWURqAMI80fFpSc9SLDlVlBYoALKCIAEuDBpR5sPzYfmwLXVwnW+tpdWxt83zfN83zfOAYfTZGT+nF"
        "DSbUvRZ5jVCFOlH/AefnZMBvSAQweXoWuJa4lrib/cxE4icROIn/2Q=="
    ),
    HTJ2KLossless: (
        "/0//UQApQAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgAB"
        "AAUEBEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAFkA"
        "Af+TwAAm1/UFB3QAAADAABNAABMAKv4CB3QAIvIDh3QAwAATQAATgBAQAYJ0APAIjwDDVADAACogABVAOI7j"
        "qnCCdQD448ePwEIB7LYA/9k="
    ),
}  # fmt: skip
_SYNTAXES = (
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian, RLELossless, *_JPEG,
)  # fmt: skip
_REMEDIES = {
    JPEGLosslessSV1: "pip install SimpleITK, whose GDCM decodes it",
    JPEGLSLossless: "pip install SimpleITK, whose GDCM decodes it",
    JPEG2000Lossless: "pip install pylibjpeg-openjpeg",
    HTJ2KLossless: "pip install pylibjpeg-openjpeg, or decompress such series first",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntaxCheck:
    """Whether a transfer syntax can be decoded here.

    Attributes:
        uid: Transfer syntax UID.
        name: Its name in the standard.
        decoder: What decoded it rightly, ``pydicom`` or ``gdcm``; None when nothing did.
        remedy: What to install; empty when it can be decoded.
    """

    uid: str
    name: str
    decoder: str | None
    remedy: str


def check_syntaxes() -> list[SyntaxCheck]:
    """Decode a tiny sample of every transfer syntax that CT comes in."""
    return [_check_syntax(syntax) for syntax in _SYNTAXES]


def make_picture() -> UInt16[np.ndarray, "y x"]:
    """Make the picture that all samples hold."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (509 * rows + 61 * columns).astype(np.uint16)


def make_sample(syntax: UID) -> bytes:
    """Make a DICOM file of the picture.

    Args:
        syntax: One of the transfer syntaxes that are checked.
    """
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = syntax
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = UID(_CT_IMAGE)
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = UID("2.25.1")
    d.Modality, d.SamplesPerPixel, d.PhotometricInterpretation = "CT", 1, "MONOCHROME2"
    d.Rows = d.Columns = SIDE
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit, d.PixelRepresentation = 15, 0
    picture = make_picture()
    if syntax in _JPEG:
        d.PixelData = encapsulate([base64.b64decode("".join(_JPEG[syntax]))])
    else:
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        d.PixelData = picture.astype(f"{order}u2").tobytes()
    d["PixelData"].VR = "OW"
    if syntax == RLELossless:
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    file = BytesIO()
    d.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _check_syntax(syntax: UID) -> SyntaxCheck:
    """Try one decoder after the other."""
    decoders: dict[str, Callable[[bytes], np.ndarray]] = {
        "pydicom": _decode_with_pydicom,
        "gdcm": _decode_with_gdcm,
    }
    found = next((n for n, decode in decoders.items() if _decodes(decode, syntax)), None)
    remedy = "" if found else _REMEDIES.get(syntax, "pip install --force-reinstall pydicom")
    return SyntaxCheck(uid=str(syntax), name=syntax.name, decoder=found, remedy=remedy)


def _decodes(decode: Callable[[bytes], np.ndarray], syntax: UID) -> bool:
    """Say whether a decoder gives the picture back."""
    try:
        with quiet():
            return bool(np.array_equal(decode(make_sample(syntax)), make_picture()))
    except Exception:  # noqa: BLE001  a decoder that is broken in any way does not decode
        return False


def _decode_with_pydicom(data: bytes) -> np.ndarray:
    """Decode by pydicom and its plugins."""
    return np.asarray(pydicom.dcmread(BytesIO(data)).pixel_array)


def _decode_with_gdcm(data: bytes) -> np.ndarray:
    """Decode by the GDCM inside SimpleITK."""
    with TemporaryDirectory(prefix="drrgen-") as folder:
        path = Path(folder, "sample.dcm")
        path.write_bytes(data)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        return np.asarray(sitk.GetArrayFromImage(reader.Execute()))[0]
