"""Fluid and air in the pleural space, and the lung that fluid presses together.

The patient lies on his back. Free fluid lies behind (dependent) and climbs along the chest wall in
a crescent; free air lies in front. Both take the place of lung inside that patient's own lung
mask, so they are bounded by his own pleura.

Sources: Moy et al., Chest 143:1054-1059, 2013 (fluid on CT is small, moderate or large by the share
of the side that it takes); Nandalur et al., Academic Radiology, 2005 (pleural fluid is about as
dense as water, transudates and exudates alike).
"""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from drrgen.cohort.canvas import Canvas, Drawn, Values
from drrgen.cohort.grid import Box
from drrgen.cohort.kinds import Finding, Side

FLUID_HU = (2.0, 18.0)
PRESSED_HU, PRESSED_ENHANCED_HU = 35.0, 45.0
PRESSED_SHARE = 0.35  # of the fluid's volume
CRESCENT_MM, CRESCENT_REACH_MM = 16.0, 9.0
TILT = 0.25  # the chest's back is lower towards the diaphragm, as a share of the way along z
MOST_FLUID = 0.6  # of the side
RIM_HU = -150.0  # less dense than fat
PLEURAL_LINE_HU = -550.0  # a membrane of a millimetre, averaged over a voxel


def draw_effusion(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw free fluid: behind, with a crescent along the chest wall.

    Args:
        canvas: The scan.
        finding: ``amount`` is the volume [ml]; ``side`` which.
        factor: On the volume, at this scan.
    """
    box, inside, rank = _rank(canvas, finding.side, sign=1)
    level = _find_level(canvas, inside, rank, finding.amount * factor)
    hu = canvas.hu[box]
    share = canvas.soften(rank - level) * inside
    mean = float(np.random.default_rng(finding.seed).uniform(*FLUID_HU))
    target = mean + 4 * canvas.make_texture(box, 10.0, finding.seed)
    return Drawn(box=box, share=share, hu=_submerge(hu, share, target))


def draw_pressed_lung(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw the airless rim of lung that floats on an effusion.

    Args:
        canvas: The scan.
        finding: ``amount`` is the volume of the fluid [ml]; ``side`` which.
        factor: On the volume, at this scan.
    """
    box, inside, rank = _rank(canvas, finding.side, sign=1)
    fluid = finding.amount * factor
    level = _find_level(canvas, inside, rank, fluid)
    rim = _find_level(canvas, inside, rank, fluid * (1 + PRESSED_SHARE))
    low = canvas.grid.crop(box).axes_mm()[0]
    caudal = np.clip(1.6 - 2.2 * (low - low.min()) / max(float(np.ptp(low)), 1.0), 0, 1)
    depth = np.minimum(rank - rim, level - rank)
    share = (canvas.soften(depth, 5.0) * inside * caudal).astype(np.float32)
    mean = PRESSED_HU + (PRESSED_ENHANCED_HU if canvas.contrast else 0)
    target = mean + 15 * canvas.make_texture(box, 6.0, finding.seed)
    return Drawn(box=box, share=share, hu=_submerge(canvas.hu[box], share, target))


def draw_pneumothorax(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw free air: in front, without vessels, behind a thin pleural line.

    Args:
        canvas: The scan.
        finding: ``amount`` is the share of the side that is air.
        factor: On the share, at this scan.
    """
    box, inside, rank = _rank(canvas, finding.side, sign=-1)
    # The rim of the lung mask holds chest wall: air does not take its place.
    inside = inside & (canvas.look_up("lung", box) > -0.5 * canvas.grid.pitch_mm)
    volume = float(inside.sum()) * canvas.grid.voxel_ml
    level = _find_level(canvas, inside, rank, finding.amount * factor * volume)
    hu = canvas.hu[box]
    depth = rank - level
    share = canvas.soften(depth) * inside
    air = np.where(canvas.look_up("lung", box) > 1.5, hu + share * (-1000 - hu), hu)
    line = np.clip(1 - np.abs(depth) / canvas.grid.pitch_mm, 0, 1) * inside * 0.7
    line = np.where(canvas.look_up("lung", box) > 3.0, line, 0)
    out = np.maximum(air, air + line * (PLEURAL_LINE_HU - air))
    return Drawn(box=box, share=share, hu=out.astype(np.float32))


def _rank(
    canvas: Canvas, side: Side | None, *, sign: int
) -> tuple[Box, Bool[np.ndarray, "z y x"], Values]:
    """Rank the voxels of a side by how soon fluid (sign 1) or air (sign -1) takes them [mm]."""
    lung = canvas.find_lung(side)
    z, y, x = ndimage.find_objects(lung.astype(np.uint8))[0]
    box = tuple(
        slice(max(0, s.start - 1), min(n, s.stop + 1))
        for s, n in zip((z, y, x), lung.shape, strict=True)
    )
    whole: Box = (box[0], box[1], box[2])
    z_mm, y_mm, _ = canvas.grid.crop(whole).axes_mm()
    near_pleura = np.exp(-np.maximum(canvas.look_up("lung", whole), 0) / CRESCENT_REACH_MM)
    rank = sign * y_mm + CRESCENT_MM * near_pleura - TILT * (z_mm - z_mm.min())
    # A voxel on the pleura is part air: it belongs to the space, but no chest wall does.
    rim = ndimage.binary_dilation(lung[whole], iterations=2) & (canvas.hu[whole] < RIM_HU)
    inside = (lung[whole] | rim) & ~canvas.find_any("trachea", "stomach", "colon", box=whole)
    return whole, inside, rank.astype(np.float32)


def _find_level(
    canvas: Canvas, inside: Bool[np.ndarray, "z y x"], rank: Values, volume_ml: float
) -> float:
    """Find the rank above which a side holds a volume."""
    ranks = rank[inside]
    wanted = min(volume_ml / canvas.grid.voxel_ml, MOST_FLUID * ranks.size)
    return float(np.partition(ranks, -max(1, round(wanted)))[-max(1, round(wanted))])


def _submerge(hu: Values, share: Values, target: Values) -> Values:
    """Put fluid or airless lung in the place of lung and its vessels; walls keep their edges."""
    lerp = hu + share * (target - hu)
    out: Values = np.where(hu < target, lerp, np.where(share > 0.5, np.minimum(hu, 80), hu))
    return out.astype(np.float32)
