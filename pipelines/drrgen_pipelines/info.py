"""What a path holds, before anything is rendered."""

from pathlib import Path
from typing import Any

import numpy as np

from drrgen.errors import DataError
from drrgen.io.listing import CTFiles
from drrgen.io.volumes import find_ct, read_ct


def describe_path(path: Path | str) -> dict[str, Any]:
    """Describe every CT under a path: its grid and its values, or why it would be refused.

    Args:
        path: Folder, file or glob.

    Raises:
        InputError: Nothing is there, or no CT.
    """
    listing = find_ct(path)
    return {
        "path": str(path),
        "ct": [_describe(files) for files in listing.found],
        "ignored": dict(listing.ignored),
    }


def _describe(files: CTFiles) -> dict[str, Any]:
    """Describe one CT."""
    facts: dict[str, Any] = {
        "name": files.name,
        "format": files.ct_format.value,
        "files": len(files.paths),
        "bytes": files.n_bytes,
    }
    try:
        volume = read_ct(files)
    except DataError as error:
        return facts | {"refused": error.code.value, "detail": f"{error.detail}; {error.remedy}"}
    low, high = np.percentile(volume.hu.reshape(-1)[::101], [1, 99]).tolist()
    return facts | {
        "shape_zyx": list(volume.hu.shape),
        "spacing_zyx_mm": [round(mm, 4) for mm in volume.spacing_zyx_mm],
        "orientation": volume.orientation,
        "hu_p01": low,
        "hu_p99": high,
        "warnings": list(volume.source.warnings) if volume.source else [],
    }
