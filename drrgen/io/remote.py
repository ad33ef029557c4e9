"""Files of an object store, found without fetching them: names, sizes, times, DICOM headers."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from upath import UPath

from drrgen.errors import InputError
from drrgen.io.dicom_header import Skip, SliceHeader, read_header, read_headers
from drrgen.io.stores import fetch

_HEAD_BYTES = 64 * 1024  # holds the header of every slice but unusual ones
_BATCH = 512
_ENHANCED_CT = b"1.2.840.10008.5.1.4.1.1.2.1"  # its header may fill megabytes
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")  # as stores call it


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """An object of a store.

    Attributes:
        place: Where it is.
        name: Its path under the root, with forward slashes.
        n_bytes: Its size [bytes].
        mtime_ns: Time of its last change [ns since 1970]; 0 where the store tells none.
    """

    place: UPath
    name: str
    n_bytes: int
    mtime_ns: int


def list_remote(place: UPath) -> tuple[UPath, list[RemoteFile]]:
    """List the objects below a folder, of one name or behind a glob, sorted by name.

    Args:
        place: Folder, file or glob (``**`` crosses folders); hidden objects are left out.

    Returns:
        The folder that names are relative to, and the objects.

    Raises:
        InputError: Nothing is there, or the store cannot be asked.
    """
    fs = place.fs
    is_glob = re.search(r"[*?\[]", place.path) is not None
    try:
        fs.invalidate_cache()
        found: dict[str, Any] = (
            fs.glob(place.path, detail=True) if is_glob else fs.find(place.path, detail=True)
        )
    except Exception as error:
        raise InputError(
            f"cannot list {place}: {type(error).__name__}: {error}; check address and credentials"
        ) from error
    files = {path: info for path, info in found.items() if info["type"] == "file"}
    if not files:
        raise InputError(f"nothing is at {place}; wanted a folder, an object or a glob")
    root = _find_root(place, set(files), is_glob=is_glob)
    top = PurePosixPath(root.path)
    listed = []
    for path, info in sorted(files.items()):
        name = PurePosixPath(path).relative_to(top).as_posix()
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            continue
        entry = RemoteFile(
            place=root / name, name=name, n_bytes=int(info["size"] or 0), mtime_ns=_find_time(info)
        )
        listed.append(entry)
    return root, listed


def read_remote_headers(
    files: Sequence[RemoteFile], progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[RemoteFile, SliceHeader | Skip]]:
    """Read DICOM headers of objects, of each no more than its first bytes.

    Args:
        files: Any objects.
        progress: Told now and then how many were looked at, and of how many.
    """
    for first in range(0, len(files), _BATCH):
        batch = files[first : first + _BATCH]
        if progress is not None:
            progress(first, len(files))
        with TemporaryDirectory(prefix="drrgen-") as folder:
            sketches = _sketch(batch, Path(folder))
            headers = [header for _, header in read_headers(sketches)]
            for file, sketch, header in zip(batch, sketches, headers, strict=True):
                yield file, _look_closer(file, sketch, header)


def _find_root(place: UPath, files: set[str], *, is_glob: bool) -> UPath:
    """Find the folder that names are relative to."""
    if is_glob:
        fixed = re.split(r"[*?\[]", str(place), maxsplit=1)[0]
        return UPath(fixed.rpartition("/")[0], **place.storage_options)
    return place.parent if place.path.rstrip("/") in files else place


def _find_time(info: dict[str, Any]) -> int:
    """Find the time of an object among the words of its store [ns]."""
    for word in _TIMES:
        when = info.get(word)
        if isinstance(when, datetime):
            return int(when.timestamp() * 1e9)
        if isinstance(when, (int, float)):
            return int(when * 1e9)
    return 0


def _sketch(files: Sequence[RemoteFile], folder: Path) -> list[Path]:
    """Make local files with the first bytes, size and time of objects; the rest is holes."""
    fs = files[0].place.fs
    ends = [min(file.n_bytes, _HEAD_BYTES) for file in files]
    heads = fs.cat_ranges([file.place.path for file in files], [0] * len(files), ends)
    sketches = []
    for i, (file, head) in enumerate(zip(files, heads, strict=True)):
        path = folder / f"{i}"
        path.write_bytes(head)
        os.truncate(path, file.n_bytes)
        os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
        sketches.append(path)
    return sketches


def _look_closer(file: RemoteFile, sketch: Path, header: SliceHeader | Skip) -> SliceHeader | Skip:
    """Fetch an object whose header does not fit into its first bytes; name it as it is."""
    if file.n_bytes > _HEAD_BYTES:
        with sketch.open("rb") as opened:
            is_enhanced = _ENHANCED_CT in opened.read(_HEAD_BYTES)
        if is_enhanced or header is Skip.BROKEN:
            fetch(file.place, sketch)
            os.utime(sketch, ns=(file.mtime_ns, file.mtime_ns))
            header = read_header(sketch)
    return header if isinstance(header, Skip) else replace(header, path=file.place)
