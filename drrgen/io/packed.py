"""Files that may be compressed, cut short, hostile, or no files at all.

Nothing is opened before it is known to be a regular file (to open a pipe is to wait for ever),
nothing is unpacked beyond what its own header announces, and memory is touched only as bytes
arrive: a header that lies costs nothing.
"""

import hashlib
import io
import os
import stat
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from isal import igzip_lib
from jaxtyping import Shaped

from drrgen.errors import Reason, VolumeError

MAX_VOXELS = 2**31  # 4 GiB of int16: no CT is larger, but a broken header may say so
TRAILING_BYTES = "trailing_bytes"
SPARE_BYTES = 2**20  # what may follow the voxels

_CHUNK_BYTES = 2**18
_PIECE_BYTES = 2**19
_BOMB_BYTES, _BOMB_RATIO = 2**30, 200  # an honest CT of that size packs 2 to 20 times
_GZIP_MAGIC = b"\x1f\x8b"


@runtime_checkable
class Stream(Protocol):
    """Bytes that come one after the other, unpacked."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a buffer as far as one piece goes; 0 at the end."""


class Packing(StrEnum):
    """How the bytes of an image are packed."""

    NONE = "none"
    GZIP = "gzip"
    ZLIB = "zlib"


def is_regular(path: Path) -> bool:
    """Say whether there is a plain file behind a name, links followed.

    Args:
        path: Any name.

    Raises:
        OSError: There is no such name, its links run in a circle, or a folder forbids to look.
    """
    return stat.S_ISREG(path.stat().st_mode)


def open_regular(path: Path) -> io.FileIO:
    """Open a plain file for reading, unbuffered; never a folder, pipe, socket or device.

    Args:
        path: The file.

    Raises:
        VolumeError: ``no_image``, something else than a file has that name.
        OSError: It cannot be opened.
    """
    if is_regular(path):
        # The second look is at what was really opened, which did not wait if it is a pipe now.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return io.FileIO(handle, "rb")
        os.close(handle)
    raise VolumeError(
        Reason.NO_IMAGE, path, "found a folder, pipe, socket or device, wanted a file",
        remedy="name the file that holds the CT",
    )  # fmt: skip


def read_head(path: Path, n_bytes: int) -> bytes:
    """Read the first bytes of a plain file, fewer where it ends.

    Args:
        path: The file.
        n_bytes: How many.

    Raises:
        VolumeError: It is no plain file.
        OSError: It cannot be read.
    """
    with open_regular(path) as file:
        return file.read(n_bytes)


def digest_files(paths: Sequence[Path]) -> str:
    """Digest the bytes of files, one after the other: SHA-256 in hexadecimal.

    Args:
        paths: The files.

    Raises:
        VolumeError: One is no plain file.
        OSError: One cannot be read.
    """
    hashed = hashlib.sha256()
    buffer = bytearray(4 * _CHUNK_BYTES)
    view = memoryview(buffer)
    for path in paths:
        with open_regular(path) as file:
            while count := file.readinto(view):
                hashed.update(view[:count])
    return hashed.hexdigest()


def unpack(file: io.FileIO, packing: Packing) -> Stream:
    """Wrap a file so that it reads as if it were not packed.

    Args:
        file: Stands where the packed bytes begin.
        packing: How they are packed; a gzip may have several members.
    """
    return file if packing is Packing.NONE else _Inflated(file, packing)


class _TrailingBytesError(Exception):
    """Something follows a whole stream that is no stream."""


class _Inflated:
    """Unpacks a gzip or zlib stream piece by piece, checking its sums."""

    def __init__(self, file: io.FileIO, packing: Packing) -> None:
        self._file = file
        self._is_gzip = packing is Packing.GZIP
        self._decoder = self._start()

    def _start(self) -> Any:
        """Make a decoder for one member."""
        flag = igzip_lib.DECOMP_GZIP if self._is_gzip else igzip_lib.DECOMP_ZLIB
        return igzip_lib.IgzipDecompressor(flag=flag)

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer as far as one piece goes; 0 at the end."""
        chunk = b""
        while True:
            if self._decoder.eof:
                chunk = self._find_next_member()
                if not chunk:
                    return 0
                self._decoder = self._start()
            elif self._decoder.needs_input and not chunk:
                chunk = self._file.read(_CHUNK_BYTES) or b""
                if not chunk:
                    raise EOFError
            data = self._decoder.decompress(chunk, min(len(buffer), _PIECE_BYTES))
            chunk = b""
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _find_next_member(self) -> bytes:
        """Find the bytes with which another gzip member starts; nothing at the end."""
        rest = self._decoder.unused_data
        while not (rest := rest.lstrip(b"\0")) and (more := self._file.read(_CHUNK_BYTES)):
            rest = more
        if rest and len(rest) < 2:
            rest += self._file.read(_CHUNK_BYTES) or b""
        if rest and not (self._is_gzip and rest.startswith(_GZIP_MAGIC)):
            raise _TrailingBytesError
        return bytes(rest)


def read_bytes(stream: Stream, count: int, path: Path) -> bytes:
    """Read so many bytes, fewer where the stream ends as it should.

    Args:
        stream: What ``unpack`` returned.
        count: How many.
        path: The file, for the error.

    Raises:
        VolumeError: ``truncated_file``, the stream is broken or cut.
        OSError: The file cannot be read.
    """
    data = np.empty(count, np.uint8)
    try:
        return data[: _fill(stream, data, path)].tobytes()
    except _TrailingBytesError as error:
        raise truncated(path, "found the end of the stream in the header") from error


def read_voxels(
    stream: Stream, shape_zyx: tuple[int, int, int], kind: "np.dtype[Any]", path: Path
) -> Shaped[np.ndarray, "z y x"]:
    """Read an array to its last voxel, straight to where it will stay.

    Args:
        stream: What ``unpack`` returned, standing at the first voxel.
        shape_zyx: Size of the array.
        kind: Type of a voxel as stored.
        path: The file, for the error.

    Raises:
        VolumeError: ``truncated_file``, the voxels end too early or the stream is broken.
        OSError: The file cannot be read.
    """
    array = np.empty(shape_zyx, kind)
    flat = array.reshape(-1).view(np.uint8)
    try:
        found = _fill(stream, flat, path)
    except _TrailingBytesError as error:
        raise truncated(path, "found the end of the stream before the last voxel") from error
    if found < flat.size:
        raise truncated(path, f"found {found} bytes of voxels, wanted {flat.size}")
    return array


def _fill(stream: Stream, flat: Shaped[np.ndarray, "n"], path: Path) -> int:
    """Fill bytes from a stream; return how many there were."""
    view, found = memoryview(flat), 0  # type: ignore[arg-type]
    try:
        while found < flat.size and (count := stream.readinto(view[found:])):
            found += count
    except (EOFError, igzip_lib.error) as error:  # type: ignore[misc]
        raise truncated(path, "found a compressed stream that is cut or broken") from error
    return found


def check_end(stream: Stream, path: Path, *, spare: int) -> tuple[str, ...]:
    """Check that a stream is whole and ends behind the voxels.

    Args:
        stream: Standing behind the last voxel.
        path: The file, for the error.
        spare: So many bytes may follow, with a warning [bytes].

    Returns:
        ``trailing_bytes`` where some bytes follow: a warning.

    Raises:
        VolumeError: The stream's check sum is wrong or its end is missing, or so much follows that
            the header cannot be right.
        OSError: The file cannot be read.
    """
    try:
        # The reader checks a stream when it is asked for more than there is.
        rest = np.zeros(spare + 1, np.uint8)
        count = _fill(stream, rest, path)
    except _TrailingBytesError:
        return (TRAILING_BYTES,)
    if count > spare:
        raise _too_long(path)
    return (TRAILING_BYTES,) if rest.any() else ()


def check_size(shape_zyx: Sequence[int], itemsize: int, packed_bytes: int, path: Path) -> None:
    """Refuse an array that no CT has, or that its file cannot hold honestly.

    Args:
        shape_zyx: Size that the header announces.
        itemsize: Size of a voxel [bytes].
        packed_bytes: Size of the file that is to hold it [bytes].
        path: The file, for the error.

    Raises:
        VolumeError: ``no_image``; ``pixel_mismatch``, the file is longer than its header allows.
    """
    count = int(np.prod([int(n) for n in shape_zyx], dtype=object))
    size = "x".join(str(int(n)) for n in shape_zyx)
    if min(shape_zyx) < 1 or count > MAX_VOXELS:
        raise VolumeError(
            Reason.NO_IMAGE, path, f"found a size of {size} voxels, which no CT has",
            remedy="convert it again from its source",
        )  # fmt: skip
    if packed_bytes > 1.01 * count * itemsize + 4 * SPARE_BYTES:  # packing never adds more
        raise _too_long(path)
    if count * itemsize > max(_BOMB_BYTES, _BOMB_RATIO * packed_bytes):
        raise VolumeError(
            Reason.NO_IMAGE, path,
            f"found {packed_bytes} bytes that are to unpack to {count * itemsize}",
            remedy="check where the file comes from; no CT is packed that much",
        )  # fmt: skip


def truncated(path: Path, detail: str) -> VolumeError:
    """Make the error of a file that ends too early.

    Args:
        path: The file.
        detail: What was found and wanted.
    """
    return VolumeError(Reason.TRUNCATED_FILE, path, detail, remedy="copy or download it again")


def _too_long(path: Path) -> VolumeError:
    """Make the error of a file that holds more than it says."""
    return VolumeError(
        Reason.PIXEL_MISMATCH, path, "found more voxels than the header announces",
        remedy="convert it again from its source",
    )  # fmt: skip
