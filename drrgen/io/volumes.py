"""From a folder, a file or a glob to CT volumes, whatever the format."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from drrgen.choices import CTFormat
from drrgen.errors import InputError
from drrgen.io.dicom import read_dicom
from drrgen.io.dicom_header import Skip, read_headers
from drrgen.io.dicom_series import group_series
from drrgen.io.images import read_image
from drrgen.io.listing import CTFiles, Listing
from drrgen.io.nifti import is_nifti_pair, read_nifti
from drrgen.io.packed import is_regular
from drrgen.io.radchest import is_radchest, read_radchest
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
    ignored += left_aside
    found = sorted([*found, *series], key=lambda entry: entry.name)
    if not found:
        raise InputError(
            f"no CT in {path}: looked at {len(files)} files{_count_words(ignored)}, wanted "
            "DICOM, NIfTI, NRRD, MetaImage or RAD-ChestCT .npz; check the path"
        )
    return Listing(root=root, found=tuple(found), ignored=ignored)


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
        raise InputError(f"nothing is at {path}; wanted a folder, a file or a glob of CT")
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
    ignored: Counter[str] = Counter()
    headers, broken = [], []
    for i, (file, header) in enumerate(read_headers(files)):
        if progress is not None and i % _PROGRESS_STEP == 0:
            progress(i, len(files))
        if not isinstance(header, Skip):
            headers.append(header)
            continue
        if header in (Skip.EMPTY, Skip.BROKEN):
            broken.append(file)
        ignored["not_ct"] += 1
    if progress is not None:
        progress(len(files), len(files))
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
    return _READERS[files.ct_format](files)


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
    name = path.name.lower()
    if name.endswith(".hdr"):
        return CTFormat.NIFTI if is_nifti_pair(path) else None
    return next((kind for end, kind in _BY_SUFFIX.items() if name.endswith(end)), None)


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
