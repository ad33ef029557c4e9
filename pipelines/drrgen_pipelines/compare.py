"""How near synthetic radiographs look to real ones: the same measures on both, view by view.

A check, not a score to train against: two sets of other patients, of other detectors and of other
image processing differ too.
"""

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from drrgen.choices import View
from drrgen.errors import InputError, RadiographError
from drrgen.io.atomic import write_bytes
from drrgen.io.dicom_header import Skip, read_header
from drrgen.io.radiographs import read_radiograph
from drrgen.manifest import read_rows
from drrgen_pipelines.compare_sheet import Band, draw_bands
from drrgen_pipelines.looks import (
    DEFINITIONS,
    WIDTH_PX,
    Look,
    Measure,
    average,
    find_histogram_distance,
    find_shape_distance,
    find_spectrum_distance,
    measure_look,
    prepare,
    scale,
)

JSON_NAME, PICTURE_NAME = "compare.json", "compare.png"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".dcm", ".dicom"}

Picture = tuple[View, Float[np.ndarray, "_ _"]]

# name, unit, formula
DISTANCES: tuple[tuple[str, str, str, Callable[[Look, Look], float]], ...] = (
    ("histogram_distance", "grey",
     "Wasserstein distance of the greys inside the body", find_histogram_distance),
    ("shape_distance", "of range",
     "the same with both grey ranges stretched to 0 and 1", find_shape_distance),
    ("spectrum_distance", "decades",
     "root mean square difference of log power over log frequency", find_spectrum_distance),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One measure of one view, of the real and of the synthetic radiographs.

    Attributes:
        name: The measure.
        unit: Its unit.
        meaning: Its formula.
        real: Mean of the real ones; None where it cannot be taken, and for a distance.
        synthetic: Mean of the synthetic ones; None likewise.
        real_sd: Standard deviation among the real ones; None with fewer than two.
        synthetic_sd: Likewise.
        difference: Synthetic less real; for a distance, the distance.
    """

    name: str
    unit: str
    meaning: str
    real: float | None = None
    synthetic: float | None = None
    real_sd: float | None = None
    synthetic_sd: float | None = None
    difference: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ViewComparison:
    """All measures of one view.

    Attributes:
        view: The view.
        n_real: Real radiographs measured.
        n_synthetic: Synthetic ones.
        lines: The measures, then the distances.
        band: What the picture side by side shows.
    """

    view: View
    n_real: int
    n_synthetic: int
    lines: tuple[Line, ...]
    band: Band


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """All views that both sides have, and what was left aside, by why."""

    views: tuple[ViewComparison, ...]
    left_aside: Counter[str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Group:
    """The radiographs of one side and view: the first picture, and all looks."""

    example: Float[np.ndarray, "v u"]
    looks: list[Look]


def compare(
    real: Path, synthetic: Path, *, view: View | None = None, limit: int = 100
) -> Comparison:
    """Measure real and synthetic radiographs of the same views.

    Args:
        real: A radiograph, a folder of them, or an output folder of drrgen.
        synthetic: Likewise.
        view: Compare this view only, and take pictures that do not tell theirs for it.
        limit: Most pictures read of each side, spread over all of them.

    Raises:
        InputError: A path is not there, or both sides have no view in common.
    """
    left_aside: Counter[str] = Counter()
    pictures = {
        side: list(_read_side(path, side, view, limit, left_aside))
        for side, path in (("real", real), ("synthetic", synthetic))
    }
    width_px = min([WIDTH_PX, *(grey.shape[1] for side in pictures.values() for _, grey in side)])
    groups = {side: _measure_side(found, width_px) for side, found in pictures.items()}
    common = [v for v in View if v in groups["real"] and v in groups["synthetic"]]
    for side, found in groups.items():
        for v, group in found.items():
            if v not in common:
                left_aside[f"{side}, no {v} to hold against"] += len(group.looks)
    if not common:
        told = "; ".join(f"{n} {why}" for why, n in sorted(left_aside.items())) or "no pictures"
        raise InputError(
            f"no view in common ({told}); give radiographs of the same view, or --view where the "
            "files do not tell theirs"
        )
    return Comparison(
        views=tuple(_compare_view(v, groups["real"][v], groups["synthetic"][v]) for v in common),
        left_aside=left_aside,
    )


def write_comparison(comparison: Comparison, out: Path) -> list[Path]:
    """Write the table as JSON and the picture side by side.

    Args:
        comparison: The measures.
        out: Folder, made when it is not there.

    Returns:
        The files.
    """
    paths = [out / JSON_NAME, out / PICTURE_NAME]
    text = json.dumps(describe(comparison), indent=2) + "\n"
    write_bytes(paths[0], text.encode())
    write_bytes(paths[1], draw_bands([v.band for v in comparison.views]))
    return paths


def describe(comparison: Comparison) -> dict[str, object]:
    """Describe a comparison as JSON does: lists, words and numbers.

    Args:
        comparison: The measures.
    """
    return {
        "views": [
            {
                "view": v.view.value,
                "n_real": v.n_real,
                "n_synthetic": v.n_synthetic,
                "measures": [dataclasses.asdict(line) for line in v.lines],
            }
            for v in comparison.views
        ],
        "left_aside": dict(sorted(comparison.left_aside.items())),
    }


def _read_side(
    path: Path, side: str, wanted: View | None, limit: int, left_aside: Counter[str]
) -> Iterator[Picture]:
    """Read the radiographs of one side, small, each with its view; count what is left aside."""
    for file, told in _spread(_list_pictures(path), limit):
        try:
            radiograph = read_radiograph(file)
        except RadiographError as error:
            left_aside[f"{side}, {error.code}"] += 1
            continue
        view = told or radiograph.view or wanted
        if radiograph.is_chest is False:
            left_aside[f"{side}, not a chest"] += 1
        elif view is None:
            left_aside[f"{side}, view not told"] += 1
        elif wanted is not None and view is not wanted:
            left_aside[f"{side}, another view"] += 1
        else:
            yield view, prepare(radiograph)


def _list_pictures(path: Path) -> list[tuple[Path, View | None]]:
    """List the pictures of a file, a folder, or an output folder with its manifest."""
    if path.is_file():
        return [(path, None)]
    if not path.is_dir():
        raise InputError(f"there is no {path}; give a radiograph, or a folder of them")
    parts = sorted((path / "manifest").glob("*.parquet"))
    if parts:
        rows = [row for part in parts for row in read_rows(part) if row["status"] == "ok"]
        return [(path / row["cxr_path"], View(row["view"])) for row in rows]
    return [(file, None) for file in sorted(path.rglob("*")) if _is_picture(file)]


def _is_picture(file: Path) -> bool:
    """Say whether a file may be a radiograph, by its name or as DICOM without one."""
    if file.name.startswith(".") or not file.is_file():
        return False
    return file.suffix.lower() in _SUFFIXES or (
        not file.suffix and not isinstance(read_header(file), Skip)
    )


def _spread(items: list[tuple[Path, View | None]], limit: int) -> list[tuple[Path, View | None]]:
    """Choose so many items, spread over all."""
    return items[:: max(1, math.ceil(len(items) / limit))]


def _measure_side(found: list[Picture], width_px: int) -> dict[View, _Group]:
    """Measure all pictures of one side, at a width that no picture falls short of."""
    by_view: dict[View, list[Float[np.ndarray, "_ _"]]] = defaultdict(list)
    for view, grey in found:
        by_view[view].append(scale(grey, width_px))
    return {
        view: _Group(example=greys[0], looks=[measure_look(grey) for grey in greys])
        for view, greys in by_view.items()
    }


def _compare_view(view: View, real: _Group, synthetic: _Group) -> ViewComparison:
    """Hold the synthetic radiographs of one view against the real ones."""
    a, b = average(real.looks), average(synthetic.looks)
    lines = [_compare_measure(m, real.looks, synthetic.looks, a, b) for m in Measure]
    distances = [
        Line(name=name, unit=unit, meaning=meaning, difference=find(a, b))
        for name, unit, meaning, find in DISTANCES
    ]
    return ViewComparison(
        view=view,
        n_real=len(real.looks),
        n_synthetic=len(synthetic.looks),
        lines=(*lines, *distances),
        band=Band(
            title=view.value,
            pictures=(real.example, synthetic.example),
            looks=(a, b),
            counts=(len(real.looks), len(synthetic.looks)),
        ),
    )


def _compare_measure(
    measure: Measure, real: list[Look], synthetic: list[Look], a: Look, b: Look
) -> Line:
    """Compare one measure."""
    x, y = a.measures[measure], b.measures[measure]
    unit, meaning = DEFINITIONS[measure]
    return Line(
        name=measure.value,
        unit=unit,
        meaning=meaning,
        real=x,
        synthetic=y,
        real_sd=_find_sd(real, measure),
        synthetic_sd=_find_sd(synthetic, measure),
        difference=None if x is None or y is None else y - x,
    )


def _find_sd(looks: list[Look], measure: Measure) -> float | None:
    """Find the standard deviation of a measure among several pictures."""
    known = [x for look in looks if (x := look.measures[measure]) is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None
