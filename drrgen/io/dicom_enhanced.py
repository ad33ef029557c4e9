"""Enhanced multi-frame CT: one file, its geometry and rescale told frame by frame.

Source: DICOM PS3.3 A.38 (enhanced CT), C.7.6.16 (functional groups).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from drrgen.errors import Reason, VolumeError
from drrgen.io.dicom_header import PARSE_ERRORS, SliceHeader, read_number, read_numbers

_UNDISTORTED = ("", "VOLUME")  # others are maps, projections and resampled surfaces


def read_frames(header: SliceHeader) -> list[SliceHeader]:
    """Read the header of every frame; localizer frames are left out.

    Args:
        header: The file, as ``read_header`` gives it.

    Raises:
        VolumeError: ``enhanced_unsupported``, with what is missing.
        OSError: The file cannot be read.
    """
    try:
        dataset = pydicom.dcmread(header.here, force=True, stop_before_pixels=True)
        shared = _first(dataset, "SharedFunctionalGroupsSequence")
        frames = dataset.get("PerFrameFunctionalGroupsSequence") or ()
        if len(frames) != header.frames:
            raise _unsupported(
                header.here, f"found functional groups of {len(frames)} frames, wanted "
                f"{header.frames}",
            )  # fmt: skip
        if str(dataset.get("VolumetricProperties") or "") not in _UNDISTORTED:
            raise _unsupported(header.here, "found frames that are no plain volume")
        return _read_all(header, shared, frames)
    except PARSE_ERRORS as error:
        raise _unsupported(header.here, "found functional groups that cannot be read") from error


def _read_all(header: SliceHeader, shared: Dataset, frames: Sequence[Dataset]) -> list[SliceHeader]:
    """Read every frame of a file."""
    slices = [_read_frame(header, shared, each, i) for i, each in enumerate(frames)]
    return [each for each in slices if "LOCALIZER" not in each.image_type] or slices


def _read_frame(header: SliceHeader, shared: Dataset, own: Dataset, index: int) -> SliceHeader:
    """Put what a frame says of itself in place of what the file says."""

    def find(group: str, keyword: str) -> Any:
        item = _first(own, group) or _first(shared, group)
        return item.get(keyword)

    words = find("CTImageFrameTypeSequence", "FrameType")
    kernel = find("CTReconstructionSequence", "ConvolutionKernel")
    return replace(
        header,
        frame=index,
        position=read_numbers(find("PlanePositionSequence", "ImagePositionPatient"), 3),
        orientation=read_numbers(find("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        spacing=read_numbers(find("PixelMeasuresSequence", "PixelSpacing"), 2),
        thickness=read_number(find("PixelMeasuresSequence", "SliceThickness")),
        slope=read_number(find("PixelValueTransformationSequence", "RescaleSlope")),
        intercept=read_number(find("PixelValueTransformationSequence", "RescaleIntercept")),
        rescale_type=str(find("PixelValueTransformationSequence", "RescaleType") or ""),
        temporal=str(find("FrameContentSequence", "TemporalPositionIndex") or ""),
        acquisition=str(find("FrameContentSequence", "FrameAcquisitionNumber") or ""),
        phase=read_number(
            find("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase")
        ),
        image_type=tuple(str(word).upper() for word in words) if words else header.image_type,
        kernel=kernel if isinstance(kernel, str) else header.kernel,
    )


def _first(dataset: Dataset, keyword: str) -> Dataset:
    """Take the first item of a sequence; an empty one where there is none."""
    items = dataset.get(keyword)
    return items[0] if items else Dataset()


def _unsupported(path: Path, detail: str) -> VolumeError:
    """Make the error of a multi-frame file that is not read."""
    return VolumeError(
        Reason.ENHANCED_UNSUPPORTED, path, detail,
        remedy="export the series as one file a slice",
    )  # fmt: skip
