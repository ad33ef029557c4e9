"""From the headers of DICOM files to CT: which slices belong together, and which CT is the best.

What belongs together is told by UID, orientation, matrix and spacing, and by acquisition or phase
where several slices claim one place; never by folder or file name.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.8.2.1 (CT image), C.8.15 (enhanced CT).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from drrgen.choices import CTFormat
from drrgen.io.dicom_header import Numbers, SliceHeader
from drrgen.io.listing import CTFiles
from drrgen.io.stores import Place

MIN_SLICES = 3
MIN_HEIGHT_MM = 150.0
SAME_PLACE_MM = 0.01
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)
PHASE_CHOSEN = "phase_chosen"
STRAY_ORIENTATION, STRAY_MATRIX = "stray_orientation", "stray_matrix"
BROKEN_BESIDE = "broken_files_beside"
_THICK = 99.0  # of a series that names no thickness: the last choice
_BEST_PHASE = 75.0  # percent of the heart's cycle: diastole, where it moves least
_AXIAL_COSINE = 0.7

# What the rank of a series is made of, from the first to decide to the last; and what is said of
# the one that loses.
RANK_WORDS = (
    f"under {MIN_HEIGHT_MM:.0f} mm high", "not axial", "derived", "fewer slices", "thicker slices",
    "sharper kernel", "another phase",
)  # fmt: skip

# Names of kernels that are known to be names of kernels: anything else in this free text may be
# about the patient, and stays out of the manifest.
_KERNELS = re.compile(
    r"[ABHIUQTDS][a-z]?\d{2,3}[a-z]?(\\\d)?"  # Siemens: B30f, Br40d\3, I41s\3
    r"|(STANDARD|STND|SOFT|LUNG|BONE|BONEPLUS|DETAIL|EDGE|CHEST|ULTRA)([+ -]*(PLUS|\d))?"  # GE
    r"|FC\d{2}(-[A-Z])?|FL\d{2}"  # Canon, Toshiba
    r"|(A|B|C|D|E|EB|EC|F|L|YA|YB|YC|YD|CB|CC|IA|UA|XCA|XCB)",  # Philips
    re.IGNORECASE,
)
_SOFT = re.compile(
    r"[ABHIUQTDS][a-z]?[1-4]\d[a-z]?(\\\d)?|STANDARD|STND|SOFT|FC0\d|FC1\d|A|B|YA", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Slices that make one CT."""

    slices: list[SliceHeader]
    phase: float = 0.0  # how far from the phase one would choose
    warnings: tuple[str, ...] = ()


def group_series(
    headers: Sequence[SliceHeader], broken: Sequence[Place] = ()
) -> tuple[list[CTFiles], Counter[str]]:
    """Sort DICOM slices into CT.

    Args:
        headers: Slices of any names, patients and series mixed.
        broken: Files that are empty or broken: a CT that lies alone in their folder has lost them.

    Returns:
        One entry a CT, sorted by name, and how many files were left aside, by why.
    """
    ignored: Counter[str] = Counter()
    series: dict[tuple[str, ...], list[SliceHeader]] = defaultdict(list)
    localizers: dict[tuple[str, ...], list[SliceHeader]] = defaultdict(list)
    for header in headers:
        why = _find_reason_to_ignore(header)
        if not why:
            series[header.patient, header.study_uid, header.series_uid].append(header)
        elif why == "localizer":
            localizers[header.patient, header.study_uid].append(header)
        else:
            ignored[why] += 1
    studies = {key[:2] for key in series}
    for study, slices in localizers.items():
        if study in studies:
            ignored["localizer"] += len(slices)
        else:  # a study of nothing else: to be refused by name
            series[*study, slices[0].series_uid] = slices
    entries = []
    for key in sorted(series):
        groups, strays = _split_series(series[key])
        ignored["stray_slice"] += strays
        entries += _name_groups(groups)
    return sorted(_count_broken(entries, broken), key=lambda e: e.name), +ignored


def find_reason_of_rank(loser: CTFiles, winner: CTFiles) -> str:
    """Say in words why one CT of a study was chosen before another.

    Args:
        loser: The one that was left aside.
        winner: The one that was chosen.
    """
    pairs = zip(loser.rank, winner.rank, RANK_WORDS, strict=False)
    return next((word for a, b, word in pairs if a < b), "the later UID")


def split_phases(slices: Sequence[SliceHeader]) -> list[tuple[float, list[SliceHeader]]]:
    """Take apart what was taken at one place at several times.

    Args:
        slices: Slices of one orientation.

    Returns:
        Each part with its distance from the phase one would choose: the one nearest to 75 % of the
        heart's cycle, or the first. One part, where no tag divides the slices cleanly.
    """
    if not _repeats(slices):
        return [(0.0, list(slices))]
    for find in _PHASES:
        parts: dict[str, list[SliceHeader]] = defaultdict(list)
        for each in slices:
            parts[find(each)].append(each)
        good = all(len(part) >= MIN_SLICES and not _repeats(part) for part in parts.values())
        if len(parts) > 1 and good:
            ordered = [parts[key] for key in sorted(parts, key=_order_words)]
            return [(_find_distance(part, i), part) for i, part in enumerate(ordered)]
    return [(0.0, list(slices))]


def find_along(slices: Sequence[SliceHeader]) -> Float64[np.ndarray, "n"] | None:
    """Find where slices lie along their normal [mm]; None where one does not say."""
    axes = slices[0].orientation
    if axes is None or any(each.position is None for each in slices):
        return None
    normal = np.cross(axes[:3], axes[3:])
    return np.array([each.position for each in slices]) @ normal


def name_kernel(text: str) -> str | None:
    """Hand on the name of a kernel, if it is known to be one.

    Args:
        text: ConvolutionKernel.
    """
    return text.replace("\\", "/") if _KERNELS.fullmatch(text) else None


def _find_reason_to_ignore(header: SliceHeader) -> str:
    """Say why an object is no part of a CT; an empty word when it is."""
    if header.sop_class != CT_IMAGE and header.sop_class not in ENHANCED_CT:
        return "secondary" if header.modality == "CT" else "not_ct"
    if header.modality not in ("CT", ""):
        return "not_ct"
    return "localizer" if "LOCALIZER" in header.image_type else ""


def _split_series(slices: list[SliceHeader]) -> tuple[list[_Group], int]:
    """Split a series into CT; also count slices that match no other."""
    alike: dict[tuple[object, ...], list[SliceHeader]] = defaultdict(list)
    placeless = []
    for each in slices:
        if each.sop_class in ENHANCED_CT or each.orientation is not None:
            alike[_find_key(each)].append(each)
        else:
            placeless.append(each)
    if not alike:
        return [_Group(slices=placeless)], 0
    largest = max(alike.values(), key=len)
    largest += placeless  # they belong somewhere, and get it refused
    good = [part for part in alike.values() if len(part) >= MIN_SLICES or _is_multiframe(part)]
    if not good:
        return [_Group(slices=slices)], 0
    strays = [each for part in alike.values() if not any(part is g for g in good) for each in part]
    noticed = {
        STRAY_MATRIX if _is_parallel(each, largest[0]) else STRAY_ORIENTATION for each in strays
    }
    groups = []
    for part in good:
        phases = [(0.0, part)] if _is_multiframe(part) else split_phases(part)
        words = ((PHASE_CHOSEN,) if len(phases) > 1 else ()) + tuple(sorted(noticed))
        groups += [_Group(slices=each, phase=d, warnings=words) for d, each in phases]
    return groups, len(strays)


def _find_key(header: SliceHeader) -> tuple[object, ...]:
    """Find what all slices of a CT have in common."""
    return (
        header.sop_class,
        header.instance if header.sop_class in ENHANCED_CT else "",
        _round(header.orientation, 2),
        header.rows,
        header.columns,
        _round(header.spacing, 4),
    )


def _round(numbers: Numbers | None, digits: int) -> Numbers | None:
    """Round, so that what differs in the last digits written is alike."""
    return None if numbers is None else tuple(round(x, digits) + 0.0 for x in numbers)


def _is_multiframe(slices: Sequence[SliceHeader]) -> bool:
    """Say whether the slices of a CT lie in one file."""
    return slices[0].sop_class in ENHANCED_CT


def _is_parallel(a: SliceHeader, b: SliceHeader) -> bool:
    """Say whether two slices have the same orientation."""
    return _round(a.orientation, 2) == _round(b.orientation, 2)


def _repeats(slices: Sequence[SliceHeader]) -> bool:
    """Say whether two slices claim one place."""
    along = find_along(slices)
    return along is not None and bool((np.diff(np.sort(along)) < SAME_PLACE_MM).any())


_PHASES: tuple[Callable[[SliceHeader], str], ...] = (
    lambda s: s.acquisition,
    lambda s: s.temporal,
    lambda s: "" if s.phase is None else str(s.phase),
    lambda s: s.time,
)


def _order_words(word: str) -> tuple[float, str]:
    """Order numbers by value, and other words behind them."""
    try:
        return float(word), word
    except ValueError:
        return float("inf"), word


def _find_distance(part: Sequence[SliceHeader], index: int) -> float:
    """Find how far a phase is from the one to choose."""
    phase = part[0].phase
    return float(index) if phase is None else abs(phase - _BEST_PHASE)


def _name_groups(groups: Iterable[_Group]) -> list[CTFiles]:
    """Describe the CT of a series, the best one first: it bears the bare UID."""
    entries = [_make_entry(group) for group in groups]
    entries.sort(key=lambda entry: (tuple(-x for x in entry.rank), entry.paths))
    return [
        entry if i == 0 else replace(entry, name=f"{entry.name}#{i + 1}")
        for i, entry in enumerate(entries)
    ]


def _make_entry(group: _Group) -> CTFiles:
    """Describe a CT."""
    slices, first = group.slices, group.slices[0]
    return CTFiles(
        ct_format=CTFormat.DICOM,
        paths=tuple(sorted(each.path for each in slices)),
        name=first.series_uid,
        n_bytes=sum(each.n_bytes for each in slices),
        mtime_ns=max(each.mtime_ns for each in slices),
        patient=first.patient or None,
        study_uid=first.study_uid or None,
        series_uid=first.series_uid,
        accession=first.accession or None,
        rank=_find_rank(group),
        warnings=group.warnings,
    )


def _find_rank(group: _Group) -> tuple[float, ...]:
    """Rank a CT among those of its study: see RANK_WORDS."""
    slices, first = group.slices, group.slices[0]
    along = find_along(slices)
    height = 0.0 if along is None else float(np.ptp(along)) * len(slices) / max(len(slices) - 1, 1)
    axes = first.orientation
    multiframe = _is_multiframe(slices)
    is_axial = multiframe or (
        axes is not None and abs(np.cross(axes[:3], axes[3:])[2]) > _AXIAL_COSINE
    )
    kernel = first.kernel
    softness = 1.0 if _SOFT.fullmatch(kernel) else 0.0 if _KERNELS.fullmatch(kernel) else 0.5
    return (
        float(multiframe or height >= MIN_HEIGHT_MM),
        float(is_axial),
        float("ORIGINAL" in first.image_type),
        float(sum(each.frames for each in slices)),
        -(first.thickness or _THICK),
        softness,
        -group.phase,
    )


def _count_broken(entries: Sequence[CTFiles], broken: Sequence[Place]) -> list[CTFiles]:
    """Tell CT of the empty and broken files that lie beside their slices under a like name."""
    if not broken:
        return list(entries)
    beside = Counter((path.parent, path.suffix) for path in broken)
    places = [{(path.parent, path.suffix) for path in entry.paths} for entry in entries]
    owners = Counter(place for each in places for place in each)
    told = []
    for entry, each in zip(entries, places, strict=True):
        own = sum(beside[place] for place in each if owners[place] == 1)
        words = (BROKEN_BESIDE,) if any(beside[p] and owners[p] > 1 for p in each) else ()
        told.append(replace(entry, n_broken=own, warnings=entry.warnings + words))
    return told
