"""The rows of a data set, one part after the other, and where their files lie."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from drrgen.errors import ManifestError
from drrgen.io.atomic import digest_file
from drrgen.io.stores import Place
from drrgen.jobs.shards import holds, read_stats_file
from drrgen.manifest import Row, read_rows

_SUMMARY = {"fingerprint": str, "parts": list, "status": dict, "reason": dict}
_PART = {"name": str, "rows": int, "sha256": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a manifest.

    Attributes:
        rows: Its rows.
        digests: SHA-256 of each file that it names, by the path under the output folder.
    """

    rows: list[Row]
    digests: dict[str, str]


def read_summary(out: Place) -> dict[str, Any]:
    """Read ``manifest.json``: the parts, and totals.

    Raises:
        ManifestError: There is no finished manifest.
    """
    try:
        summary: dict[str, Any] = json.loads((out / "manifest.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ManifestError(f"{out} holds no finished manifest; run drrgen render first") from error
    if not holds(summary, _SUMMARY) or not all(holds(part, _PART) for part in summary["parts"]):
        raise ManifestError(
            f"{out / 'manifest.json'} is no summary of a manifest; run the command that made the "
            "data set again, which writes it anew"
        )
    return summary


def read_parts(out: Place) -> Iterator[Part]:
    """Read a manifest part by part, so that it may be larger than memory.

    Args:
        out: Output folder of ``drrgen render``.

    Raises:
        ManifestError: No finished manifest, or a part that is not as it was written.
    """
    for listed in read_summary(out)["parts"]:
        path = out / "manifest" / PurePosixPath(listed["name"]).name
        try:
            found = digest_file(path)
        except OSError as error:
            raise _broken(path) from error
        marker = read_stats_file(path.with_suffix(".stats.json"))
        if marker is None:
            raise _broken(path)
        if found != listed["sha256"]:
            raise ManifestError(
                f"{path} has the digest {found[:12]}, wanted {listed['sha256'][:12]} as in "
                "manifest.json; run drrgen render again"
            )
        digests = {n: d for item in marker["items"].values() for n, d in item["files"].items()}
        yield Part(rows=read_rows(path), digests=digests)


def _broken(path: Place) -> ManifestError:
    """Say that a part, or its marker, cannot be read."""
    return ManifestError(f"{path} is not whole; run drrgen render again")


def find_file(out: Place, name: str) -> Place:
    """Find a file that a row names, without leaving the output folder.

    Args:
        out: Output folder.
        name: Path under it, with forward slashes.

    Raises:
        ManifestError: The path leads out of the folder.
    """
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or PureWindowsPath(name).drive
    if leads_out or "\0" in name or ".." in name.replace("\\", "/").split("/"):
        raise ManifestError(
            f"the manifest of {out} names {name!r}, wanted a path under its own folder; "
            "drrgen check lists all of them, and a data set from a stranger is best left alone"
        )
    return out / path


def to_plain(value: Any) -> Any:
    """Make a value fit for JSON: float32 in as few digits as it has, null for NaN and infinity."""
    if isinstance(value, float):
        return float(str(np.float32(value))) if math.isfinite(value) else None
    if isinstance(value, list):
        return [to_plain(each) for each in value]
    return value
