"""Findings of the lung tissue: nodules, masses, opacities, emphysema, atelectasis.

Sources: Hansell et al., Fleischner Society: Glossary of Terms for Thoracic Imaging, Radiology
246:697-722, 2008 (what each is: ground glass leaves vessels visible, consolidation does not);
MacMahon et al., Radiology 284:228-243, 2017 (solid and subsolid nodules; 30 mm and more is a mass);
Gevenois et al., Am J Respir Crit Care Med 154:187-192, 1996 (emphysema below -950 HU). Airless
tissue is as dense as muscle; ground glass is put between aerated lung (-850 HU) and that.
"""

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from scipy import ndimage

from drrgen.cohort.canvas import Canvas, Drawn, Values
from drrgen.cohort.grid import Box, Zyx
from drrgen.cohort.kinds import Finding, Kind

SOLID_HU, ENHANCED_HU = (20.0, 50.0), 30.0  # without contrast medium; what it adds
GROUND_GLASS_HU = (-680.0, -480.0)
CALCIFIED_HU = (300.0, 700.0)
EMPHYSEMA_HU = (-985.0, -960.0)
AERATED_HU = (-960.0, -600.0)  # where a finding of the lung is planted: neither air nor fluid
NODULE_MARGIN_MM = 3.0
PLATE_MM = (3.5, 7.0)


def draw_nodule(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw a nodule or a mass: a ball with lobes, all of it inside the lung.

    Args:
        canvas: The scan.
        finding: ``amount`` is the diameter [mm]; ``variant`` solid, ground-glass or calcified.
        factor: On the diameter, at this scan.
    """
    chance = np.random.default_rng(finding.seed)
    size_mm = finding.amount * factor
    largest_mm = finding.amount * max(finding.course)
    margin = NODULE_MARGIN_MM if finding.kind is Kind.NODULE else -0.1 * largest_mm
    place = _find_place(canvas, finding, chance, largest_mm / 2 + margin)
    box = canvas.box_around(place, size_mm) if place else None
    if place is None or box is None:
        return None
    waves = 0.14 if finding.kind is Kind.MASS else 0.08
    depth = _make_ball(canvas, box, place, size_mm / 2, waves, chance)
    share = canvas.soften(depth) * _inside_lung(canvas, box)
    mean = _draw_hu(canvas, finding.variant, chance)
    target = mean + 10 * canvas.make_texture(box, 6.0, finding.seed)
    return Drawn(box=box, share=share, hu=_fill(canvas.hu[box], share, target), size_mm=size_mm)


def draw_opacity(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw a consolidation or a ground-glass opacity: ragged, bounded by the fissures.

    Vessels and airway walls stay: only what is less dense than the opacity changes.

    Args:
        canvas: The scan.
        finding: ``amount`` is the diameter [mm]; ``place`` the lobe.
        factor: On the diameter, at this scan.
    """
    chance = np.random.default_rng(finding.seed)
    radius = finding.amount * factor / 2
    place = _find_place(canvas, finding, chance, 5.0)
    box = canvas.box_around(place, 1.5 * radius) if place else None
    if place is None or box is None:
        return None
    z, y, x = canvas.offsets(box, place)
    distance = np.sqrt((z / 1.2) ** 2 + y**2 + x**2)
    ragged = canvas.make_texture(box, 14.0, finding.seed)
    depth = radius - distance + 0.28 * radius * ragged
    edge_mm = 6.0 if finding.kind is Kind.CONSOLIDATION else 14.0
    lobe = canvas.labels[box] == canvas.base.lobe_numbers[finding.place]
    share = canvas.soften(depth.astype(np.float32), edge_mm)
    share = share * ndimage.binary_dilation(lobe) * _inside_lung(canvas, box)
    grain = canvas.make_texture(box, 5.0, finding.seed + 1)
    if finding.kind is Kind.CONSOLIDATION:
        target = _draw_hu(canvas, "solid", chance) + 12 * grain
        share = share * np.clip(0.96 - 0.12 * np.maximum(grain - 1, 0), 0, 1)  # air bronchograms
    else:
        target = _draw_hu(canvas, "ground-glass", chance) + 45 * grain
    return Drawn(
        box=box,
        share=share.astype(np.float32),
        hu=_fill(canvas.hu[box], share, target),
        size_mm=2 * radius,
    )


def draw_emphysema(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw centrilobular emphysema: holes without vessels, more of them above.

    Args:
        canvas: The scan.
        finding: ``amount`` is the share of the lungs that is lost.
        factor: On the share, at this scan.
    """
    lungs = canvas.find_lung(None)
    box = _bound(lungs)
    inside = lungs[box]
    chance = np.random.default_rng(finding.seed)
    z = canvas.grid.crop(box).axes_mm()[0]
    above = (z - z.min()) / max(float(np.ptp(z)), 1.0)
    holes = canvas.make_texture(box, 7.0, finding.seed) + 1.4 * above
    threshold = np.quantile(holes[inside][::7], 1 - finding.amount * factor)
    share = np.clip((holes - threshold) / 0.5 + 0.5, 0, 1) * inside
    share = (share * np.clip(canvas.look_up("lung", box) / 3, 0, 1)).astype(np.float32)
    target = np.float32(chance.uniform(*EMPHYSEMA_HU))
    hu = canvas.hu[box]
    lower = np.minimum(hu, hu + share * (target - hu))
    return Drawn(box=box, share=share, hu=np.where(hu < -300, lower, hu))


def draw_atelectasis(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw atelectasis: a plate, a collapsed lobe, or lung that fluid has pressed together.

    Args:
        canvas: The scan; a collapsed lobe is small in it already.
        finding: ``variant`` says which; ``amount`` is the plate's length [mm].
        factor: On the length, at this scan.
    """
    if finding.variant == "linear":
        return _draw_plate(canvas, finding, factor)
    chance = np.random.default_rng(finding.seed)
    lobe = canvas.labels == canvas.base.lobe_numbers[finding.place]
    if not lobe.any():
        return None
    box = canvas.grid.find_box(_corners(canvas, lobe), 3.0)
    if box is None:
        return None
    inside = ndimage.binary_dilation(lobe[box]).astype(np.float32)
    share = ndimage.gaussian_filter(inside, 0.6) * ~canvas.find_any("heart", "aorta", box=box)
    mean = _draw_hu(canvas, "solid", chance) + (40 if canvas.contrast else 0)
    target = mean + 12 * canvas.make_texture(box, 8.0, finding.seed)
    return Drawn(box=box, share=share, hu=_fill(canvas.hu[box], share, target))


def _draw_plate(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw a plate of atelectasis, nearly level, low in a lobe."""
    chance = np.random.default_rng(finding.seed)
    place = _find_place(canvas, finding, chance, 6.0, low=True)
    radius = finding.amount * factor / 2
    box = canvas.box_around(place, radius + 8) if place else None
    if place is None or box is None:
        return None
    normal = np.array([1.0, *chance.normal(0, 0.35, 2)])
    normal /= np.linalg.norm(normal)
    z, y, x = canvas.offsets(box, place)
    height = z * normal[0] + y * normal[1] + x * normal[2]
    height = height + 2.0 * canvas.make_texture(box, 20.0, finding.seed)
    across = np.sqrt(np.maximum(z**2 + y**2 + x**2 - height**2, 0))
    half = chance.uniform(*PLATE_MM) / 2
    depth = np.minimum(half - np.abs(height), radius - across)
    share = canvas.soften(depth.astype(np.float32)) * _inside_lung(canvas, box)
    hu = _fill(canvas.hu[box], share, _draw_hu(canvas, "solid", chance))
    return Drawn(box=box, share=share, hu=hu, size_mm=2 * radius)


def _find_place(
    canvas: Canvas, finding: Finding, chance: Generator, depth_mm: float, *, low: bool = False
) -> Zyx | None:
    """Find where a finding sits: where it was before, else in aerated lung of its lobe."""
    known = canvas.recall(finding.seed)
    if known is not None:
        return known
    places = list(canvas.candidates(chance, finding.place, depth_mm))
    if low:
        places.sort()
    for place in places:
        index = canvas.grid.to_index(place)
        around = tuple(slice(max(0, i - 2), i + 3) for i in index)
        aerated = AERATED_HU[0] < float(np.median(canvas.hu[around])) < AERATED_HU[1]
        if aerated and canvas.find_lobe(place) == finding.place:
            canvas.remember(finding.seed, place)
            return place
    return None


def _make_ball(
    canvas: Canvas, box: Box, place: Zyx, radius: float, waves: float, chance: Generator
) -> Values:
    """Make the depth below the surface of a ball whose radius varies with the direction [mm]."""
    z, y, x = canvas.offsets(box, place)
    distance = np.sqrt(z**2 + y**2 + x**2)
    safe = np.maximum(distance, 1e-3)
    swell = np.zeros_like(distance)
    for turns in (2.0, 3.0, 5.0):
        axis = chance.normal(size=3)
        axis *= turns / np.linalg.norm(axis)
        along = (z * axis[0] + y * axis[1] + x * axis[2]) / safe
        swell += np.sin(along + chance.uniform(0, 2 * np.pi))
    ripple = np.clip(1 + waves * swell / 1.5, 0.7, 1.3)
    return (radius * ripple - distance).astype(np.float32)


def _draw_hu(canvas: Canvas, variant: str, chance: Generator) -> float:
    """Draw the density of a lung finding [HU]."""
    if variant == "calcified":
        return float(chance.uniform(*CALCIFIED_HU))
    if variant == "ground-glass":
        return float(chance.uniform(*GROUND_GLASS_HU))
    return float(chance.uniform(*SOLID_HU)) + (ENHANCED_HU if canvas.contrast else 0.0)


def _inside_lung(canvas: Canvas, box: Box) -> Values:
    """Find the share of every voxel that is lung, soft at the pleura."""
    return np.clip((canvas.look_up("lung", box) + 1.0) / 2.0, 0, 1)


def _fill(hu: Values, share: Values, target: float | Float[np.ndarray, "z y x"]) -> Values:
    """Fill with something denser; what is denser still stays, and so do its edges."""
    filled: Values = np.maximum(hu, hu + share * (target - hu)).astype(np.float32)
    return filled


def _bound(mask: np.ndarray) -> Box:
    """Find the box around all voxels of a mask."""
    (z, y, x) = ndimage.find_objects(mask.astype(np.uint8))[0]
    return z, y, x


def _corners(canvas: Canvas, mask: np.ndarray) -> np.ndarray:
    """Find two corners of the box around a mask, patient (z, y, x) [mm]."""
    box = _bound(mask)
    ends = np.array([[s.start for s in box], [s.stop - 1 for s in box]], dtype=float)
    return np.array(canvas.grid.origin_mm) + ends * canvas.grid.spacing_mm
