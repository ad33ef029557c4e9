"""A DICOM CT, read: headers first, so that each slice is decoded once and straight into its place.

What does not make one trustworthy volume is refused, what is repaired is a warning, and the
pixels of one slice are compared with what another reader makes of them. How slices are sorted
into CT is told in ``dicom_series``, how they get a grid in ``dicom_grid``.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.11.1 (modality LUT), C.8.2.1 (CT image).
"""

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from drrgen.choices import CTFormat, HuSource
from drrgen.errors import Reason, VolumeError
from drrgen.io.dicom_enhanced import read_frames
from drrgen.io.dicom_grid import (
    PADDING_HU,
    SLICES_INTERPOLATED,
    Grid,
    fill_planes,
    find_grid,
    find_planes,
    find_positions,
    find_repeats,
    refuse,
    shift_plane,
)
from drrgen.io.dicom_header import READERS, Skip, SliceHeader, quiet, read_headers
from drrgen.io.dicom_pixels import broken, find_hu, read_with_sitk
from drrgen.io.dicom_series import (
    BROKEN_BESIDE,
    CT_IMAGE,
    ENHANCED_CT,
    MIN_SLICES,
    PHASE_CHOSEN,
    STRAY_MATRIX,
    STRAY_ORIENTATION,
    name_kernel,
    split_phases,
)
from drrgen.io.listing import CTFiles
from drrgen.volume import CTSource, CTVolume, Hu

LOSSY = "lossy_compression"
DUPLICATES_DROPPED = "duplicates_dropped"
RESCALE_ASSUMED = "rescale_assumed"
PIXELS_UNCHECKED = "pixels_unchecked"
_LOSSY_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 81, 91))
_AIR_HU, _AIR_SHARE = (-1100, -900), 0.01  # a CT shows so much air
_ROUNDING_HU = 1
_own = threading.local()  # a buffer a thread: fresh memory costs more than the reading
_WHY_A_GAP = {
    STRAY_ORIENTATION: Reason.MIXED_ORIENTATION,
    STRAY_MATRIX: Reason.PIXEL_MISMATCH,
    BROKEN_BESIDE: Reason.UNREADABLE_SLICE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pixels:
    """The slices to read, where they go, and the multi-frame file that holds them, if one does."""

    slices: Sequence[SliceHeader]
    grid: Grid
    whole: bytes | None


def read_dicom(files: CTFiles) -> CTVolume:
    """Read a CT from DICOM files.

    Args:
        files: The files of one CT.

    Raises:
        VolumeError: The slices do not make one trustworthy volume; the code says why.
        OSError: A file cannot be read.
    """
    path = files.here[0].parent
    slices, words = _read_slices(files, path)
    _check_alike(slices, path)
    with quiet(), ThreadPoolExecutor(_count_threads()) as pool:
        slices, dropped = _drop_duplicates(slices, path)
        grid = find_grid(slices, *find_positions(slices, path), path)
        if SLICES_INTERPOLATED in grid.warnings:
            _check_gap(files, path)
        slices = [slices[i] for i in grid.order]
        whole = slices[0].here.read_bytes() if slices[0].frames > 1 else None
        check = pool.submit(_compare_readers, slices[len(slices) // 2], whole)
        hu, digest, found = _read_planes(_Pixels(slices=slices, grid=grid, whole=whole), pool)
        checked = check.result()
    assumed = _check_rescale(slices, hu, path)
    words |= {*files.warnings, *dropped, *grid.warnings, *found, *checked, *assumed}
    return CTVolume(
        hu=fill_planes(hu, grid) if not grid.is_even else hu,
        patient_from_voxel=grid.patient_from_voxel,
        source=CTSource(
            ct_format=CTFormat.DICOM,
            hu_source=HuSource.ASSUMED if assumed else HuSource.DICOM,
            n_bytes=files.n_bytes,
            sha256=digest,
            slice_thickness_mm=slices[0].thickness or None,
            kernel=name_kernel(slices[0].kernel),
            tilt_deg=grid.tilt_deg,
            warnings=tuple(sorted(words)),
        ),
    )


def _read_slices(files: CTFiles, path: Path) -> tuple[list[SliceHeader], set[str]]:
    """Read all headers; of a multi-frame file, the frames of the phase that one would choose."""
    if files.n_broken:
        raise refuse(Reason.UNREADABLE_SLICE, path,
                     f"found {files.n_broken} empty or broken files among the slices",
                     "copy or export the series again, or remove those files")  # fmt: skip
    slices = []
    for file, header in read_headers(files.here):
        if header is Skip.NO_ACCESS:
            file.open("rb").close()  # raises what the system says
        if isinstance(header, Skip):
            raise broken(file)
        slices.append(header)
    if slices[0].sop_class not in ENHANCED_CT:
        return slices, set()
    if len(slices) > 1:
        raise refuse(Reason.ENHANCED_UNSUPPORTED, path, "found a multi-frame CT in several files, "
                     "wanted one", "export the series as one file a slice")  # fmt: skip
    with quiet():
        phases = split_phases(read_frames(slices[0]))
    _, chosen = min(phases, key=lambda phase: phase[0])
    return chosen, {PHASE_CHOSEN} if len(phases) > 1 else set()


def _count_threads() -> int:
    """Count threads to decode with: two a core, so that one can wait for the disk."""
    return min(READERS, 2 * (os.cpu_count() or 1))


def _check_alike(slices: Sequence[SliceHeader], path: Path) -> None:
    """Refuse what is not a stack of CT slices of one kind."""
    if any("LOCALIZER" in each.image_type for each in slices):
        raise refuse(Reason.LOCALIZER_ONLY, path, "found localizers alone, wanted slices")
    if any(each.sop_class == CT_IMAGE and each.frames != 1 for each in slices):
        raise refuse(Reason.ENHANCED_UNSUPPORTED, path,
                     "found several frames in a file of single slices")  # fmt: skip
    if len(slices) < MIN_SLICES:
        raise refuse(Reason.TOO_FEW_SLICES, path,
                     f"found {len(slices)} slices, wanted {MIN_SLICES}")  # fmt: skip
    for name in ("rows", "columns", "spacing"):
        values = {getattr(each, name) for each in slices}
        if len(values) > 1:
            raise refuse(Reason.PIXEL_MISMATCH, path,
                         f"found {len(values)} values of {name}, wanted one")  # fmt: skip
    for each in slices:
        if each.photometric != "MONOCHROME2" or each.samples != 1:
            raise refuse(Reason.NOT_CT, path, "found pixels that are not MONOCHROME2")
        if (each.rescale_type or "HU") not in ("HU", "US"):
            raise refuse(Reason.HU_SUSPECT, path, "found a RescaleType that is not HU")
    if not (slices[0].rows and slices[0].columns):
        raise broken(path)
    _check_scale(slices, path)


def _check_scale(slices: Sequence[SliceHeader], path: Path) -> None:
    """Refuse a scale that some slices lack, or that makes nothing of the values."""
    lacking = [each.slope is None or each.intercept is None for each in slices]
    none_at_all = all(each.slope is None and each.intercept is None for each in slices)
    if (any(lacking) and not none_at_all) or any(each.slope == 0 for each in slices):
        raise refuse(Reason.NO_RESCALE, path,
                     f"found {sum(lacking)} slices without RescaleSlope or RescaleIntercept, or a "
                     "slope of zero")  # fmt: skip


def _check_rescale(slices: Sequence[SliceHeader], hu: Hu, path: Path) -> tuple[str, ...]:
    """Take values without a scale for HU only where they look like it: signed, and air is there."""
    if slices[0].slope is not None:
        return ()
    low, high = _AIR_HU
    glance = hu.reshape(-1)[::7]
    share = np.count_nonzero((glance >= low) & (glance <= high)) / glance.size
    if not slices[0].signed or share < _AIR_SHARE:
        raise refuse(Reason.NO_RESCALE, path,
                     "found no RescaleSlope and RescaleIntercept, and values that do not look like "
                     "HU")  # fmt: skip
    return (RESCALE_ASSUMED,)


def _check_gap(files: CTFiles, path: Path) -> None:
    """Refuse to fill a gap whose slices are there, but broken or unlike the others."""
    for word, reason in _WHY_A_GAP.items():
        if word in files.warnings:
            raise refuse(reason, path, f"found a gap between slices, and {word.replace('_', ' ')} "
                         "of the same series")  # fmt: skip


def _drop_duplicates(
    slices: Sequence[SliceHeader], path: Path
) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Drop slices that are there twice; refuse those that differ at one place."""
    positions, axes = find_positions(slices, path)
    repeats = find_repeats(positions @ np.cross(axes[0], axes[1]))
    dropped: set[int] = set()
    for same in repeats:
        one, *others = same
        wanted = _read_alone(slices[one])
        for other in others:
            if np.abs(positions[one] - positions[other]).max() > 0.1 or not np.array_equal(
                wanted, _read_alone(slices[other])
            ):
                raise _refuse_repeats(repeats, len(slices), path)
            dropped.add(other)
    kept = [each for i, each in enumerate(slices) if i not in dropped]
    if len(kept) < MIN_SLICES:
        raise refuse(Reason.TOO_FEW_SLICES, path,
                     f"found {len(kept)} different slices, wanted {MIN_SLICES}")  # fmt: skip
    return kept, (DUPLICATES_DROPPED,) if dropped else ()


def _refuse_repeats(repeats: Sequence[Sequence[int]], n: int, path: Path) -> VolumeError:
    """Make the error of different slices at one place: phases, if all places have several."""
    if sum(map(len, repeats)) == n:
        return refuse(Reason.MULTI_PHASE, path, f"found {n} different slices at {len(repeats)} "
                      "places, and no tag that tells the phases apart",
                      "export each phase as a series of its own")  # fmt: skip
    return refuse(Reason.DUPLICATE_POSITIONS, path, "found different slices at one position")


def _read_alone(header: SliceHeader, whole: bytes | None = None) -> Int16[np.ndarray, "y x"]:
    """Read one slice by itself."""
    hu = np.empty((header.rows, header.columns), np.int16)
    find_hu(header, whole or header.here.read_bytes(), hu)
    return hu


def _read_planes(pixels: _Pixels, pool: Executor) -> tuple[Hu, str, set[str]]:
    """Read every slice into its place; return the digest of the files, and warnings."""
    places = find_planes(pixels.grid)
    hu = np.empty((max(places) + 1, *pixels.grid.shape_yx), np.int16)
    done = list(pool.map(lambda i: _read_plane(pixels, i, hu[places[i]]), range(len(places))))
    digests = [digest for digest, _ in done]
    if pixels.whole is not None:
        digests = [hashlib.sha256(pixels.whole).hexdigest()]
    words = {word for _, found in done for word in found}
    if any(each.lossy or each.syntax in _LOSSY_SYNTAXES for each in pixels.slices):
        words.add(LOSSY)
    return hu, hashlib.sha256("".join(digests).encode()).hexdigest(), words


def _read_plane(
    pixels: _Pixels, index: int, out: Int16[np.ndarray, "v u"]
) -> tuple[str, tuple[str, ...]]:
    """Read one slice into its place; return its file's digest, and warnings."""
    header, shift = pixels.slices[index], pixels.grid.shift_px[index]
    data = _read_file(header) if pixels.whole is None else pixels.whole
    if (header.rows, header.columns) == out.shape and not shift.any():
        words = find_hu(header, data, out)
    else:
        plane = np.empty((header.rows, header.columns), np.int16)
        words = find_hu(header, data, plane)
        shift_plane(plane, shift, out)
    return hashlib.sha256(data).hexdigest() if pixels.whole is None else "", words


def _read_file(header: SliceHeader) -> memoryview:
    """Read a file into this thread's buffer, which its next file overwrites."""
    buffer: bytearray | None = getattr(_own, "buffer", None)
    if buffer is None or len(buffer) < header.n_bytes:
        buffer = _own.buffer = bytearray(header.n_bytes)
    with header.here.open("rb", buffering=0) as file:
        view, n = memoryview(buffer), 0
        while n < header.n_bytes and (got := file.readinto(view[n : header.n_bytes])):
            n += got
    return view[:n]


def _compare_readers(header: SliceHeader, whole: bytes | None) -> tuple[str, ...]:
    """Compare one slice with what SimpleITK makes of it, pixel by pixel and rescale and all."""
    if whole is not None:
        return ()  # its reader knows no rescale a frame
    ours, theirs = _read_alone(header), read_with_sitk(header.here)
    if theirs is None:
        return (PIXELS_UNCHECKED,)
    # Padding is air for us, and for them a number like any other.
    inside = (ours > PADDING_HU) & (ours < np.iinfo(np.int16).max)
    if (
        theirs.shape[-2:] != ours.shape
        or (
            np.abs(theirs.reshape(ours.shape)[inside] - ours[inside].astype(np.float32))
            > _ROUNDING_HU
        ).any()
    ):
        raise refuse(Reason.PIXEL_MISMATCH, header.here,
                     "found a slice that two readers give different HU")  # fmt: skip
    return ()
