"""Radiographs and line integrals on disk, each file whole, with the settings that made it."""

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tifffile
from isal import isal_zlib
from jaxtyping import Float, Shaped
from torch import Tensor

from drrgen.choices import ImageFormat
from drrgen.errors import InputError
from drrgen.io.atomic import write_bytes
from drrgen.io.dicom_radiographs import DicomFacts, encode_dicom

_FORMATS = {
    ".png": ImageFormat.PNG16,
    ".dcm": ImageFormat.DICOM,
    ".npy": ImageFormat.NPY,
    ".tif": ImageFormat.TIFF,
    ".tiff": ImageFormat.TIFF,
}
_SUB_FILTER = 1


def write_radiograph(
    path: Path | str,
    image: Float[Tensor, "v u"],
    *,
    format: ImageFormat | None = None,  # noqa: A002  the word of the option
    pitch_mm: float | None = None,
    settings: Mapping[str, str] | None = None,
    facts: DicomFacts | None = None,
) -> str:
    """Write a display image as PNG or DICOM, or line integrals as NPY or TIFF (float32).

    Args:
        path: Final name.
        image: Grey from 0 to 1 for PNG and DICOM; line integrals, as they are, else.
        format: File format; None takes it from the name's end.
        pitch_mm: Detector pitch, written as resolution [mm].
        settings: What made the image: text chunks of a PNG, description of a TIFF, a private
            element of a DICOM file.
        facts: Patient, view and distances, which a DICOM file needs.

    Returns:
        SHA-256 of the decoded pixels, see ``digest_pixels``.

    Raises:
        InputError: Unknown name's end, an image that is empty or not finite, or DICOM without
            facts.
    """
    file = Path(path)
    chosen = format or _FORMATS.get(file.suffix.lower())
    if chosen is None:
        raise InputError(f"unknown ending {file.suffix!r}; use one of {', '.join(_FORMATS)}")
    values = image.detach().cpu().numpy()
    if values.size == 0 or not np.isfinite(values).all():
        raise InputError("an image must have pixels, all finite; render it again")
    text = dict(settings or {})
    if chosen in (ImageFormat.PNG16, ImageFormat.DICOM):
        pixels = np.rint(np.clip(values, 0, 1) * 65535).astype(np.uint16)
    elif chosen is ImageFormat.PNG8:
        pixels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    else:
        pixels = values.astype(np.float32)
    digest = digest_pixels(pixels)
    if chosen is not ImageFormat.DICOM:
        write_bytes(file, _encode(pixels, chosen, pitch_mm, text))
    elif facts is not None:
        write_bytes(file, encode_dicom(pixels, facts, text, digest))
    else:
        raise InputError("a DICOM file needs facts, got none; give DicomFacts, or write a PNG")
    return digest


def digest_pixels(pixels: Shaped[np.ndarray, "v u"]) -> str:
    """SHA-256 of type, height, width and little-endian values: the same for every file format."""
    little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    head = f"{little.dtype.str} {little.shape[0]} {little.shape[1]}\n"
    return hashlib.sha256(head.encode() + little.tobytes()).hexdigest()


def encode_png(
    pixels: Shaped[np.ndarray, "v u"], *, pitch_mm: float | None, text: Mapping[str, str]
) -> bytes:
    """Encode grey pixels of 8 or 16 bits: Sub filter, then ISA-L.

    Args:
        pixels: uint8 or uint16.
        pitch_mm: Side of a pixel [mm].
        text: Text chunks, in Latin-1.

    Source:
        W3C, Portable Network Graphics Specification, third edition.
    """
    rows, columns = pixels.shape
    depth = 8 * pixels.itemsize
    raw = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder(">")).view(np.uint8)
    step = pixels.itemsize
    lines = np.empty((rows, raw.shape[1] + 1), dtype=np.uint8)
    lines[:, 0] = _SUB_FILTER
    lines[:, 1 : 1 + step] = raw[:, :step]
    np.subtract(raw[:, step:], raw[:, :-step], out=lines[:, 1 + step :])
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, depth, 0, 0, 0, 0))]
    if pitch_mm:
        per_metre = round(1000 / pitch_mm)
        chunks.append(_chunk(b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1)))
    for key, value in text.items():
        content = key.encode("latin-1") + b"\0" + value.encode("latin-1", "backslashreplace")
        chunks.append(_chunk(b"tEXt", content))
    chunks.append(_chunk(b"IDAT", isal_zlib.compress(lines.data, 1)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Frame a chunk by its length and checksum."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _encode(
    pixels: Shaped[np.ndarray, "v u"],
    chosen: ImageFormat,
    pitch_mm: float | None,
    text: Mapping[str, str],
) -> bytes:
    """Encode in the chosen format."""
    if not chosen.holds_line_integrals:
        return encode_png(pixels, pitch_mm=pitch_mm, text=text)
    buffer = io.BytesIO()
    if chosen is ImageFormat.NPY:
        np.save(buffer, pixels, allow_pickle=False)
    else:
        per_cm = 10 / pitch_mm if pitch_mm else 1.0
        description = json.dumps(text, sort_keys=True)
        tifffile.imwrite(
            buffer, pixels, description=description, resolution=(per_cm, per_cm),
            resolutionunit=3, metadata=None,
        )  # fmt: skip
    return buffer.getvalue()
