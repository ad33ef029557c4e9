"""What is written is whole: a file has its final name and all its bytes, or it does not exist."""

import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import cast

from drrgen.errors import InputError
from drrgen.io.stores import Place

PARTIAL_MARK = ".partial-"


@contextmanager
def atomic_path(path: Place) -> Iterator[Path]:
    """Lend a temporary name beside ``path``; take its file over when the block ends well.

    Missing folders are made. When the block raises, the temporary file is removed and ``path``
    stays as it was. A process killed in between leaves a file that ``remove_partials`` finds.

    Args:
        path: Final name; of an object, the temporary file lies on this machine.
    """
    if not isinstance(path, Path):
        with TemporaryDirectory(prefix="drrgen-") as folder:
            yield Path(folder) / path.name
            path.fs.put_file(str(Path(folder) / path.name), path.path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL_MARK}{uuid.uuid4().hex[:12]}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Try a folder out, before hours are spent; what was not there is not there afterwards.

    Raises:
        InputError: It cannot be made, or nothing can be written in it.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror}; give another folder with --out"
        ) from error
    finally:
        for each in missing:
            with suppress(OSError):  # it was not made, or another process writes there by now
                each.rmdir()


def write_bytes(path: Place, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a whole file, or an object, which a store shows whole or not at all.

    Args:
        path: Final name; an older file there is replaced.
        data: Content.
        durable: Have it on the disk before it gets its name, so that a loss of power cannot leave
            an empty file; without, only what outlives processes is promised.
    """
    if not isinstance(path, Path):
        path.fs.pipe_file(path.path, bytes(data))
        return
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def digest_file(path: Place) -> str:
    """SHA-256 of a file's bytes.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()


def remove_partials(folder: Place) -> int:
    """Remove the temporary files that killed processes left anywhere below a folder.

    Returns:
        How many were removed; a store has none.
    """
    if not isinstance(folder, Path):
        return 0
    found = list(folder.rglob(f".*{PARTIAL_MARK}*"))
    for partial in found:
        partial.unlink(missing_ok=True)
    return len(found)
