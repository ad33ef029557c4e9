"""DICOM CT series: slices sorted along their normal, and refused when they do not make a volume.

Spacing comes from the positions, never from SliceThickness or SpacingBetweenSlices; a gap, a
tilt or two slices at one place is refused, not repaired.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (modality LUT), C.8.2.1 (CT image).
"""

import hashlib
import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813  the name its own documentation uses
from jaxtyping import Float64, Int16, Shaped
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import Reason, VolumeError
from drrgen.io.hounsfield import to_hu
from drrgen.io.listing import CTFiles
from drrgen.volume import CTSource, CTVolume, Matrix4

MIN_SLICES = 3
SPACING_TOL = 0.02  # of the spacing: makers round positions to 0.01 mm, a lost slice doubles it
TILT_TOL_DEG = 0.1
ORIENTATION_TOL = 1e-3
PADDING_HU = -1024  # outside the field of view there is air
_READERS = 8  # threads: disks and networks answer several at once, and hashing lets others run
_INT16 = np.iinfo(np.int16)
_PIXEL_TAG, _PIXEL_TAG_BIG = b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"

_CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy converted enhanced CT
}
_HEADER = ["SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "StudyInstanceUID",
           "PatientID", "SliceThickness"]  # fmt: skip
_PIXEL_MODULE = ["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel",
                 "PixelRepresentation", "PhotometricInterpretation", "SOPClassUID",
                 "PixelData"]  # fmt: skip
_DECODE_ERRORS = (ValueError, AttributeError, NotImplementedError, RuntimeError, KeyError,
                  TypeError, IndexError)  # fmt: skip
_PARSE_ERRORS = (InvalidDicomError, EOFError, *_DECODE_ERRORS)


def is_dicom(path: Path) -> bool:
    """Say whether a file is DICOM by its content.

    Args:
        path: The file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    if head[128:132] == b"DICM":
        return True
    # Without the preamble: an element of group 8, its length or VR plausible.
    return head[:2] == b"\x08\x00" and head[3:4] == b"\x00" and len(head) > 8


def group_series(paths: Sequence[Path]) -> tuple[list[CTFiles], Counter[str]]:
    """Sort DICOM files into CT series, by their headers alone.

    Args:
        paths: DICOM files of any names, patients and series mixed.

    Returns:
        One entry a CT series, and how many files were left aside, by why.
    """
    groups: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    ignored: Counter[str] = Counter()
    for path in paths:
        header = _read_header(path)
        why = "not_ct" if header is None else _find_reason_to_ignore(header)
        if header is None or why:
            ignored[why] += 1
        else:
            groups[str(header.get("SeriesInstanceUID", ""))].append((path, header))
    return [_make_entry(uid, members) for uid, members in sorted(groups.items())], ignored


def read_dicom(files: CTFiles) -> CTVolume:
    """Read a CT series.

    Args:
        files: The files of one series.

    Raises:
        VolumeError: The slices do not make one trustworthy volume; the code says why.
        OSError: A file cannot be read.
    """
    path = files.paths[0].parent
    with _quiet(), ThreadPoolExecutor(_READERS) as pool:
        # Headers first: they say where each slice goes, so that one file at a time a thread is
        # read whole, hashed, decoded into its place and let go.
        heads = list(pool.map(_read_head, files.paths))
        datasets = [dataset for dataset, _ in heads]
        _check_alike(datasets, path)
        axes = _find_axes(datasets, path)
        positions = np.array([_numbers(d, "ImagePositionPatient", 3, path) for d in datasets])
        order, matrix = _find_grid(positions, axes, datasets[0], path)
        hu = np.empty((len(order), int(datasets[0].Rows), int(datasets[0].Columns)), np.int16)

        slices = [(files.paths[i], *heads[i]) for i in order]
        done = list(pool.map(lambda z: _fill_plane(hu[z], *slices[z]), range(len(order))))
    digest = hashlib.sha256("".join(digest for digest, _ in done).encode())
    clipped = {word for _, words in done for word in words}
    first = datasets[0]
    kernel = first.get("ConvolutionKernel")
    thickness = first.get("SliceThickness")
    return CTVolume(
        hu=hu,
        patient_from_voxel=matrix,
        source=CTSource(
            ct_format=CTFormat.DICOM,
            hu_source=HuSource.DICOM,
            n_bytes=files.n_bytes,
            sha256=digest.hexdigest(),
            slice_thickness_mm=float(thickness) if thickness else None,
            kernel=None if not kernel else kernel if isinstance(kernel, str) else "/".join(kernel),
            warnings=tuple(sorted(clipped)),
        ),
    )


@contextmanager
def _quiet() -> Iterator[None]:
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


def _read_header(path: Path) -> Dataset | None:
    """Read what tells series apart; None when the file is no readable DICOM."""
    try:
        with _quiet():
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True,
                                     specific_tags=_HEADER)  # fmt: skip
            return header if "SOPClassUID" in header or "Modality" in header else None
    except (OSError, *_PARSE_ERRORS):
        return None


def _find_reason_to_ignore(header: Dataset) -> str:
    """Say why an object is no part of a CT; an empty word when it is."""
    if str(header.get("SOPClassUID", "")) not in _CT_CLASSES:
        return "secondary" if header.get("Modality") == "CT" else "not_ct"
    words = [str(word).upper() for word in header.get("ImageType") or ()]
    return "localizer" if "LOCALIZER" in words else ""


def _make_entry(uid: str, members: list[tuple[Path, Dataset]]) -> CTFiles:
    """Describe a series."""
    header = members[0][1]
    stats = [path.stat() for path, _ in members]
    words = [str(word).upper() for word in header.get("ImageType") or ()]
    try:
        thickness = float(header.get("SliceThickness") or 99)
    except (TypeError, ValueError):
        thickness = 99.0
    return CTFiles(
        ct_format=CTFormat.DICOM,
        paths=tuple(sorted(path for path, _ in members)),
        name=uid,
        n_bytes=sum(stat.st_size for stat in stats),
        mtime_ns=max(stat.st_mtime_ns for stat in stats),
        patient=str(header.get("PatientID") or "") or None,
        study_uid=str(header.get("StudyInstanceUID") or "") or None,
        # Original before derived, then the most slices, then the thinnest.
        rank=(float("ORIGINAL" in words), float(len(members)), -thickness),
    )


def _read_head(path: Path) -> tuple[Dataset, int]:
    """Read a header, and find where the element of the pixels starts."""
    try:
        with path.open("rb") as file:
            dataset = pydicom.dcmread(file, force=True, stop_before_pixels=True)
            return dataset, file.tell()
    except _PARSE_ERRORS as error:
        raise _broken(path) from error


def _find_syntax(dataset: Dataset) -> pydicom.uid.UID | None:
    """Find the transfer syntax; None in a file without the group that names it."""
    meta = getattr(dataset, "file_meta", None)
    return meta.get("TransferSyntaxUID") if meta else None


def _check_alike(datasets: Sequence[Dataset], path: Path) -> None:
    """Refuse what is not a stack of plain CT slices of one kind."""
    if any(d.get("NumberOfFrames") not in (None, 1) or
           str(d.get("SOPClassUID")) != "1.2.840.10008.5.1.4.1.1.2" for d in datasets):  # fmt: skip
        raise _refuse(
            Reason.ENHANCED_UNSUPPORTED, path, "found multi-frame CT, wanted one slice a file"
        )
    if len(datasets) < MIN_SLICES:
        raise _refuse(
            Reason.TOO_FEW_SLICES, path, f"found {len(datasets)} slices, wanted {MIN_SLICES}"
        )
    for tag in ("Rows", "Columns", "PixelSpacing"):
        values = {str(d.get(tag)) for d in datasets}
        if len(values) > 1:
            raise _refuse(
                Reason.PIXEL_MISMATCH, path, f"found {len(values)} values of {tag}, wanted one"
            )
    for d in datasets:
        if d.get("RescaleSlope") is None or d.get("RescaleIntercept") is None:
            raise _refuse(
                Reason.NO_RESCALE, path, "found a slice without RescaleSlope or Intercept"
            )
        if str(d.get("RescaleType") or "HU") not in ("HU", "US"):
            raise _refuse(Reason.HU_SUSPECT, path, "found a RescaleType that is not HU")
        if d.get("PhotometricInterpretation") != "MONOCHROME2" or d.get("SamplesPerPixel", 1) != 1:
            raise _refuse(Reason.NOT_CT, path, "found pixels that are not MONOCHROME2")


def _numbers(dataset: Dataset, tag: str, count: int, path: Path) -> list[float]:
    """Read a tag of several finite numbers."""
    reason = {
        "ImagePositionPatient": Reason.NO_POSITION,
        "ImageOrientationPatient": Reason.NO_ORIENTATION,
    }.get(tag, Reason.METADATA_MISSING)
    try:
        values = [float(value) for value in dataset.get(tag) or ()]
    except (TypeError, ValueError):
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise _refuse(reason, path, f"found a slice without {tag}, wanted {count} numbers")
    return values


def _find_axes(datasets: Sequence[Dataset], path: Path) -> Float64[np.ndarray, "2 3"]:
    """Find the directions of rows and columns, the same in every slice."""
    all_axes = np.array([_numbers(d, "ImageOrientationPatient", 6, path) for d in datasets])
    axes: Float64[np.ndarray, "2 3"] = all_axes[0].reshape(2, 3)
    if np.abs(all_axes - all_axes[0]).max() > ORIENTATION_TOL:
        raise _refuse(Reason.MIXED_ORIENTATION, path, "found slices of several orientations")
    if np.abs(axes @ axes.T - np.eye(2)).max() > ORIENTATION_TOL:
        raise _refuse(Reason.NO_ORIENTATION, path, "found an orientation that is not orthonormal")
    # Stored with few digits: make the right angle exact.
    row = axes[0] / np.linalg.norm(axes[0])
    column = axes[1] - row * (row @ axes[1])
    return np.stack([row, column / np.linalg.norm(column)])


def _find_grid(
    positions: Float64[np.ndarray, "n 3"],
    axes: Float64[np.ndarray, "2 3"],
    first: Dataset,
    path: Path,
) -> tuple[list[int], Matrix4]:
    """Sort the slices along their normal, check that they are evenly spaced, build the matrix."""
    normal = np.cross(axes[0], axes[1])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    spacing = float(np.median(gaps))
    if (gaps < SPACING_TOL * max(spacing, 0.1)).any():
        raise _refuse(Reason.DUPLICATE_POSITIONS, path, "found two slices at one position")
    if np.abs(gaps - spacing).max() > SPACING_TOL * spacing:
        raise _refuse(
            Reason.SLICE_GAP, path,
            f"found slices {gaps.min():.3f} to {gaps.max():.3f} mm apart, wanted an even spacing",
        )  # fmt: skip
    start, end = positions[order[0]], positions[order[-1]]
    step = (end - start) / (len(order) - 1)
    tilt = np.degrees(np.arccos(np.clip(step @ normal / np.linalg.norm(step), -1, 1)))
    if tilt > TILT_TOL_DEG:
        raise _refuse(Reason.TILT_REFUSED, path, f"found slices sheared by {tilt:.1f} degrees")
    row_mm, column_mm = _numbers(first, "PixelSpacing", 2, path)
    matrix = np.eye(4)
    matrix[:3, 0] = axes[0] * column_mm  # PixelSpacing names the distance between rows first
    matrix[:3, 1] = axes[1] * row_mm
    matrix[:3, 2] = normal * np.linalg.norm(step)
    matrix[:3, 3] = start
    return [int(i) for i in order], matrix


def _fill_plane(
    plane: Int16[np.ndarray, "y x"], path: Path, dataset: Dataset, start: int
) -> tuple[str, tuple[str, ...]]:
    """Decode the pixels of a file into their place; return the file's digest, and warnings."""
    data = path.read_bytes()
    stored = _decode(dataset, data, start, path)
    if stored.shape != plane.shape:
        raise _broken(path)
    padding = dataset.get("PixelPaddingValue")
    outside = stored == _fit(padding, stored.dtype) if isinstance(padding, int) else None
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    found: tuple[str, ...] = ()
    if _is_shift(stored, slope, intercept):
        # Modulo 65536, which is exact because no value leaves int16.
        np.add(stored.view(np.int16), np.int64(intercept).astype(np.int16), out=plane)
    else:
        hu, found = to_hu(stored[None], slope=slope, intercept=intercept)
        plane[:] = hu[0]
    if outside is not None:
        plane[outside] = PADDING_HU
    return hashlib.sha256(data).hexdigest(), found


def _is_shift(stored: Shaped[np.ndarray, "y x"], slope: float, intercept: float) -> bool:
    """Say whether HU are 16-bit stored values and a whole number, and all fit int16."""
    if slope != 1.0 or not intercept.is_integer() or stored.dtype not in (np.int16, np.uint16):
        return False
    low, high = int(stored.min()) + intercept, int(stored.max()) + intercept
    return low >= _INT16.min and high <= _INT16.max


def _fit(value: int, kind: "np.dtype[np.generic]") -> int:
    """Read a padding value with the sign of the pixels, whatever sign its own tag had."""
    bits = 8 * kind.itemsize
    value &= 2**bits - 1
    return value - 2**bits if kind.kind == "i" and value >= 2 ** (bits - 1) else value


def _decode(dataset: Dataset, data: bytes, start: int, path: Path) -> Shaped[np.ndarray, "y x"]:
    """Decode stored values, with the sign and the bits that the header tells."""
    syntax = _find_syntax(dataset)
    compressed = syntax is not None and syntax.is_encapsulated
    try:
        if compressed:
            return _decompress(pydicom.dcmread(BytesIO(data)))
        if dataset.BitsAllocated == 16 and not (syntax and syntax.is_deflated):
            return _view_words(dataset, data, start)
        return np.asarray(pydicom.dcmread(BytesIO(data), force=True).pixel_array)
    except _PARSE_ERRORS as error:
        if syntax is not None and compressed:
            raise VolumeError(
                Reason.UNSUPPORTED_TRANSFER_SYNTAX, path,
                f"found pixels compressed as {syntax.name}, which cannot be decoded here",
                remedy="pip install pylibjpeg-openjpeg, or decompress the series first",
            ) from error  # fmt: skip
        raise _broken(path) from error


def _view_words(dataset: Dataset, data: bytes, start: int) -> Shaped[np.ndarray, "y x"]:
    """View uncompressed 16-bit words, without a copy unless the header says fewer bits count."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    is_implicit, is_little = dataset.original_encoding
    if data[start : start + 4] != (_PIXEL_TAG if is_little else _PIXEL_TAG_BIG):
        raise ValueError("no PixelData")
    start += 8 if is_implicit else 12  # tag, type if explicit, length
    words = np.frombuffer(data, "<u2" if is_little else ">u2", rows * columns, start)
    kind = np.int16 if dataset.PixelRepresentation == 1 else np.uint16
    stored = words.astype(np.uint16, copy=False).view(kind).reshape(rows, columns)
    bits, high = int(dataset.BitsStored), int(dataset.HighBit)
    if not 0 < bits <= high + 1 <= 16:
        raise ValueError(f"BitsStored {bits} and HighBit {high} do not fit 16 bits")
    if bits == 16:
        return stored
    # Push the bits above the highest out, then come back: zeros or the sign fill the rest.
    moved = np.left_shift(stored, 15 - high)
    return np.right_shift(moved, 16 - bits, out=moved)


def _decompress(dataset: Dataset) -> Shaped[np.ndarray, "y x"]:
    """Decompress by pydicom and its plugins, and by the GDCM inside SimpleITK where they cannot."""
    try:
        return np.asarray(dataset.pixel_array)
    except _DECODE_ERRORS:
        return _decompress_with_gdcm(dataset)


def _decompress_with_gdcm(dataset: Dataset) -> Shaped[np.ndarray, "y x"]:
    """Let GDCM decode a copy that has pixels and nothing of the patient, nor a rescale."""
    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    for tag in _PIXEL_MODULE:
        bare[tag] = dataset[tag]
    bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("2.25.1")
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    with TemporaryDirectory(prefix="drrgen-") as folder:
        path = Path(folder, "slice.dcm")
        bare.save_as(path, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        return np.asarray(sitk.GetArrayFromImage(reader.Execute())[0])


def _broken(path: Path) -> VolumeError:
    """Make the error of a slice that ends too early."""
    return VolumeError(
        Reason.UNREADABLE_SLICE, path, "found a slice that is cut or broken",
        remedy="copy or export the series again",
    )  # fmt: skip


def _refuse(reason: Reason, path: Path, detail: str) -> VolumeError:
    """Make the error of a series that cannot be trusted."""
    return VolumeError(reason, path, detail, remedy="export the original axial series again")
