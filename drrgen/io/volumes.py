"""From a folder, a file or a glob to CT volumes, whatever the format."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from drrgen.choices import CTFormat
from drrgen.errors import InputError
from drrgen.io.dicom import read_dicom
from drrgen.io.dicom_header import Skip, read_headers
from drrgen.io.dicom_series import group_series
from drrgen.io.images import read_image
from drrgen.io.listing import CTFiles, Listing
from drrgen.io.nifti import read_nifti
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
    root, files = _list_files(str(path))
    ignored: Counter[str] = Counter()
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


def _list_files(path: str) -> tuple[Path, list[Path]]:
    """List files in a fixed order; hidden ones and those of macOS archives are left out."""
    whole = Path(path)
    if whole.is_file():
        return whole.parent, [whole]
    if whole.is_dir():
        return whole, sorted(_walk(whole))
    matches = sorted(Path(match) for match in glob.glob(path, recursive=True))  # noqa: PTH207
    if not matches:
        raise InputError(f"nothing is at {path}; wanted a folder, a file or a glob of CT")
    fixed = Path(path.split("*", 1)[0].split("?", 1)[0].split("[", 1)[0] + "x").parent
    files = {file for match in matches for file in (_walk(match) if match.is_dir() else [match])}
    return fixed, sorted(files)


def _walk(folder: Path) -> list[Path]:
    """List the files of a tree, without following links to folders."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__MACOSX")
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return found


def _guess_format(path: Path) -> CTFormat | None:
    """Tell the format by the end of the name."""
    name = path.name.lower()
    return next((kind for end, kind in _BY_SUFFIX.items() if name.endswith(end)), None)


def _make_entry(path: Path, ct_format: CTFormat, root: Path) -> CTFiles:
    """Describe a CT that is one file."""
    stat = path.stat()
    return CTFiles(
        ct_format=ct_format,
        paths=(path,),
        name=path.relative_to(root).as_posix(),
        n_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
    )
