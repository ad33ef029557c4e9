"""From a folder, a file or a glob to CT volumes, whatever the format."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from upath import UPath

from drrgen.choices import CTFormat
from drrgen.errors import InputError
from drrgen.io.dicom import read_dicom
from drrgen.io.dicom_header import Skip, SliceHeader, read_headers
from drrgen.io.dicom_series import group_series
from drrgen.io.images import read_image
from drrgen.io.listing import CTFiles, Listing
from drrgen.io.nifti import is_nifti_pair, read_nifti
from drrgen.io.packed import is_regular
from drrgen.io.radchest import is_radchest, read_radchest
from drrgen.io.remote import list_remote, read_remote_headers
from drrgen.io.stores import Place, open_place, stage
from drrgen.io.stores import list_files as list_places
from drrgen.volume import CTVolume

_BY_SUFFIX = {
    ".nii": CTFormat.NIFTI,
    ".nii.gz": CTFormat.NIFTI,
    ".nrrd": CTFormat.NRRD,
    ".nhdr": CTFormat.NRRD,
    ".mha": CTFormat.METAIMAGE,
    ".mhd": CTFormat.METAIMAGE,
    ".npz": CTFormat.RAD_CHESTCT,
}
ENDINGS = (".nii.gz", *(ending for ending in _BY_SUFFIX if ending != ".nii.gz"))
_HEADERS = (".hdr", ".nhdr", ".mhd")  # whose voxels lie in a file of their own
_LABEL_SUFFIX = ".seg.nrrd"
_PROGRESS_STEP = 256
_READERS: dict[CTFormat, Callable[[CTFiles], CTVolume]] = {
    CTFormat.DICOM: read_dicom,
    CTFormat.NIFTI: read_nifti,
    CTFormat.NRRD: read_image,
    CTFormat.METAIMAGE: read_image,
    CTFormat.RAD_CHESTCT: read_radchest,
}


def find_ct(path: Path | str, progress: Callable[[int, int], None] | None = None) -> Listing:
    """Find every CT under a folder, in a file or behind a glob.

    Files named as a CT are taken at their word, so that a broken one is refused when it is read
    and not passed over; all others are taken for DICOM if their content is.

    Args:
        path: Folder (searched in depth), file, or glob (``**`` crosses folders).
        progress: Told now and then how many files were looked at, and of how many.

    Raises:
        InputError: Nothing is there, or no CT is among it.
    """
    ignored: Counter[str] = Counter()
    place = open_place(path)
    if not isinstance(place, Path):
        return _find_remote(place, ignored, progress)
    root, files = list_files(str(path), ignored)
    found, others = [], []
    for file in files:
        ct_format = _guess_format(file)
        if file.name.lower().endswith(_LABEL_SUFFIX):
            ignored["label_map"] += 1
        elif ct_format is CTFormat.RAD_CHESTCT and not is_radchest(file):
            ignored["not_ct"] += 1
        elif ct_format is not None:
            found.append(_make_entry(file, ct_format, root))
        else:
            others.append(file)
    series, left_aside = _find_series(others, progress)
    return _make_listing(str(path), root, [*found, *series], len(files), ignored + left_aside)


def _find_remote(
    place: UPath, ignored: Counter[str], progress: Callable[[int, int], None] | None
) -> Listing:
    """Find every CT in a store."""
    root, files = list_remote(place)
    found, others = [], []
    for file in files:
        ct_format = _guess_by_name(file.name)
        if file.name.lower().endswith(_LABEL_SUFFIX):
            ignored["label_map"] += 1
        elif ct_format is not None:
            found.append(
                CTFiles(
                    ct_format=ct_format,
                    paths=(file.place,),
                    name=file.name,
                    n_bytes=file.n_bytes,
                    mtime_ns=file.mtime_ns,
                )
            )
        else:
            others.append(file)
    series, left_aside = _sort_headers(
        ((file.place, header) for file, header in read_remote_headers(others, progress)), None, 0
    )
    return _make_listing(place, root, [*found, *series], len(files), ignored + left_aside)


def _make_listing(
    path: Place | str, root: Place, found: Iterable[CTFiles], looked: int, ignored: Counter[str]
) -> Listing:
    """Make a listing, sorted by name; say it when there is no CT."""
    entries = sorted(found, key=lambda entry: entry.name)
    if not entries:
        raise InputError(
            f"no CT in {path}: looked at {looked} files{_count_words(ignored)}, wanted "
            "DICOM, NIfTI, NRRD, MetaImage or RAD-ChestCT .npz; check the path"
        )
    return Listing(root=root, found=tuple(entries), ignored=ignored)


def list_files(path: str, ignored: Counter[str]) -> tuple[Path, list[Path]]:
    """List plain files in a fixed order; count what else has a name there, and open nothing.

    Hidden files and those of macOS archives are left out. Links to files are followed, links to
    folders are not, so a circle of them has no end to run into.

    Args:
        path: Folder, file or glob.
        ignored: Counts what was left out.

    Returns:
        The folder that names are relative to, and the files.

    Raises:
        InputError: Nothing is there.
    """
    whole = Path(path)
    if whole.is_dir():
        return whole, sorted(_walk(whole, ignored))
    if os.path.lexists(whole):
        return whole.parent, list(_keep_files([whole], ignored))
    root, pattern = _split_glob(path)
    try:
        matches = [match for match in root.glob(pattern) if not _is_hidden(match, root, pattern)]
    except (ValueError, NotImplementedError, IndexError, RecursionError, re.error) as error:
        raise InputError(f"{path} is no glob: {error}; ** stands for whole folders") from error
    if not matches:
        raise InputError(
            f"nothing is at {path}; wanted a folder, a file or a glob of CT or radiographs"
        )
    folders = [match for match in matches if match.is_dir()]
    if "**" in pattern:  # a link asked for by name is followed, one met on the way is not
        folders = [folder for folder in folders if not folder.is_symlink()]
    found = {file for folder in folders for file in _walk(folder, ignored)}
    found |= set(_keep_files((match for match in matches if not match.is_dir()), ignored))
    return root, sorted(found)


def _count_words(ignored: Counter[str]) -> str:
    """Say what was left aside, and how often."""
    words = ", ".join(f"{n} {word}" for word, n in sorted(ignored.items()) if n)
    return f" ({words})" if words else ""


def _find_series(
    files: Sequence[Path], progress: Callable[[int, int], None] | None
) -> tuple[list[CTFiles], Counter[str]]:
    """Sort files that no ending names: DICOM into its series, all else aside."""
    return _sort_headers(read_headers(files), progress, len(files))


def _sort_headers(
    read: Iterable[tuple[Place, SliceHeader | Skip]],
    progress: Callable[[int, int], None] | None,
    total: int,
) -> tuple[list[CTFiles], Counter[str]]:
    """Sort headers into series, and what has none aside."""
    ignored: Counter[str] = Counter()
    headers, broken = [], []
    for i, (file, header) in enumerate(read):
        if progress is not None and i % _PROGRESS_STEP == 0:
            progress(i, total)
        if not isinstance(header, Skip):
            headers.append(header)
            continue
        if header in (Skip.EMPTY, Skip.BROKEN):
            broken.append(file)
        ignored["not_ct"] += 1
    if progress is not None:
        progress(total, total)
    series, left_aside = group_series(headers, broken)
    return series, ignored + left_aside


def choose_series(found: Sequence[CTFiles], series: str) -> tuple[list[CTFiles], int]:
    """Choose among the series of each study.

    Args:
        found: What ``find_ct`` found.
        series: ``best`` (see ``dicom_series.RANK_WORDS``; of equals the one whose UID comes first),
            ``all``, or a SeriesInstanceUID.

    Returns:
        What was chosen, and how many were left aside.

    Raises:
        InputError: No series has that UID.
    """
    if series == "all":
        chosen = list(found)
    elif series == "best":
        best: dict[str, CTFiles] = {}
        for entry in found:
            study = entry.study_uid or entry.name
            if study not in best or entry.rank > best[study].rank:
                best[study] = entry
        chosen = list(best.values())
    else:
        named = [entry for entry in found if series in (entry.name, entry.series_uid)]
        chosen = [entry for entry in named if entry.name == series] or named
        if not chosen:
            known = ", ".join(entry.name for entry in found[:3])
            raise InputError(f"no series {series}; found {len(found)}, such as {known}")
    return chosen, len(found) - len(chosen)


def read_ct(files: CTFiles) -> CTVolume:
    """Read one CT that was found.

    Args:
        files: Its files.

    Raises:
        VolumeError: It cannot be read rightly; path, code and remedy say why.
        OSError: A file cannot be read at all.
    """
    with stage_ct(files) as local:
        return _READERS[files.ct_format](local)


@contextmanager
def stage_ct(files: CTFiles) -> Iterator[CTFiles]:
    """Lend the files of a CT as files on this machine; those of a store are fetched once.

    Args:
        files: A CT that was found.

    Raises:
        OSError: A file cannot be fetched.
    """
    with stage(_with_data(files)) as local:
        yield replace(files, paths=local[: len(files.paths)])


def _with_data(files: CTFiles) -> tuple[Place, ...]:
    """Add the files that hold the data of a header in a store, which are fetched with it."""
    head = files.paths[0]
    if isinstance(head, Path) or head.suffix.lower() not in _HEADERS:
        return files.paths
    stem = head.name[: -len(head.suffix)]
    return (*files.paths, *(p for p in list_places(head.parent, f"{stem}.*") if p != head))


def read_file(path: Path) -> CTVolume:
    """Read one image file by its name's ending, a label map too; its values are not checked.

    Args:
        path: NIfTI, NRRD, MetaImage or .npz.

    Raises:
        InputError: The ending is of none of these.
        VolumeError: It cannot be read rightly.
        OSError: It cannot be read at all.
    """
    ct_format = _guess_format(path)
    if ct_format is None:
        raise InputError(f"{path} has an unknown ending; wanted one of {', '.join(ENDINGS)}")
    return read_ct(_make_entry(path, ct_format, path.parent))


def read_volume(path: Path | str, *, series: str = "best") -> CTVolume:
    """Read the one CT in a file or folder.

    Args:
        path: File, folder or glob.
        series: Which series of a DICOM study: ``best``, or a UID.

    Raises:
        InputError: There is no CT, or more than one.
        VolumeError: It cannot be read rightly.
        OSError: A file cannot be read at all.
    """
    chosen, _ = choose_series(find_ct(path).found, series)
    if len(chosen) > 1:
        names = ", ".join(entry.name for entry in chosen[:5])
        raise InputError(
            f"found {len(chosen)} CT in {path}, wanted one: {names}; name one file, or a series"
        )
    return read_ct(chosen[0])


def _split_glob(path: str) -> tuple[Path, str]:
    """Split a glob into the folder before the first wildcard, and the rest."""
    fixed = Path(re.split(r"[*?\[]", path, maxsplit=1)[0] + "x").parent
    rest = Path(path).parts[len(fixed.parts) :]
    return fixed, str(Path(*rest)) if rest else "."


def _is_hidden(match: Path, root: Path, pattern: str) -> bool:
    """Say whether a match has a hidden part that the pattern did not ask for."""
    asked = any(part.startswith(".") for part in Path(pattern).parts)
    return not asked and any(part.startswith(".") for part in match.relative_to(root).parts)


def _walk(folder: Path, ignored: Counter[str]) -> Iterator[Path]:
    """List the plain files of a tree, without following links to folders."""

    def count(_: OSError) -> None:
        ignored["unreadable"] += 1

    for parent, folders, names in os.walk(folder, onerror=count):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__MACOSX")
        yield from _keep_files((Path(parent, n) for n in names if not n.startswith(".")), ignored)


def _keep_files(paths: Iterable[Path], ignored: Counter[str]) -> Iterator[Path]:
    """Keep plain files; count pipes, sockets, devices and links to nowhere."""
    for path in paths:
        try:
            if is_regular(path):
                yield path
            else:
                ignored["not_file"] += 1
        except OSError:
            ignored["unreadable"] += 1


def make_printable(name: str) -> str:
    """Write the bytes of a file name that are no UTF-8 as escapes, so that any table takes it.

    Args:
        name: Name of a file.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _guess_format(path: Path) -> CTFormat | None:
    """Tell the format by the end of the name, and a NIfTI header without voxels by its content."""
    if path.name.lower().endswith(".hdr"):
        return CTFormat.NIFTI if is_nifti_pair(path) else None
    return _guess_by_name(path.name)


def _guess_by_name(name: str) -> CTFormat | None:
    """Tell the format by the end of the name."""
    return next((kind for end, kind in _BY_SUFFIX.items() if name.lower().endswith(end)), None)


def _make_entry(path: Path, ct_format: CTFormat, root: Path) -> CTFiles:
    """Describe a CT that is one file."""
    stat = path.stat()
    return CTFiles(
        ct_format=ct_format,
        paths=(path,),
        name=make_printable(path.relative_to(root).as_posix()),
        n_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )
