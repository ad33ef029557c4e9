"""One scan of a virtual patient: the CT, where every finding is in it, what can be said of it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int16
from scipy import ndimage

from drrgen.cohort.base import Base
from drrgen.cohort.canvas import Canvas, Drawn, Values, make_canvas
from drrgen.cohort.findings import draw_finding
from drrgen.cohort.grid import Box, Grid, Zyx
from drrgen.cohort.kinds import (
    ALL_LABELS,
    LABELS_OF,
    MODELED_LABELS,
    MOST_OF_A_KIND,
    Finding,
    Kind,
    number_mask,
)
from drrgen.cohort.patient import Patient, Scan
from drrgen.cohort.visibility import Room, Shadow, find_shadows, make_room
from drrgen.volume import Hu

LEAST_VOXELS = 0.15  # a finding that fills less than so much of a voxel is not there
LEAST_SEEN = 0.25  # of a finding that others cover
LARGE_HEART = 0.50  # cardiothoracic ratio
PADDING_HU = -1024
DENSEST_HU = 3071
SHARPENING = 0.7
SHARP_NOISE = 2.6  # against the soft kernel's


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """A finding that was drawn, and the voxels as they were before.

    Attributes:
        finding: What was planned.
        drawn: What was drawn.
        before: The same voxels without it [HU].
    """

    finding: Finding
    drawn: Drawn
    before: Values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planted:
    """A finding as it is in one scan.

    Attributes:
        finding: What was planned.
        ordinal: Counted from 1 among those of its kind.
        size_mm: Diameter, thickness or short axis [mm]; None where it has none.
        volume_ml: What it fills [ml].
        center_mm: Centre of gravity, patient LPS (z, y, x) [mm].
        share: Of its lung, lobe or side that it takes; 0 where that says nothing.
        shadows: In PA and LL.
    """

    finding: Finding
    ordinal: int
    size_mm: float | None
    volume_ml: float
    center_mm: Zyx
    share: float
    shadows: tuple[Shadow, Shadow]

    @property
    def kind(self) -> Kind:
        """What it is."""
        return self.finding.kind

    @property
    def mask_label(self) -> int:
        """Its number in the label map."""
        return number_mask(self.kind, self.ordinal)

    @property
    def severity(self) -> str:
        """Grade: small, moderate or large."""
        return find_severity(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """What one scan shows.

    Attributes:
        patient: Whose it is.
        scan: Which visit.
        grid: Grid of the CT.
        hu: The CT, free of noise [HU].
        mask: Number of the finding in every voxel.
        planted: The findings that are there.
        cardiothoracic_ratio: Width of the heart to that of the chest.
        labels: 1 or 0 by the name of the label; unknown ones are absent.
    """

    patient: Patient
    scan: Scan
    grid: Grid
    hu: Values
    mask: Int16[np.ndarray, "z y x"]
    planted: tuple[Planted, ...]
    cardiothoracic_ratio: float
    labels: dict[str, int]


def make_study(patient: Patient, number: int, base: Base, anchors: dict[int, Zyx]) -> Study:
    """Make one scan of a patient.

    Args:
        patient: Who it is.
        number: Of the scan, from 0.
        base: The real CT.
        anchors: Places of findings at earlier scans; added to.
    """
    scan = patient.scans[number]
    canvas = make_canvas(base, scan.shape, contrast=scan.contrast, anchors=anchors)
    order, changes = _keep_seen(canvas.grid, list(_draw_all(canvas, patient, number)))
    room = make_room(canvas.hu, canvas.grid)
    planted, count = [], Counter[Kind]()
    numbers = np.zeros(len(changes) + 1, dtype=np.int16)
    for i, change in enumerate(changes, start=1):
        count[change.finding.kind] += 1
        planted.append(_describe(canvas, room, change, count[change.finding.kind]))
        numbers[i] = planted[-1].mask_label
    ratio = measure_cardiothoracic_ratio(canvas)
    return Study(
        patient=patient,
        scan=scan,
        grid=canvas.grid,
        hu=canvas.hu,
        mask=numbers[order],
        planted=tuple(planted),
        cardiothoracic_ratio=ratio,
        labels=make_labels(planted, ratio),
    )


def _keep_seen(
    grid: Grid, changes: Sequence[Change]
) -> tuple[Int16[np.ndarray, "z y x"], list[Change]]:
    """Leave out what others cover, as fluid may cover an opacity: nobody could see it.

    Returns:
        Which of those that are seen is uppermost in every voxel, counted from 1; and those.
    """
    order = np.zeros(grid.shape, dtype=np.int16)
    for i, change in enumerate(changes, start=1):
        order[change.drawn.box][_find_core(change.drawn)] = i
    seen, count = [], Counter[Kind]()
    renumber = np.zeros(len(changes) + 1, dtype=np.int16)
    for i, change in enumerate(changes, start=1):
        core = _find_core(change.drawn)
        uncovered = np.count_nonzero(order[change.drawn.box][core] == i)
        kind = change.finding.kind
        if uncovered >= LEAST_SEEN * core.sum() and count[kind] < MOST_OF_A_KIND:
            count[kind] += 1
            seen.append(change)
            renumber[i] = len(seen)
    return renumber[order], seen


def _find_core(drawn: Drawn) -> Bool[np.ndarray, "z y x"]:
    """Find the voxels that a finding fills by half; of a thin one, those it fills most."""
    core = drawn.share > 0.5
    return core if core.any() else drawn.share >= 0.6 * drawn.share.max()


def _draw_all(canvas: Canvas, patient: Patient, number: int) -> Iterator[Change]:
    """Draw all findings of a scan, one over the other; skip those that find no room."""
    for finding in patient.findings:
        factor = finding.course[number]
        if factor <= 0:
            continue
        if finding.kind is Kind.CARDIOMEGALY:
            yield from _draw_heart(canvas, finding, patient.scans[number])
            continue
        drawn = draw_finding(canvas, finding, factor)
        if drawn is not None and float(drawn.share.sum()) > LEAST_VOXELS:
            yield Change(finding=finding, drawn=drawn, before=canvas.put(drawn))


def _draw_heart(canvas: Canvas, finding: Finding, scan: Scan) -> Iterator[Change]:
    """Call a heart large if it measures so; beside it stands the CT with a heart of usual size."""
    if measure_cardiothoracic_ratio(canvas) <= LARGE_HEART:
        return
    drawn = draw_finding(canvas, finding, 1.0)
    usual = make_canvas(
        canvas.base, replace(scan.shape, heart=0.0), contrast=scan.contrast, anchors={}
    )
    if drawn is not None:
        grown = canvas.grid.find_box(_find_ends(canvas.grid, drawn.box), 15.0) or drawn.box
        share = np.zeros(canvas.grid.crop(grown).shape, dtype=np.float32)
        inner = tuple(
            slice(a.start - b.start, a.stop - b.start)
            for a, b in zip(drawn.box, grown, strict=True)
        )
        share[inner] = drawn.share
        whole = Drawn(box=grown, share=share, hu=canvas.hu[grown].copy())
        yield Change(finding=finding, drawn=whole, before=usual.hu[grown].copy())


def _find_ends(grid: Grid, box: Box) -> np.ndarray:
    """Find two corners of a box [mm]."""
    ends = np.array([[s.start for s in box], [s.stop - 1 for s in box]], dtype=float)
    return np.array(grid.origin_mm) + ends * grid.spacing_mm


def _describe(canvas: Canvas, room: Room, change: Change, ordinal: int) -> Planted:
    """Measure a finding as it was drawn."""
    finding, drawn = change.finding, change.drawn
    crop = canvas.grid.crop(drawn.box)
    total = max(float(drawn.share.sum(dtype=np.float64)), 1e-9)
    z, y, x = (float((drawn.share * axis).sum(dtype=np.float64) / total) for axis in crop.axes_mm())
    volume = total * crop.voxel_ml
    pa, ll = find_shadows(room, crop, change.before, drawn.hu)
    return Planted(
        finding=finding,
        ordinal=ordinal,
        size_mm=drawn.size_mm,
        volume_ml=volume,
        center_mm=(z, y, x),
        share=_find_share(canvas, finding, volume),
        shadows=(pa, ll),
    )


def _find_share(canvas: Canvas, finding: Finding, volume_ml: float) -> float:
    """Find what share of its lobe, side or both lungs a finding takes."""
    numbers = canvas.base.lobe_numbers
    if finding.kind in (Kind.CONSOLIDATION, Kind.GROUND_GLASS):
        room = np.count_nonzero(canvas.labels == numbers[finding.place])
    elif finding.kind in (Kind.PNEUMOTHORAX, Kind.PLEURAL_EFFUSION, Kind.EMPHYSEMA):
        room = np.count_nonzero(canvas.find_lung(finding.side))
    else:
        return 0.0
    return min(1.0, volume_ml / max(room * canvas.grid.voxel_ml, 1e-9))


def measure_cardiothoracic_ratio(canvas: Canvas) -> float:
    """Measure the greatest width of the heart against that of the lungs in one slice.

    Args:
        canvas: A scan.

    Source:
        Danzer, Am J Med Sci 157:513, 1919; on CT above 0.50 counts as enlarged.
    """
    heart = canvas.find_any("heart", box=canvas.grid.whole).any(axis=(0, 1))
    chest: np.ndarray = np.asarray(canvas.find_lung(None).any(axis=1))
    columns = np.flatnonzero(heart)
    widths = chest.shape[1] - chest[:, ::-1].argmax(axis=1) - chest.argmax(axis=1)
    widest = int(widths[chest.any(axis=1)].max())
    return float(columns[-1] - columns[0] + 1) / widest


def make_labels(planted: Sequence[Planted], ratio: float) -> dict[str, int]:
    """Make the labels of a scan: 1 or 0 where the cohort models it, else none.

    A heart that measures wide and was not made so stays without a label.

    Args:
        planted: All findings of the scan.
        ratio: Cardiothoracic ratio.
    """
    true = {label for each in planted for label in LABELS_OF[each.kind]}
    known = {label: int(label in true) for label in ALL_LABELS if label in MODELED_LABELS}
    if ratio > LARGE_HEART and not known["Cardiomegaly"]:
        del known["Cardiomegaly"]
    return known


_GRADES: dict[Kind, tuple[float, float]] = {
    Kind.EMPHYSEMA: (0.12, 0.27),
    Kind.PNEUMOTHORAX: (0.12, 0.25),
    Kind.CONSOLIDATION: (0.15, 0.4),
    Kind.GROUND_GLASS: (0.15, 0.4),
    Kind.PLEURAL_EFFUSION: (250.0, 600.0),
    Kind.PERICARDIAL_EFFUSION: (10.0, 20.0),
    Kind.CARDIOMEGALY: (0.18, 0.26),
    Kind.HIATAL_HERNIA: (40.0, 60.0),
    Kind.CORONARY_CALCIFICATION: (3.5, 5.5),
    Kind.AORTIC_CALCIFICATION: (6.5, 12.5),
}
GRADES = ("small", "moderate", "large")


def find_severity(planted: Planted) -> str:
    """Grade a finding: small, moderate, large; empty where it is measured instead.

    Args:
        planted: The finding.
    """
    if planted.kind not in _GRADES:
        return ""
    amounts = {
        Kind.PLEURAL_EFFUSION: planted.volume_ml,
        Kind.CONSOLIDATION: planted.share,
        Kind.GROUND_GLASS: planted.share,
        Kind.EMPHYSEMA: planted.share,
        Kind.PNEUMOTHORAX: planted.share,
        Kind.PERICARDIAL_EFFUSION: planted.size_mm or 0.0,
    }
    amount = amounts.get(planted.kind, planted.finding.amount)
    return GRADES[int(np.searchsorted(_GRADES[planted.kind], amount))]


def reconstruct(study: Study, number: int) -> Hu:
    """Reconstruct a scan with one kernel: its sharpness and its own noise.

    The noise is drawn from a generator of its own, so it tells nothing of the findings.

    Args:
        study: The scan.
        number: Of the reconstruction, from 0.
    """
    scan = study.scan
    chance = np.random.default_rng([study.patient.seeds[0], ord(scan.name), number])
    white = chance.standard_normal(study.hu.shape, dtype=np.float32)
    hu = study.hu
    if scan.kernels[number] == "sharp":
        hu = hu + SHARPENING * (hu - ndimage.gaussian_filter(hu, 0.8))
        grain = white - 0.7 * ndimage.uniform_filter(white, 3)
        hu = hu + grain * np.float32(scan.noise_hu * SHARP_NOISE / 0.9)
    else:
        grain = ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(white, 0.6, 1), 0.6, 2)
        hu = hu + grain * np.float32(scan.noise_hu / max(float(grain.std()), 1e-6))
    hu = np.clip(hu, PADDING_HU, DENSEST_HU)
    hu[:, _find_outside(study.grid)] = PADDING_HU
    return np.rint(hu).astype(np.int16)


def _find_outside(grid: Grid) -> np.ndarray:
    """Find what lies outside the round field of view."""
    rows, columns = grid.shape[1:]
    y, x = (np.arange(n) - (n - 1) / 2 for n in (rows, columns))
    outside: np.ndarray = np.hypot(y[:, None], x[None]) > min(rows, columns) / 2
    return outside
