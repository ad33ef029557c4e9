"""Places: folders and files on this machine, or in an object store behind fsspec.

A place on this machine is a ``pathlib.Path``; any other is a ``upath.UPath``, which speaks the same
language. In a store an object appears whole or not at all, and nothing can be locked, renamed or
appended to; what depends on that asks ``is_remote``.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import fsspec
from upath import UPath

from drrgen.errors import InputError

Place = Path | UPath

_URL = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_EXTRA = {"s3": "s3", "s3a": "s3"}  # what is installed for a protocol


def open_place(text: str | Path | UPath) -> Place:
    """Turn a path or a URL (``s3://``, ``gs://``, ``az://``, ``memory://``) into a place.

    Args:
        text: What the user wrote.

    Raises:
        InputError: The protocol is unknown, or its package is not installed.
    """
    if not isinstance(text, str):
        return text
    url = _URL.match(text)
    if url is None:
        return Path(text)
    protocol = url[1].lower()
    if protocol in {"file", "local"}:
        return Path(text[url.end() :])
    try:
        fsspec.get_filesystem_class(protocol)
    except ValueError as error:
        raise InputError(
            f"no store speaks {protocol}://; wanted a path, or a URL that fsspec knows, such as s3://"
        ) from error
    except ImportError as error:
        raise InputError(f"{error}; {_advise(protocol)}") from error
    return UPath(text)


def _advise(protocol: str) -> str:
    """Say what to install for a protocol."""
    if protocol in _EXTRA:
        return f"pip install 'drrgen[{_EXTRA[protocol]}]'"
    return "install the package that fsspec names for it"


def is_remote(place: Place) -> bool:
    """Say whether a place lies in an object store."""
    return not isinstance(place, Path)


def lies_within(place: Place, folder: Place) -> bool:
    """Say whether a place is a folder, or lies in it."""
    if isinstance(place, Path) and isinstance(folder, Path):
        return place.resolve().is_relative_to(folder.resolve())
    return f"{place}/".startswith(f"{str(folder).rstrip('/')}/")


def is_private(place: Place) -> bool:
    """Say whether no other process can see a place: ``memory://``."""
    return not isinstance(place, Path) and place.protocol == "memory"


def check_reachable(place: Place) -> None:
    """Ask a store for a place, so that wrong names and keys are told at once.

    Raises:
        InputError: The store does not answer, or not to us.
    """
    if isinstance(place, Path):
        return
    try:
        place.fs.invalidate_cache()
        place.fs.exists(place.path)
    except ImportError:
        raise
    except Exception as error:
        raise InputError(
            f"cannot reach {place}: {type(error).__name__}: {error}; check address and credentials"
        ) from error


def list_files(folder: Place, pattern: str) -> list[Place]:
    """List what matches a pattern in a folder, sorted by name; none where there is no folder."""
    return sorted(folder.glob(pattern), key=str)


def list_names(folder: Place) -> set[str]:
    """List the files below a folder by their path under it; none where there is no folder."""
    if isinstance(folder, Path):
        found = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix() for path in found}
    folder.fs.invalidate_cache()
    top = PurePosixPath(folder.path)
    try:
        found = folder.fs.find(str(top))
    except FileNotFoundError:
        return set()
    return {PurePosixPath(name).relative_to(top).as_posix() for name in found} - {"."}


def remove_tree(folder: Place) -> None:
    """Remove a folder and all in it; none is no error."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    folder.fs.invalidate_cache()
    if folder.fs.exists(folder.path):
        folder.fs.rm(folder.path, recursive=True)


@contextmanager
def stage(places: Sequence[Place]) -> Iterator[tuple[Path, ...]]:
    """Lend files as local ones: those of a store are fetched, once, and removed in the end.

    Files that share a folder keep sharing one, so that a header still finds its data.

    Args:
        places: Files.

    Raises:
        OSError: A file cannot be fetched.
    """
    if all(isinstance(place, Path) for place in places):
        yield tuple(place for place in places if isinstance(place, Path))
        return
    with TemporaryDirectory(prefix="drrgen-") as top:
        folders: dict[str, Path] = {}
        local = []
        for place in places:
            folder = folders.setdefault(str(place.parent), Path(top) / str(len(folders)))
            folder.mkdir(exist_ok=True)
            target = folder / place.name
            fetch(place, target)
            local.append(target)
        yield tuple(local)


def fetch(place: Place, target: Path) -> None:
    """Copy a file to this machine."""
    with place.open("rb") as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 2**20)
