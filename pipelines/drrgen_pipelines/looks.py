"""What a radiograph looks like, in numbers that need no mark of a reader and no trained network.

All pictures are first cut to their exposed field and brought to one width, so the unit of length
is that width, whatever the pitch: real radiographs often do not tell theirs. Contrasts are shares
of the picture's own grey range (95th less 5th percentile inside the body), so that they do not
depend on the window; the range itself is one of the measures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image
from scipy import ndimage

from drrgen.io.radiographs import Radiograph

WIDTH_PX = 512  # narrower than any detector; ribs and vessels are still there
N_QUANTILES, N_BINS, N_RINGS, N_THRESHOLDS = 256, 64, 16, 20
_LOW, _HIGH = 0.05, 0.95  # the grey range
_SMOOTH, _OPENING, _EDGE = 0.004, 0.008, 0.008  # for regions, of the picture's width
_FINE, _RIB = 0.003, 0.02  # below the first: fine detail; between both: ribs and vessels
_MIN_LUNG, _MIN_SECOND = 0.01, 0.25  # share of the picture; of the larger lung
_SPECTRUM_SHARE = 0.75  # of the body's height and width, around its middle
_LOWEST_CYCLES, _NYQUIST_SHARE = 8.0, 0.8
_TINY = 1e-12


class Measure(StrEnum):
    """A number that a radiograph has; see ``DEFINITIONS``."""

    BODY_GREY = "body_grey"
    GREY_RANGE = "grey_range"
    LUNG_CONTRAST = "lung_contrast"
    RIB_CONTRAST = "rib_contrast"
    FINE_DETAIL = "fine_detail"
    SPECTRUM_SLOPE = "spectrum_slope"
    BODY_SHARE = "body_share"
    LUNG_WIDTH = "lung_width"
    LUNG_HEIGHT = "lung_height"


# unit, formula
DEFINITIONS: Mapping[Measure, tuple[str, str]] = {
    Measure.BODY_GREY: ("grey", "mean inside the body; 0 black, 1 white"),
    Measure.GREY_RANGE: ("grey", "95th less 5th percentile inside the body"),
    Measure.LUNG_CONTRAST: (
        "of range", "median of mediastinum (side view: body around) less that of the lungs",
    ),
    Measure.RIB_CONTRAST: (
        "of range", "standard deviation in the lungs between blurs of 0.3 % and 2 % of the width",
    ),
    Measure.FINE_DETAIL: (
        "of range", "standard deviation in the body of what a blur of 0.3 % of the width takes",
    ),
    Measure.SPECTRUM_SLOPE: (
        "decades a decade", "slope of log power over log frequency; white noise has 0",
    ),
    Measure.BODY_SHARE: ("of picture", "area of the body"),
    Measure.LUNG_WIDTH: ("of body", "outer width of the lungs over that of the body, median row"),
    Measure.LUNG_HEIGHT: ("of picture", "height of the lungs"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Regions:
    """Where body, lungs and mediastinum are.

    Attributes:
        body: Not the air beside it.
        lungs: One or two dark parts inside the body; empty when there are none.
        dense: What the lungs are held against: the mediastinum between two lungs, or else the
            body around one at its height.
    """

    body: Bool[np.ndarray, "v u"]
    lungs: Bool[np.ndarray, "v u"]
    dense: Bool[np.ndarray, "v u"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """What one radiograph, or the mean of several, looks like.

    Attributes:
        measures: None where a measure cannot be taken, as without lungs.
        quantiles: Grey inside the body at evenly spaced shares from 0 to 1 [grey].
        histogram: Share of the body in each of evenly wide bins of grey from 0 to 1.
        frequencies: Middles of the bins of the spectrum [cycles per picture width].
        log_power: Power there [log10 of grey ranges squared, of one Fourier component].
    """

    measures: Mapping[Measure, float | None]
    quantiles: Float[np.ndarray, "q"]
    histogram: Float[np.ndarray, "bins"]
    frequencies: Float[np.ndarray, "f"]
    log_power: Float[np.ndarray, "f"]


def prepare(radiograph: Radiograph) -> Float[np.ndarray, "v u"]:
    """Cut a radiograph to its exposed field, no wider than ``WIDTH_PX``.

    Args:
        radiograph: Rendered or real.
    """
    grey = radiograph.grey.numpy()
    if radiograph.exposed_xywh is not None:
        left, top, width, height = radiograph.exposed_xywh
        grey = grey[top : top + height, left : left + width]
    return scale(grey, min(WIDTH_PX, grey.shape[1]))


def scale(grey: Float[np.ndarray, "v u"], width_px: int) -> Float[np.ndarray, "_ _"]:
    """Bring a picture to a width (Lanczos).

    Args:
        grey: The picture.
        width_px: Width wanted [pixels].
    """
    if grey.shape[1] == width_px:
        return grey.astype(np.float64)
    height_px = max(1, round(grey.shape[0] * width_px / grey.shape[1]))
    image = Image.fromarray(np.ascontiguousarray(grey, dtype=np.float32))
    return np.asarray(image.resize((width_px, height_px), Image.Resampling.LANCZOS), np.float64)


def measure_look(grey: Float[np.ndarray, "v u"]) -> Look:
    """Take all measures of a prepared picture.

    Args:
        grey: From 0 to 1, of the common width.
    """
    regions = find_regions(grey)
    inside = grey[regions.body] if regions.body.any() else grey.reshape(-1)
    quantiles = np.quantile(inside, (np.arange(N_QUANTILES) + 0.5) / N_QUANTILES)
    low, high = _find_range(quantiles)
    span = max(high - low, _TINY)
    frequencies, log_power = find_spectrum(grey / span, regions.body)
    counts, _ = np.histogram(inside.clip(0, 1), bins=N_BINS, range=(0, 1))
    measures: dict[Measure, float | None] = {
        Measure.BODY_GREY: float(inside.mean()),
        Measure.GREY_RANGE: high - low,
        Measure.FINE_DETAIL: _measure_band(grey / span, regions.body, 0.0, _FINE),
        Measure.SPECTRUM_SLOPE: fit_slope(frequencies, log_power),
        Measure.BODY_SHARE: float(regions.body.mean()),
        **_measure_lungs(grey / span, regions),
    }
    return Look(
        measures={m: measures.get(m) for m in Measure},
        quantiles=quantiles,
        histogram=counts / max(1, counts.sum()),
        frequencies=frequencies,
        log_power=log_power,
    )


def find_regions(grey: Float[np.ndarray, "v u"]) -> Regions:
    """Find body and lungs by a threshold and by what touches the picture's sides.

    What is darker than a threshold and reaches the left or right side of the picture is air; the
    largest one or two of the other dark parts are lungs. Of all thresholds up to Otsu's the one
    is taken that gives the largest lungs before they leak through the chest wall. Air is then
    what is darker than nearly all of the lungs and reaches a side, and the body is the rest.
    Robust and rough: an opaque lung counts as body.

    Args:
        grey: From 0 to 1.

    Source:
        Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979).
    """
    width = grey.shape[1]
    smooth = ndimage.gaussian_filter(grey, _SMOOTH * width)
    threshold = find_threshold(smooth)
    lungs = _find_lungs(smooth, threshold)
    air = float(np.quantile(smooth[lungs], _LOW)) if lungs.any() else threshold / 2
    dark, _ = ndimage.label(smooth < air)
    body = ndimage.binary_fill_holes(~np.isin(dark, _list_at_sides(dark)))
    return Regions(body=body, lungs=lungs, dense=_find_dense(lungs, body))


def find_threshold(grey: Float[np.ndarray, "v u"]) -> float:
    """Find the grey that parts dark from bright with the most variance between both (Otsu).

    Args:
        grey: Any range.
    """
    counts, edges = np.histogram(grey, bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    gap = sums / np.maximum(below, 1) - (sums[-1] - sums) / np.maximum(above, 1)
    between = below * above * gap**2
    # Halfway along the plateau that an empty gap between two modes makes.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[1:][best].mean())


def find_spectrum(
    values: Float[np.ndarray, "v u"], body: Bool[np.ndarray, "v u"]
) -> tuple[Float[np.ndarray, "f"], Float[np.ndarray, "f"]]:
    """Find the radial power spectrum around the middle of the body.

    The middle three quarters of the body's box are freed of their mean and of a step at their
    edges (Hann window ``w``); ``P = |FFT(w x)|^2 / sum(w^2)`` is averaged over rings of even width
    in the logarithm of frequency. White noise of variance ``s^2`` has ``P = s^2`` everywhere.

    Args:
        values: The picture.
        body: Where its body is.

    Returns:
        Frequency [cycles per picture width], and log10 of the power.
    """
    part = values[_find_middle(body)]
    window = np.outer(np.hanning(part.shape[0] + 2)[1:-1], np.hanning(part.shape[1] + 2)[1:-1])
    part = part - (part * window).sum() / window.sum()
    power = np.abs(np.fft.fft2(part * window)) ** 2 / (window**2).sum()
    width = values.shape[1]
    across, down = (np.fft.fftfreq(n) * width for n in (part.shape[1], part.shape[0]))
    radius = np.hypot(down[:, None], across[None, :])
    edges = np.geomspace(_LOWEST_CYCLES, _NYQUIST_SHARE * width / 2, N_RINGS + 1)
    ring = np.digitize(radius, edges)
    total = np.bincount(ring.reshape(-1), power.reshape(-1), minlength=len(edges) + 1)
    count = np.bincount(ring.reshape(-1), minlength=len(edges) + 1)
    mean = total[1:-1] / np.maximum(count[1:-1], 1)
    mean = np.where(count[1:-1] > 0, mean, np.nan)
    log_power = np.log10(np.maximum(mean, _TINY))
    middles = np.sqrt(edges[:-1] * edges[1:])
    known = np.isfinite(log_power)
    if not known.any():
        return middles, np.full_like(middles, math.log10(_TINY))
    return middles, np.interp(middles, middles[known], log_power[known])


def fit_slope(frequencies: Float[np.ndarray, "f"], log_power: Float[np.ndarray, "f"]) -> float:
    """Fit the slope of log10 power over log10 frequency [decades a decade].

    Args:
        frequencies: Any unit.
        log_power: log10 of the power.

    Example:
        >>> fit_slope(np.array([1.0, 10.0, 100.0]), np.array([5.0, 3.0, 1.0]))
        -2.0
    """
    return round(float(np.polyfit(np.log10(frequencies), log_power, 1)[0]), 9)


def average(looks: list[Look]) -> Look:
    """Average several looks: measures where they are known, quantiles, histograms, log power.

    The mean of quantile functions is the middle of the distributions (Wasserstein barycentre).

    Args:
        looks: At least one.
    """
    known = {m: [x for look in looks if (x := look.measures[m]) is not None] for m in Measure}
    return Look(
        measures={m: float(np.mean(v)) if v else None for m, v in known.items()},
        quantiles=np.mean([look.quantiles for look in looks], axis=0),
        histogram=np.mean([look.histogram for look in looks], axis=0),
        frequencies=looks[0].frequencies,
        log_power=np.mean([look.log_power for look in looks], axis=0),
    )


def find_histogram_distance(a: Look, b: Look) -> float:
    """Find the Wasserstein distance of the greys inside the body: mean |Qa - Qb| [grey].

    Args:
        a: One look.
        b: Another.
    """
    return float(np.abs(a.quantiles - b.quantiles).mean())


def find_shape_distance(a: Look, b: Look) -> float:
    """Find the same distance with both grey ranges stretched to 0 and 1 [of range].

    Args:
        a: One look.
        b: Another.
    """
    return float(np.abs(_stretch(a.quantiles) - _stretch(b.quantiles)).mean())


def find_spectrum_distance(a: Look, b: Look) -> float:
    """Find the root mean square difference of log power over log frequency [decades].

    Args:
        a: One look.
        b: Another, at the same frequencies.
    """
    return float(np.sqrt(((a.log_power - b.log_power) ** 2).mean()))


def _find_range(quantiles: Float[np.ndarray, "q"]) -> tuple[float, float]:
    """Find the ends of the grey range."""
    return float(np.quantile(quantiles, _LOW)), float(np.quantile(quantiles, _HIGH))


def _stretch(quantiles: Float[np.ndarray, "q"]) -> Float[np.ndarray, "q"]:
    """Bring the grey range to 0 and 1."""
    low, high = _find_range(quantiles)
    return (quantiles - low) / max(high - low, _TINY)


def _find_lungs(smooth: Float[np.ndarray, "v u"], highest: float) -> Bool[np.ndarray, "v u"]:
    """Find the largest lungs of all thresholds, on every other pixel."""
    coarse = smooth[::2, ::2]
    best = np.zeros(coarse.shape, dtype=bool)
    for threshold in np.linspace(coarse.min(), highest, N_THRESHOLDS + 1)[1:]:
        parts, n = ndimage.label(_open(coarse < threshold, _OPENING * coarse.shape[1]))
        lungs = np.isin(parts, _choose_lungs(parts, n)) & (parts > 0)
        if lungs.sum() > best.sum():
            best = lungs
    rows, columns = smooth.shape
    return best.repeat(2, axis=0).repeat(2, axis=1)[:rows, :columns]


def _open(mask: Bool[np.ndarray, "v u"], radius_px: float) -> Bool[np.ndarray, "v u"]:
    """Take away what is thinner than twice the radius, as a leak through the chest wall is."""
    if radius_px < 1:
        return mask
    inner = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1] > radius_px
    return np.asarray(ndimage.distance_transform_edt(~inner) <= radius_px) & mask


def _list_at_sides(parts: np.ndarray) -> np.ndarray:
    """List the parts that reach the left or right side of the picture."""
    found = np.unique(parts[:, [0, -1]])
    return found[found > 0]


def _choose_lungs(parts: np.ndarray, n: int) -> list[int]:
    """Choose the largest one or two dark parts that reach no side."""
    sizes = np.bincount(parts.reshape(-1), minlength=n + 1)
    sizes[0] = 0
    sizes[_list_at_sides(parts)] = 0
    order = np.argsort(sizes)[::-1][:2]
    floor = max(_MIN_LUNG * parts.size, _MIN_SECOND * sizes[order[0]])
    return [int(i) for i in order if sizes[i] >= floor]


def _find_dense(
    lungs: Bool[np.ndarray, "v u"], body: Bool[np.ndarray, "v u"]
) -> Bool[np.ndarray, "v u"]:
    """Find what the lungs are held against."""
    parts, n = ndimage.label(lungs)
    columns = np.arange(lungs.shape[1])
    if n < 2:
        rows = np.asarray(lungs.any(axis=1))
        near = ndimage.binary_dilation(lungs, iterations=max(1, round(_SMOOTH * lungs.shape[1])))
        return np.asarray(body & ~near & rows[:, None])
    first, second = sorted((1, 2), key=lambda i: float(np.nonzero(parts == i)[1].mean()))
    a, b = parts == first, parts == second
    right_edge = np.where(a.any(axis=1), a.shape[1] - 1 - a[:, ::-1].argmax(axis=1), a.shape[1])
    left_edge = np.where(b.any(axis=1), b.argmax(axis=1), 0)
    return (columns > right_edge[:, None]) & (columns < left_edge[:, None]) & body


def _measure_lungs(
    values: Float[np.ndarray, "v u"], regions: Regions
) -> dict[Measure, float | None]:
    """Take the measures that need lungs."""
    lungs, body = regions.lungs, regions.body
    rows = np.asarray(lungs.any(axis=1))
    if not rows.any() or not regions.dense.any():
        return {}
    spans = [_find_extent(lungs[v]) / _find_extent(body[v] | lungs[v]) for v in np.nonzero(rows)[0]]
    return {
        Measure.LUNG_CONTRAST: float(np.median(values[regions.dense]) - np.median(values[lungs])),
        Measure.RIB_CONTRAST: _measure_band(values, lungs, _FINE, _RIB),
        Measure.LUNG_WIDTH: float(np.median(spans)),
        Measure.LUNG_HEIGHT: _find_extent(rows) / len(rows),
    }


def _measure_band(
    values: Float[np.ndarray, "v u"], where: Bool[np.ndarray, "v u"], fine: float, coarse: float
) -> float | None:
    """Standard deviation, inside a region, of what lies between two blurs [shares of the width]."""
    width = values.shape[1]
    inner = ndimage.binary_erosion(where, iterations=max(1, round(_EDGE * width)))
    if not inner.any():
        return None
    sharp = _blur_inside(values, inner, fine * width) if fine else values
    return float((sharp - _blur_inside(values, inner, coarse * width))[inner].std())


def _blur_inside(
    values: Float[np.ndarray, "v u"], where: Bool[np.ndarray, "v u"], sigma_px: float
) -> Float[np.ndarray, "v u"]:
    """Blur within a region only, so that its own edge is no detail (normalised blur)."""
    weight = ndimage.gaussian_filter(where.astype(np.float64), sigma_px)
    return ndimage.gaussian_filter(values * where, sigma_px) / np.maximum(weight, 1e-6)


def _find_extent(line: Bool[np.ndarray, "n"]) -> int:
    """Find the length from the first to the last true value [pixels]."""
    found = np.nonzero(line)[0]
    return int(found[-1] - found[0] + 1)


def _find_middle(body: Bool[np.ndarray, "v u"]) -> tuple[slice, slice]:
    """Find the middle of the body's box, of the whole picture where there is none."""
    return _find_middle_of(np.asarray(body.any(axis=1))), _find_middle_of(
        np.asarray(body.any(axis=0))
    )


def _find_middle_of(line: Bool[np.ndarray, "n"]) -> slice:
    """Find the middle three quarters of an extent."""
    found = np.nonzero(line)[0]
    first, last = (int(found[0]), int(found[-1]) + 1) if len(found) else (0, len(line))
    cut = round((1 - _SPECTRUM_SHARE) / 2 * (last - first))
    return slice(first + cut, last - cut)
