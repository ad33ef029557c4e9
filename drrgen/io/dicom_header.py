"""The header of a DICOM slice: what tells where it lies and how its values become HU, and no more.

Most files are read by a small scanner of our own, which looks at the top level of an uncompressed
or encapsulated little-endian file and steps over everything it does not want. Whatever it does
not expect is left to pydicom, which gives the same record, only later.

Source: DICOM PS3.5 chapter 7 (data elements), PS3.10 chapter 7 (file meta information).
"""

import logging
import math
import os
import stat
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from drrgen.io.stores import Place

DECODE_ERRORS = (ValueError, AttributeError, NotImplementedError, RuntimeError, KeyError,
                 TypeError, IndexError, ArithmeticError, struct.error)  # fmt: skip
PARSE_ERRORS = (InvalidDicomError, BytesLengthException, EOFError, zlib.error, *DECODE_ERRORS)

T = TypeVar("T")
Numbers = tuple[float, ...]


class Skip(StrEnum):
    """Why a file has no header."""

    NOT_DICOM = "not_dicom"
    BROKEN = "broken"  # it says that it is DICOM, and cannot be read
    EMPTY = "empty"
    NO_ACCESS = "no_access"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceHeader:
    """What is known of a slice before its pixels are decoded; None and "" where it is not said.

    Attributes:
        path: Its file.
        n_bytes: Size of the file [bytes].
        mtime_ns: Time of the last change [ns since 1970].
        syntax: Transfer syntax.
        start: Where the values of the pixels start in the file; -1 where there are none.
        is_little: Byte order of the pixels.
        sop_class: SOPClassUID.
        modality: Modality.
        image_type: The words of ImageType.
        patient: PatientID.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        accession: AccessionNumber.
        instance: What one multi-frame volume has in common: ConcatenationUID or SOPInstanceUID.
        frames: NumberOfFrames.
        frame: Which of them this is.
        position: ImagePositionPatient [mm].
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing, between rows and between columns [mm].
        thickness: SliceThickness [mm].
        acquisition: AcquisitionNumber.
        temporal: TemporalPositionIdentifier, or the index of a multi-frame file.
        phase: NominalPercentageOfCardiacPhase [percent].
        time: ContentTime.
        kernel: ConvolutionKernel.
        rows: Rows.
        columns: Columns.
        samples: SamplesPerPixel.
        photometric: PhotometricInterpretation.
        allocated: BitsAllocated.
        stored: BitsStored.
        high: HighBit.
        signed: PixelRepresentation.
        padding: PixelPaddingValue, as unsigned.
        padding_limit: PixelPaddingRangeLimit, as unsigned.
        overlay_bits: Whether bits of the pixels are said to hold an overlay.
        slope: RescaleSlope [HU].
        intercept: RescaleIntercept [HU].
        rescale_type: RescaleType.
        lossy: LossyImageCompression.
    """

    path: Place
    n_bytes: int
    mtime_ns: int
    syntax: str
    start: int
    is_little: bool
    sop_class: str
    modality: str
    image_type: tuple[str, ...]
    patient: str
    study_uid: str
    series_uid: str
    accession: str
    instance: str
    frames: int
    frame: int
    position: Numbers | None
    orientation: Numbers | None
    spacing: Numbers | None
    thickness: float | None
    acquisition: str
    temporal: str
    phase: float | None
    time: str
    kernel: str
    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high: int
    signed: bool
    padding: int | None
    padding_limit: int | None
    overlay_bits: bool
    slope: float | None
    intercept: float | None
    rescale_type: str
    lossy: bool

    @property
    def here(self) -> Path:
        """The file as one on this machine, which is where slices are read."""
        return cast("Path", self.path)


_TEXT = {
    0x00080008: "ImageType", 0x00080016: "SOPClassUID", 0x00080018: "SOPInstanceUID",
    0x00080033: "ContentTime", 0x00080050: "AccessionNumber", 0x00080060: "Modality",
    0x00100020: "PatientID",
    0x00180050: "SliceThickness", 0x00181210: "ConvolutionKernel",
    0x00209241: "NominalPercentageOfCardiacPhase", 0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID", 0x00200012: "AcquisitionNumber",
    0x00200032: "ImagePositionPatient", 0x00200037: "ImageOrientationPatient",
    0x00200100: "TemporalPositionIdentifier", 0x00209161: "ConcatenationUID",
    0x00280004: "PhotometricInterpretation", 0x00280008: "NumberOfFrames",
    0x00280030: "PixelSpacing", 0x00281052: "RescaleIntercept", 0x00281053: "RescaleSlope",
    0x00281054: "RescaleType", 0x00282110: "LossyImageCompression",
}  # fmt: skip
_SHORT = {
    0x00280002: "SamplesPerPixel", 0x00280010: "Rows", 0x00280011: "Columns",
    0x00280100: "BitsAllocated", 0x00280101: "BitsStored", 0x00280102: "HighBit",
    0x00280103: "PixelRepresentation", 0x00280120: "PixelPaddingValue",
    0x00280121: "PixelPaddingRangeLimit",
}  # fmt: skip
_PHASE = 0x00209241  # FL: a binary number, and no text
_KEYWORDS = [*_TEXT.values(), *_SHORT.values()]
_PIXELS, _SYNTAX = 0x7FE00010, 0x00020010
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_BIG, _DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_LONG_VR = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR",
                      b"UT", b"UV"))  # fmt: skip
_SHORT_VR = frozenset((b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS",
                       b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL",
                       b"US"))  # fmt: skip
_FIRST_READ = 16 * 1024  # the headers of most slices are shorter
_UNDEFINED = 0xFFFFFFFF
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_MAX_FRAMES = 100_000
_BATCH, _CHUNK = 4096, 16
READERS = 8  # threads: disks and networks answer several at once


class _UnusualError(Exception):
    """A file that is left to pydicom."""


def read_headers(paths: Sequence[Path]) -> Iterator[tuple[Path, SliceHeader | Skip]]:
    """Read headers, several at once, in the order of the paths.

    Args:
        paths: Any files.
    """
    with quiet(), ThreadPoolExecutor(READERS) as pool:
        for first in range(0, len(paths), _BATCH):
            batch = paths[first : first + _BATCH]
            yield from zip(batch, pool.map(read_header, batch, chunksize=_CHUNK), strict=True)


def read_header(path: Path) -> SliceHeader | Skip:
    """Read the header of a file, or say why it has none. Nothing is decoded.

    Args:
        path: Any file; a pipe or a device is not waited for.
    """
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return Skip.NOT_DICOM
            data = os.read(descriptor, _FIRST_READ)
        finally:
            os.close(descriptor)
    except OSError:
        return Skip.NO_ACCESS
    if not data:
        return Skip.EMPTY
    if not _looks_like_dicom(data):
        return Skip.NOT_DICOM
    try:
        values, syntax, start = _scan(data, status.st_size)
        return _make_header(path, status, values, syntax, start, is_little=True)
    except (_UnusualError, struct.error, UnicodeDecodeError):
        return _read_slowly(path, status, marked=data[128:132] == b"DICM")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's remarks on odd values off the user's terminal: what matters is checked."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_numbers(value: object, count: int) -> Numbers | None:
    """Read so many finite numbers from a DICOM text or list; None where they are not there.

    Args:
        value: Text with backslashes between numbers, or a sequence.
        count: How many there must be.
    """
    words = value.split("\\") if isinstance(value, str) else value
    try:
        numbers = tuple(float(word) for word in words)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None


def read_number(value: object) -> float | None:
    """Read one finite number; None where there is none."""
    numbers = read_numbers([value] if isinstance(value, (int, float)) else value, 1)
    return numbers[0] if numbers else None


def _looks_like_dicom(data: bytes) -> bool:
    """Tell DICOM by its preamble or, without one, by a plausible element of group 8."""
    if data[128:132] == b"DICM":
        return True
    return data[:2] == b"\x08\x00" and data[3:4] == b"\x00" and len(data) > 8


def _scan(data: bytes, size: int) -> tuple[dict[str, str | int], str, int]:
    """Pick the wanted elements out of the start of a file; also its syntax and pixels' place."""
    if data[128:132] != b"DICM":
        raise _UnusualError
    values: dict[str, str | int] = {}
    position, syntax = _scan_meta(data)
    is_explicit = syntax != _IMPLICIT
    if syntax in (_BIG, _DEFLATED):
        raise _UnusualError
    n, unpack = len(data), struct.unpack_from
    while position + 12 <= n:
        group, element = unpack("<HH", data, position)
        length, start = _measure(data, position, is_explicit=is_explicit)
        tag = group << 16 | element
        if tag == _PIXELS:
            return values, syntax, start
        if length == _UNDEFINED or not 8 <= group < 0x7FE0:
            raise _UnusualError
        position = start + length
        if tag in _TEXT:
            values[_TEXT[tag]] = _take_text(data, tag, start, length)
        elif tag in _SHORT and length:
            values[_SHORT[tag]] = unpack("<H", data, start)[0]
        elif group & 0xFFE1 == 0x6000 and element == 0x0102 and length:
            values["overlay"] = unpack("<H", data, start)[0]
    if position != size:  # longer than what was read, or cut
        raise _UnusualError
    return values, syntax, -1


def _scan_meta(data: bytes) -> tuple[int, str]:
    """Find where the file meta group ends, and the transfer syntax it names."""
    position, syntax = 132, ""
    while data[position : position + 2] == b"\x02\x00":
        length, start = _measure(data, position, is_explicit=True)
        if struct.unpack_from("<HH", data, position) == (2, 0x10):
            syntax = data[start : start + length].decode("ascii").strip(" \0")
        position = start + length
    if not syntax:
        raise _UnusualError
    return position, syntax


def _measure(data: bytes, position: int, *, is_explicit: bool) -> tuple[int, int]:
    """Find the length of an element's value, and where it starts."""
    if not is_explicit:
        return struct.unpack_from("<I", data, position + 4)[0], position + 8
    kind = data[position + 4 : position + 6]
    if kind in _SHORT_VR:
        return struct.unpack_from("<H", data, position + 6)[0], position + 8
    if kind in _LONG_VR:
        return struct.unpack_from("<I", data, position + 8)[0], position + 12
    raise _UnusualError


def _take_text(data: bytes, tag: int, start: int, length: int) -> str:
    """Take a value as text."""
    if start + length > len(data):
        raise _UnusualError
    raw = data[start : start + length]
    if tag == _PHASE and length == 4:
        return repr(struct.unpack("<f", raw)[0])
    return raw.decode("latin-1").strip(" \0")


def _read_slowly(path: Path, status: os.stat_result, *, marked: bool) -> SliceHeader | Skip:
    """Read a header with pydicom, which knows every byte order and nesting."""
    broken = Skip.BROKEN if marked else Skip.NOT_DICOM
    try:
        with path.open("rb") as file:
            dataset = pydicom.dcmread(file, force=True, stop_before_pixels=True)
            place = file.tell()
            is_little = dataset.original_encoding[1] is not False
            start = _find_values(file.read(12), place, dataset, is_little=is_little)
            if "SOPClassUID" not in dataset and "Modality" not in dataset:
                return broken
            meta = getattr(dataset, "file_meta", None)
            syntax = str(meta.get("TransferSyntaxUID", "")) if meta else ""
            return _make_header(path, status, take_values(dataset), syntax, start,
                                is_little=is_little)  # fmt: skip
    except OSError:
        return Skip.NO_ACCESS
    except (*PARSE_ERRORS, RecursionError):
        return broken


def _find_values(head: bytes, place: int, dataset: Dataset, *, is_little: bool) -> int:
    """Find where the values of the pixels start, from the head of their element."""
    if head[:4] != (b"\xe0\x7f\x10\x00" if is_little else b"\x7f\xe0\x00\x10"):
        return -1
    return place + (8 if dataset.original_encoding[0] else 12)


def take_values(dataset: Dataset) -> dict[str, str | int]:
    """Take the wanted elements out of a pydicom dataset, as the scanner would give them.

    Args:
        dataset: A whole file, or what a frame has in place of it.
    """
    values: dict[str, str | int] = {}
    for keyword in _KEYWORDS:
        value = dataset.get(keyword)
        if value is None or value == "":
            continue
        if keyword in _SHORT.values():
            values[keyword] = int(value)
        elif isinstance(value, str) or not hasattr(value, "__iter__"):
            values[keyword] = str(value)
        else:
            values[keyword] = "\\".join(map(str, value))
    overlays = [e.value for e in dataset.group_dataset(0x6000) if e.tag.element == 0x0102]
    if overlays and isinstance(overlays[0], int):
        values["overlay"] = overlays[0]
    return values


def _make_header(
    path: Path,
    status: os.stat_result,
    values: Mapping[str, str | int],
    syntax: str,
    start: int,
    *,
    is_little: bool,
) -> SliceHeader:
    """Make the record; what many files share is held once."""

    def text(keyword: str) -> str:
        return sys.intern(str(values.get(keyword, "")))

    def short(keyword: str, default: int = 0) -> int:
        return int(values.get(keyword, default))

    padding = values.get("PixelPaddingValue")
    limit = values.get("PixelPaddingRangeLimit")
    frames = read_number(values.get("NumberOfFrames", 1))
    return SliceHeader(
        path=path, n_bytes=status.st_size, mtime_ns=status.st_mtime_ns,
        syntax=sys.intern(syntax), start=start, is_little=is_little,
        sop_class=text("SOPClassUID"), modality=text("Modality"),
        image_type=_share(tuple(text("ImageType").upper().split("\\"))),
        patient=text("PatientID"), study_uid=text("StudyInstanceUID"),
        series_uid=text("SeriesInstanceUID"), accession=text("AccessionNumber"),
        instance=str(values.get("ConcatenationUID") or values.get("SOPInstanceUID", ""))
        if "NumberOfFrames" in values else "",
        frames=int(min(max(frames or 0, 0), _MAX_FRAMES)), frame=0,
        position=read_numbers(values.get("ImagePositionPatient"), 3),
        orientation=_share(read_numbers(values.get("ImageOrientationPatient"), 6)),
        spacing=_share(read_numbers(values.get("PixelSpacing"), 2)),
        thickness=_share(read_number(values.get("SliceThickness"))),
        acquisition=text("AcquisitionNumber"), temporal=text("TemporalPositionIdentifier"),
        phase=_share(read_number(values.get("NominalPercentageOfCardiacPhase"))),
        time=str(values.get("ContentTime", "")), kernel=text("ConvolutionKernel"),
        rows=short("Rows"), columns=short("Columns"), samples=short("SamplesPerPixel", 1),
        photometric=text("PhotometricInterpretation"), allocated=short("BitsAllocated"),
        stored=short("BitsStored"), high=short("HighBit"),
        signed=short("PixelRepresentation") == 1,
        padding=None if padding is None else int(padding) & 0xFFFF,
        padding_limit=None if limit is None else int(limit) & 0xFFFF,
        overlay_bits=short("overlay") > 0,
        slope=_share(read_number(values.get("RescaleSlope"))),
        intercept=_share(read_number(values.get("RescaleIntercept"))),
        rescale_type=text("RescaleType"), lossy=text("LossyImageCompression") == "01",
    )  # fmt: skip


_shared: dict[object, object] = {}
_MAX_SHARED = 4096


def _share(value: T) -> T:
    """Hand out one object for all values that are equal."""
    if len(_shared) > _MAX_SHARED:
        _shared.clear()
    return _shared.setdefault(value, value)  # type: ignore[return-value]
