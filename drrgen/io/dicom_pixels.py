"""From the bytes of a DICOM slice to HU: uncompressed words are viewed, all else is decoded.

Source: DICOM PS3.5 chapter 8 (pixel data), PS3.3 C.11.1 (modality LUT), C.7.5.1.1.2 (padding).
"""

from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813  the name its own documentation uses
from jaxtyping import Bool, Int16, Shaped
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.utils import pixel_array

from drrgen.errors import Reason, VolumeError
from drrgen.io.dicom_grid import PADDING_HU, refuse
from drrgen.io.dicom_header import DECODE_ERRORS, PARSE_ERRORS, SliceHeader
from drrgen.io.hounsfield import to_hu

Bytes = bytes | memoryview
LOWEST_HU = -1100  # what is less than air is padding that no tag told of
_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = frozenset({"", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
_INT16 = np.iinfo(np.int16)
_PIXEL_MODULE = ["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel",
                 "PixelRepresentation", "PhotometricInterpretation", "SOPClassUID"]  # fmt: skip


def find_hu(header: SliceHeader, data: Bytes, out: Int16[np.ndarray, "y x"]) -> tuple[str, ...]:
    """Decode a slice into HU.

    Args:
        header: Its header.
        data: Its whole file.
        out: Where the HU go.

    Returns:
        What was changed, one word each.

    Raises:
        VolumeError: ``unreadable_slice``, ``unsupported_transfer_syntax`` or ``pixel_mismatch``.
    """
    stored = decode(header, data)
    if stored.shape != out.shape:
        raise broken(header.here)
    outside = _find_padding(header, stored)
    slope = 1.0 if header.slope is None else header.slope
    intercept = header.intercept or 0.0
    low, high = int(stored.min()), int(stored.max())
    words: tuple[str, ...] = ()
    if _is_shift(stored, low, high, slope, intercept):
        # Modulo 65536, which is exact because no value leaves int16.
        np.add(stored.view(np.int16), np.int64(intercept).astype(np.int16), out=out)
    else:
        if outside is not None:
            stored = np.where(outside, stored[~outside].min() if not outside.all() else 0, stored)
        hu, words = to_hu(stored[None], slope=slope, intercept=intercept)
        out[:] = hu[0]
    if outside is not None:
        out[outside] = PADDING_HU
    if min(low * slope, high * slope) + intercept < LOWEST_HU:
        out[out < LOWEST_HU] = PADDING_HU
    return words


def decode(header: SliceHeader, data: Bytes) -> Shaped[np.ndarray, "y x"]:
    """Decode stored values, with the sign and the bits that the header tells.

    Args:
        header: The slice.
        data: Its whole file.

    Raises:
        VolumeError: ``unreadable_slice``, ``unsupported_transfer_syntax`` or ``pixel_mismatch``.
    """
    native = header.syntax in _NATIVE
    try:
        if native and header.allocated == 16:
            return _view_words(header, data)
        if native or header.syntax == _DEFLATED:
            return _pick(pydicom.dcmread(BytesIO(data), force=True).pixel_array, header)
        return _decompress(header, data)
    except PARSE_ERRORS as error:
        if native or header.syntax == _DEFLATED:
            raise broken(header.here) from error
        name = pydicom.uid.UID(header.syntax).name
        raise VolumeError(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX, header.here,
            f"found pixels compressed as {name}, which cannot be decoded here",
            remedy="pip install pylibjpeg-openjpeg, or decompress the series first",
        ) from error  # fmt: skip


def read_with_sitk(path: Path) -> Shaped[np.ndarray, "z y x"] | None:
    """Let SimpleITK read a slice and rescale it; None where it cannot.

    Args:
        path: The file.
    """
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO")))
    except RuntimeError:
        return None
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def broken(path: Path) -> VolumeError:
    """Make the error of a slice that ends too early."""
    return VolumeError(
        Reason.UNREADABLE_SLICE, path, "found a slice that is cut or broken",
        remedy="copy or export the series again",
    )  # fmt: skip


def _find_padding(
    header: SliceHeader, stored: Shaped[np.ndarray, "y x"]
) -> Bool[np.ndarray, "y x"] | None:
    """Find the pixels outside the field of view, among values not yet rescaled."""
    if header.padding is None:
        return None
    value = _fit(header.padding, stored.dtype)
    if header.padding_limit is None:
        return np.asarray(stored == value)
    low, high = sorted((value, _fit(header.padding_limit, stored.dtype)))
    return np.asarray((stored >= low) & (stored <= high))


def _fit(value: int, kind: "np.dtype[np.generic]") -> int:
    """Read a padding value with the sign of the pixels, whatever sign its own tag had."""
    return value - 2**16 if kind.kind == "i" and value >= 2**15 else value


def _is_shift(
    stored: Shaped[np.ndarray, "y x"], low: int, high: int, slope: float, intercept: float
) -> bool:
    """Say whether HU are 16-bit stored values and a whole number, and all fit int16."""
    if slope != 1.0 or not intercept.is_integer() or stored.dtype not in (np.int16, np.uint16):
        return False
    return low + intercept >= _INT16.min and high + intercept <= _INT16.max


def _view_words(header: SliceHeader, data: Bytes) -> Shaped[np.ndarray, "y x"]:
    """View uncompressed 16-bit words, without a copy unless the header says fewer bits count."""
    if header.start < 0:
        raise ValueError("no PixelData")
    count = header.rows * header.columns
    start = header.start + 2 * count * header.frame
    words = np.frombuffer(data, "<u2" if header.is_little else ">u2", count, start)
    kind = np.int16 if header.signed else np.uint16
    native = words.astype(np.uint16, copy=False).reshape(header.rows, header.columns)
    bits, high = header.stored, header.high
    if not 0 < bits <= high + 1 <= 16:
        raise ValueError(f"BitsStored {bits} and HighBit {high} do not fit 16 bits")
    if bits == 16:
        return native.view(kind)
    if not header.overlay_bits:
        _check_range(native, header)
    # Push the bits above the highest out, then come back: zeros or the sign fill the rest.
    moved = np.left_shift(native.view(kind), 15 - high)
    return np.right_shift(moved, 16 - bits, out=moved)


def _check_range(words: Shaped[np.ndarray, "y x"], header: SliceHeader) -> None:
    """Refuse values that need more bits than the header says count: they would wrap around."""
    limit = 2 ** (header.high + 1)
    if int(words.max()) < limit:
        return
    signed = words.view(np.int16)
    if header.signed and int(signed.min()) >= -limit // 2 and int(signed.max()) < limit // 2:
        return
    raise refuse(
        Reason.PIXEL_MISMATCH, header.here,
        f"found stored values beyond the {header.stored} bits that BitsStored names",
    )  # fmt: skip


def _pick(frames: Shaped[np.ndarray, "..."], header: SliceHeader) -> Shaped[np.ndarray, "y x"]:
    """Pick a frame of a file that was decoded whole."""
    return np.asarray(frames[header.frame] if frames.ndim == 3 else frames)


def _decompress(header: SliceHeader, data: Bytes) -> Shaped[np.ndarray, "y x"]:
    """Decompress by pydicom and its plugins, and by the GDCM inside SimpleITK where they cannot."""
    try:
        return np.asarray(pixel_array(BytesIO(data), index=header.frame))
    except DECODE_ERRORS:
        return _decompress_with_gdcm(header, data)


def _decompress_with_gdcm(header: SliceHeader, data: Bytes) -> Shaped[np.ndarray, "y x"]:
    """Let GDCM decode a copy that has pixels and nothing of the patient, nor a rescale."""
    dataset = pydicom.dcmread(BytesIO(data))
    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = pydicom.uid.UID(header.syntax)
    for tag in _PIXEL_MODULE:
        bare[tag] = dataset[tag]
    frame = get_frame(dataset.PixelData, header.frame, number_of_frames=header.frames)
    bare.PixelData = encapsulate([frame])
    bare["PixelData"].VR = "OB"
    bare["PixelData"].is_undefined_length = True
    bare.SOPClassUID = pydicom.uid.CTImageStorage
    bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("2.25.1")
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    with TemporaryDirectory(prefix="drrgen-") as folder:
        path = Path(folder, "slice.dcm")
        bare.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        return np.asarray(sitk.GetArrayFromImage(reader.Execute())[0])
