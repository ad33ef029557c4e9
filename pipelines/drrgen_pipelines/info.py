"""What a path holds, before anything is rendered."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drrgen.errors import DataError, InputError, Reason
from drrgen.io.dicom_series import find_reason_of_rank
from drrgen.io.hounsfield import is_label_map
from drrgen.io.listing import CTFiles
from drrgen.io.volumes import choose_series, find_ct, read_ct
from drrgen.volume import CTVolume
from drrgen_pipelines.admission import admit
from drrgen_pipelines.preview import write_preview

CHOSEN = "chosen"


def describe_path(
    path: Path | str,
    *,
    all_series: bool = False,
    preview: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Describe the CT under a path: grid and values, or why one would be refused.

    Args:
        path: Folder, file or glob.
        all_series: Describe every candidate of a DICOM study, each with its fate, and not only
            the ones that would be rendered.
        preview: Write a quick look at the first CT that is not refused, as PNG.
        progress: Told now and then how many files were looked at, and of how many.

    Raises:
        InputError: Nothing is there, no CT, or none to draw.
    """
    listing = find_ct(path, progress)
    chosen, left_aside = choose_series(listing.found, "best")
    ignored = Counter(listing.ignored)
    if left_aside and not all_series:
        ignored["other_series"] += left_aside
    facts = []
    for files in listing.found if all_series else chosen:
        described, volume = _describe(files)
        facts.append(described | {"fate": _find_fate(files, chosen)})
        if preview is not None and volume is not None:
            write_preview(volume, preview)
            preview = None
    if preview is not None:
        raise InputError(f"nothing to draw in {path}: every CT is refused; see drrgen info {path}")
    return {"path": str(path), "ct": facts, "ignored": dict(ignored)}


def _find_fate(files: CTFiles, chosen: Sequence[CTFiles]) -> str:
    """Say whether a CT would be rendered, or what another of its study has before it."""
    if files in chosen:
        return CHOSEN
    winner = next(c for c in chosen if (c.study_uid or c.name) == (files.study_uid or files.name))
    return f"left aside: {find_reason_of_rank(files, winner)}"


def _describe(files: CTFiles) -> tuple[dict[str, Any], CTVolume | None]:
    """Describe one CT; also hand it over, unless it would be refused."""
    facts: dict[str, Any] = {
        "name": files.name,
        "format": files.ct_format.value,
        "files": len(files.paths),
        "bytes": files.n_bytes,
    }
    try:
        volume = read_ct(files)
        if is_label_map(volume.hu):
            return facts | {"refused": "label_map", "detail": "labels, and no CT"}, None
        admit(volume)
    except DataError as error:
        detail = f"{error.detail}; {error.remedy}"
        return facts | {"refused": error.code.value, "detail": detail}, None
    except OSError as error:
        detail = os.strerror(error.errno) if error.errno else type(error).__name__
        return facts | {"refused": Reason.IO_ERROR.value, "detail": detail}, None
    return facts | _describe_volume(volume), volume


def _describe_volume(volume: CTVolume) -> dict[str, Any]:
    """Describe the grid and the values of a CT."""
    low, high = np.percentile(volume.hu.reshape(-1)[::101], [1, 99]).tolist()
    return {
        "shape_zyx": list(volume.hu.shape),
        "spacing_zyx_mm": [round(mm, 4) for mm in volume.spacing_zyx_mm],
        "orientation": volume.orientation,
        "hu_p01": low,
        "hu_p99": high,
        "warnings": list(volume.source.warnings) if volume.source else [],
    }
