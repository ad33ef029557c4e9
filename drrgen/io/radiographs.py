"""Radiographs and line integrals on disk, each file whole, with the settings that made it.

Reading takes the same formats, and those that collections of real radiographs come in.
"""

import ast
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from isal import isal_zlib
from jaxtyping import Float, Shaped
from PIL import Image, ImageOps
from torch import Tensor

from drrgen.choices import Display, ImageFormat, View
from drrgen.errors import InputError, RadiographError, Reason
from drrgen.io.atomic import write_bytes
from drrgen.io.dicom_radiographs import DicomFacts, decode_dicom, encode_dicom
from drrgen.physics.display import to_radiograph

_FORMATS = {
    ".png": ImageFormat.PNG16,
    ".dcm": ImageFormat.DICOM,
    ".npy": ImageFormat.NPY,
    ".tif": ImageFormat.TIFF,
    ".tiff": ImageFormat.TIFF,
}
_SUB_FILTER = 1
_DICOM_MARK = b"DICM"  # after a preamble of 128 bytes
_NPY_MARK, _TIFF_MARKS = b"\x93NUMPY", (b"II*\0", b"MM\0*")
_CHEST = ("CHEST", "THORAX", "LUNG")  # in Body Part Examined
_DETECTOR_BITS = (8, 10, 12, 14)  # kept in the low bits of files of 16
_COLOURED, _MUCH = 24, 0.1  # levels of 255 between red, green and blue; share of the pixels
_OURS = {"Software": "drrgen"}  # in each PNG: its bits are all used, dark as it may be
_PLAIN_TIFF = (tifffile.COMPRESSION.NONE, tifffile.COMPRESSION.ADOBE_DEFLATE)
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error,
                  tifffile.TiffFileError, Image.DecompressionBombError)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Radiograph:
    """A radiograph from disk, rendered or real.

    Attributes:
        grey: From 0 (black, air) to 1 (white, dense).
        pitch_mm: Detector pitch [mm]; None when not known.
        exposed_xywh: Open part of the collimator: left, top, width, height [pixels]; None when
            not known.
        view: The named view; None when not known.
        body_part: The body part that a DICOM file names; None when not known.
        used_bits: Low bits that a file of 16 bits leaves it at; None where it uses all.
        is_coloured: Whether it is a picture in colours, which a radiograph is not.
    """

    grey: Float[Tensor, "v u"]
    pitch_mm: float | None = None
    exposed_xywh: tuple[int, int, int, int] | None = None
    view: View | None = None
    body_part: str | None = None
    used_bits: int | None = None
    is_coloured: bool = False

    @property
    def is_chest(self) -> bool | None:
        """Whether the body part is the chest; None when not known."""
        return None if self.body_part is None else any(w in self.body_part for w in _CHEST)


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


def read_radiograph(path: Path | str) -> Radiograph:
    """Read a radiograph by its content, whatever its name: DICOM, PNG, JPEG, TIFF or NPY.

    Whole numbers are grey, 0 black and the largest of their type white; where 16 bits hold no more
    than 8, or a detector's 10, 12 or 14, the largest of these: a guess, made for each file alone.
    Line integrals (NPY and TIFF of floating point) are shown by the linear display.

    Args:
        path: The file.

    Raises:
        RadiographError: Not one grey picture, not whole, or a DICOM object that is no radiograph.
        OSError: The file cannot be read.
    """
    file = Path(path)
    data = file.read_bytes()
    if data[128:132] == _DICOM_MARK or file.suffix.lower() in (".dcm", ".dicom"):
        found = decode_dicom(file, data)
        return Radiograph(
            grey=torch.from_numpy(found.grey.astype(np.float32)),
            pitch_mm=found.pitch_mm,
            exposed_xywh=found.exposed_xywh,
            view=found.view,
            body_part=found.body_part,
        )
    try:
        decoded = _decode(data)
    except _DECODE_ERRORS as error:
        raise RadiographError(
            Reason.TRUNCATED_FILE,
            file,
            f"it cannot be read as DICOM, PNG, JPEG, TIFF or NPY ({type(error).__name__})",
            remedy="get a whole copy of the file, or leave it out",
        ) from error
    text, used_bits = decoded.text, decoded.find_used_bits()
    return Radiograph(
        grey=_to_grey(decoded, used_bits, file),
        pitch_mm=_parse_pitch_mm(text.get("drrgen:pitch_mm", "")),
        exposed_xywh=_parse_exposed(text.get("drrgen:exposed_xywh", "")),
        view=View(text["drrgen:view"]) if text.get("drrgen:view") in set(View) else None,
        used_bits=used_bits,
        is_coloured=decoded.is_coloured,
    )


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
        return encode_png(pixels, pitch_mm=pitch_mm, text={**_OURS, **text})
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Decoded:
    """What a file that is no DICOM holds.

    The resolution that a picture states is not asked: a scan's tells of paper, not of a detector.

    Attributes:
        values: As they are stored.
        text: drrgen's own, or another program's.
        is_negative: Whether 0 is white.
        is_coloured: Whether more than words or arrows on it are in colours.
    """

    values: Shaped[np.ndarray, "..."]
    text: Mapping[str, str]
    is_negative: bool = False
    is_coloured: bool = False

    def find_used_bits(self) -> int | None:
        """Find the bits of a detector that a file of 16 bits leaves it at; None where it uses all.

        A radiograph that spans 16 bits is nowhere darker than a quarter of them throughout.
        """
        is_ours = self.text.items() >= _OURS.items() or any(
            key.startswith("drrgen:")
            for key in self.text  # of earlier versions
        )
        if is_ours or self.values.dtype.kind not in "ui" or self.values.dtype.itemsize != 2:
            return None
        highest = int(self.values.max(initial=0))
        return next((bits for bits in _DETECTOR_BITS if 0 < highest < 2**bits), None)


def _decode(data: bytes) -> _Decoded:
    """Decode a file that is no DICOM."""
    if data.startswith(_NPY_MARK):
        return _Decoded(values=np.load(io.BytesIO(data), allow_pickle=False), text={})
    if data.startswith(_TIFF_MARKS):
        return _decode_tiff(data)
    return _decode_picture(data)


def _decode_tiff(data: bytes) -> _Decoded:
    """Decode the first page of a TIFF.

    Colours, single bits and what tifffile has no codec for (LZW, JPEG) are Pillow's.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages.first
        text = _parse_json(page.description)
        is_negative = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        is_grey = is_negative or page.photometric == tifffile.PHOTOMETRIC.MINISBLACK
        if is_grey and page.bitspersample >= 8 and page.compression in _PLAIN_TIFF:
            values, is_coloured = page.asarray(), False
        else:
            picture = _decode_picture(data)
            values, is_coloured = picture.values, picture.is_coloured
            is_negative = is_negative and values.dtype == np.uint16  # Pillow turns bytes around
    return _Decoded(values=values, text=text, is_negative=is_negative, is_coloured=is_coloured)


def _decode_picture(data: bytes) -> _Decoded:
    """Decode PNG, JPEG and the like, upright where the file says how the camera was held."""
    with Image.open(io.BytesIO(data)) as image:
        text = {str(k): v for k, v in image.info.items() if isinstance(v, str)}
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            values = np.asarray(upright).clip(0, 65535).astype(np.uint16)
        else:
            values = np.asarray(upright.convert("L"))
        is_coloured = _find_colours(upright)
    return _Decoded(values=values, text=text, is_coloured=is_coloured)


def _find_colours(image: Image.Image) -> bool:
    """Say whether a picture is in colours: more than a few of its pixels are far from grey."""
    if image.mode in ("1", "L", "LA") or image.mode.startswith(("I", "F")):
        return False
    small = np.asarray(image.convert("RGB").resize((64, 64)), dtype=np.int16)
    return bool(np.mean(np.ptp(small, axis=2) > _COLOURED) > _MUCH)


def _parse_json(text: str) -> dict[str, str]:
    """Read the description of a TIFF; another program's is none of ours."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def _parse_pitch_mm(text: str) -> float | None:
    """Read the pitch as the text of a picture holds it."""
    try:
        return float(text)
    except ValueError:
        return None


def _parse_exposed(text: str) -> tuple[int, int, int, int] | None:
    """Read the exposed field as the text of a picture holds it."""
    try:
        left, top, width, height = (int(x) for x in ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        return None
    return left, top, width, height


def _to_grey(decoded: _Decoded, used_bits: int | None, path: Path) -> Float[Tensor, "v u"]:
    """Turn what a file holds into grey."""
    values = decoded.values
    if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "uif":
        raise RadiographError(
            Reason.NOT_RADIOGRAPH,
            path,
            f"it holds {values.dtype} values of shape {list(values.shape)}, wanted numbers in rows "
            "and columns",
            remedy="leave it out, or save one grey picture",
        )
    if values.dtype.kind in "ui":
        white = 2**used_bits - 1 if used_bits else np.iinfo(values.dtype).max
        grey = (values.clip(0) / white).astype(np.float32)
        return torch.from_numpy(1 - grey if decoded.is_negative else grey)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise RadiographError(
            Reason.NAN_VOXELS,
            path,
            "some of its line integrals are not finite",
            remedy="render it again",
        )
    return to_radiograph(torch.from_numpy(values), display=Display.LINEAR)
