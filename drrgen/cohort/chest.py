"""Findings of the heart, the vessels, the mediastinum, and things that were put in.

Sources: Agatston et al., J Am Coll Cardiol 15:827-832, 1990 (calcium from 130 HU); Bogaert and
Francone, Radiology 267:340-356, 2013 (fluid in the pericardium is as dense as water, and moderate
from 10 mm on); Rusch et al., J Thorac Oncol 4:568-577, 2009 (the map of lymph node stations).
"""

from itertools import pairwise

import numpy as np
from scipy import ndimage

from drrgen.cohort.canvas import Canvas, Drawn, Values, find_skin_mm
from drrgen.cohort.grid import Box, Zyx
from drrgen.cohort.kinds import Finding

PERICARDIAL_HU = (5.0, 18.0)
NODE_HU, NODE_ENHANCED_HU = (30.0, 45.0), 35.0
CALCIUM_HU = (450.0, 1000.0)
METAL_HU = 3000.0
GAS_HU, FOOD_HU, WALL_HU = -950.0, 15.0, 40.0
# From the carina, along z, y, x [mm]: IASLC stations 4R, 7, 10R, 10L, 3A, 5.
STATIONS: dict[str, Zyx] = {
    "right lower paratracheal": (12.0, -4.0, -15.0),
    "subcarinal": (-18.0, 8.0, 2.0),
    "right hilar": (-22.0, 4.0, -36.0),
    "left hilar": (-18.0, 10.0, 36.0),
    "prevascular": (14.0, -40.0, 10.0),
    "aortopulmonary window": (2.0, -8.0, 24.0),
}
_KEPT = ("heart", "aorta", "trachea", "vertebrae", "rib", "sternum", "esophagus", "superior_vena",
         "liver", "spleen", "brachiocephalic", "pulmonary_vein", "spinal")  # fmt: skip


def draw_cardiomegaly(canvas: Canvas, _finding: Finding, _factor: float) -> Drawn | None:
    """Mark the heart, which the deformation has made large already."""
    heart = canvas.labels == canvas.base.names["heart"]
    z, y, x = ndimage.find_objects(heart.astype(np.uint8))[0]
    box: Box = (z, y, x)
    return Drawn(box=box, share=heart[box].astype(np.float32), hu=canvas.hu[box].copy())


def draw_pericardial_effusion(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw a shell of fluid around the heart, thicker behind, where lung and fat give way.

    Args:
        canvas: The scan.
        finding: ``amount`` is the largest thickness [mm].
        factor: On the thickness, at this scan.
    """
    thickness = finding.amount * factor
    heart = canvas.labels == canvas.base.names["heart"]
    where = ndimage.find_objects(heart.astype(np.uint8))[0]
    ends = np.array([[s.start for s in where], [s.stop for s in where]], dtype=float)
    corners = np.array(canvas.grid.origin_mm) + ends * canvas.grid.spacing_mm
    box = canvas.grid.find_box(corners, thickness + 4)
    if box is None:
        return None
    middle = corners.mean(axis=0)
    z, y, x = canvas.offsets(box, (middle[0], middle[1], middle[2]))
    behind = y / np.maximum(np.sqrt(z**2 + y**2 + x**2), 1.0)
    out = canvas.look_up("heart", box)
    depth = np.minimum(thickness * (0.7 + 0.3 * behind) - out, out + 1.5)
    hu = canvas.hu[box]
    gives_way = (hu < 70) & ~canvas.find_any(*_KEPT, "costal", "stomach", "colon", box=box)
    below_vessels = np.clip((corners[1, 0] - 12 - canvas.grid.crop(box).axes_mm()[0]) / 10, 0, 1)
    share = (canvas.soften(depth) * gives_way * below_vessels).astype(np.float32)
    target = np.float32(np.random.default_rng(finding.seed).uniform(*PERICARDIAL_HU))
    return Drawn(box=box, share=share, hu=hu + share * (target - hu), size_mm=thickness)


def draw_node(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw an enlarged lymph node beside the airways; vessels and airways stay.

    Args:
        canvas: The scan.
        finding: ``amount`` is the short axis [mm]; ``place`` the station.
        factor: On the axis, at this scan.
    """
    chance = np.random.default_rng(finding.seed)
    short = finding.amount * factor
    carina = np.array(canvas.base.landmarks["carina"])
    point = carina + STATIONS[finding.place] + chance.normal(0, 1.5, 3)
    place = canvas.deformation.find_in_patient((point[0], point[1], point[2]))
    box = canvas.box_around(place, 1.2 * short)
    if box is None:
        return None
    long_ = chance.uniform(1.2, 1.6)
    z, y, x = canvas.offsets(box, place)
    distance = np.sqrt((z / long_) ** 2 + y**2 + x**2)
    depth = (short / 2) * (1 + 0.08 * canvas.make_texture(box, 8.0, finding.seed)) - distance
    hu = canvas.hu[box]
    target = chance.uniform(*NODE_HU) + (NODE_ENHANCED_HU if canvas.contrast else 0)
    gives_way = (hu < target) & ~canvas.find_any(*_KEPT, box=box)
    share = canvas.soften(depth.astype(np.float32)) * gives_way
    return Drawn(
        box=box,
        share=share,
        hu=(hu + share * (np.float32(target) - hu)).astype(np.float32),
        size_mm=short,
    )


def draw_hernia(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw a hiatal hernia: stomach behind the heart, its gas in front of its fluid.

    Args:
        canvas: The scan.
        finding: ``amount`` is the diameter [mm].
        factor: On the diameter, at this scan.
    """
    chance = np.random.default_rng(finding.seed)
    size = finding.amount * factor
    hiatus = np.array(canvas.base.landmarks["esophagus_bottom"])
    base_point = hiatus + np.array([size / 2 + 4, 18.0, -8.0])
    place = canvas.deformation.find_in_patient((base_point[0], base_point[1], base_point[2]))
    box = canvas.box_around(place, 0.75 * size)
    if box is None:
        return None
    z, y, x = canvas.offsets(box, place)
    distance = np.sqrt((z / 1.15) ** 2 + (y / 0.85) ** 2 + x**2)
    depth = (size / 2 * (1 + 0.05 * canvas.make_texture(box, 20.0, finding.seed))) - distance
    kept = [name for name in _KEPT if name != "esophagus"]
    gives_way = ~canvas.find_any(*kept, box=box) & (canvas.hu[box] < 120)
    share = (canvas.soften(depth.astype(np.float32)) * gives_way).astype(np.float32)
    level = np.float32(chance.uniform(-0.3, 0.05) * size)
    gas = canvas.soften(np.minimum(level - y, depth - 4.0).astype(np.float32))
    target = np.where(depth > 4.0, FOOD_HU, WALL_HU)
    target = target + gas * (GAS_HU - target)
    hu = canvas.hu[box]
    return Drawn(
        box=box, share=share, hu=(hu + share * (target - hu)).astype(np.float32), size_mm=size
    )


def draw_coronary_calcium(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw beads of calcium along a coronary artery, on the heart's surface.

    Args:
        canvas: The scan.
        finding: ``amount`` is the number of beads; ``place`` lad, lcx or rca.
        factor: On the number, at this scan.
    """
    chance = np.random.default_rng(finding.seed)
    path = [canvas.base.landmarks[f"{finding.place}_{i}"] for i in range(_count(canvas, finding))]
    beads = []
    for _ in range(max(1, round(finding.amount * factor))):
        at = chance.uniform(0, len(path) - 1.001)
        start, end = np.array(path[int(at)]), np.array(path[int(at) + 1])
        middle = start + (end - start) * (at % 1)
        half = (end - start) / np.linalg.norm(end - start) * chance.uniform(1.5, 5.0)
        beads.append((middle - half, middle + half, chance.uniform(1.0, 2.0)))
    segments = [(_move(canvas, a), _move(canvas, b), radius) for a, b, radius in beads]
    return _draw_tubes(canvas, segments, float(chance.uniform(*CALCIUM_HU)))


def draw_aortic_calcium(canvas: Canvas, finding: Finding, factor: float) -> Drawn | None:
    """Draw plaques of calcium in the wall of the aorta.

    Args:
        canvas: The scan.
        finding: ``amount`` is the number of plaques.
        factor: On the number, at this scan.
    """
    chance = np.random.default_rng(finding.seed)
    base = canvas.base
    grid = base.coarse_grid
    wall = np.abs(base.fields["aorta"]) < grid.pitch_mm / 2
    heart = grid.to_index(base.landmarks["heart"])[0]
    wall[: max(0, heart - 12)] = False  # the thoracic aorta
    places = np.flatnonzero(wall)
    count = max(1, round(finding.amount * factor))
    picked = chance.choice(places, 40, replace=False)[:count]
    index = np.stack(np.unravel_index(picked, wall.shape), axis=1)
    points = np.array(grid.origin_mm) + index * grid.spacing_mm
    moved = np.array([_move(canvas, point) for point in points])
    box = canvas.grid.find_box(moved, 10.0)
    if box is None:
        return None
    near = np.full(canvas.grid.crop(box).shape, -np.inf, dtype=np.float32)
    for point in moved:
        z, y, x = canvas.offsets(box, (point[0], point[1], point[2]))
        near = np.maximum(near, chance.uniform(3, 8) - np.sqrt(z**2 + y**2 + x**2))
    wall_mm = chance.uniform(1.2, 2.2)  # thickness of a plaque
    sheet = np.clip(1.2 - np.abs(canvas.look_up("aorta", box)) / canvas.grid.pitch_mm, 0, 1)
    partial = min(1.0, wall_mm / canvas.grid.pitch_mm)
    share = (canvas.soften(near) * sheet * partial).astype(np.float32)
    share = share * ~canvas.find_any("vertebrae", "rib", box=box)
    hu = canvas.hu[box]
    target = np.float32(chance.uniform(*CALCIUM_HU))
    return Drawn(box=box, share=share, hu=np.maximum(hu, hu + share * (target - hu)))


def draw_material(canvas: Canvas, finding: Finding, _factor: float) -> Drawn | None:
    """Draw a pacemaker with its leads, or a port with its catheter.

    Args:
        canvas: The scan.
        finding: ``variant`` pacemaker or port; ``side`` where its pocket is.
    """
    marks = canvas.base.landmarks
    vein = marks[f"brachiocephalic_vein_{finding.side}"]
    pocket = np.array(marks[f"pocket_{finding.side}"])
    inner = pocket + np.array([4.0, 12.0, 0.0])
    way = [inner, np.array(vein), np.array(marks["superior_vena_cava_top"])]
    way += [np.array(marks["superior_vena_cava"]), np.array(marks["right_atrium"])]
    pacemaker = finding.variant == "pacemaker"
    if pacemaker:
        way.append(np.array(marks["right_ventricle"]))
    radius = 1.2 if pacemaker else 1.0
    points = [_move(canvas, point) for point in way]
    segments = [(a, b, radius) for a, b in pairwise(points)]
    drawn = _draw_tubes(
        canvas, segments, METAL_HU if pacemaker else 1500.0, also=_move(canvas, pocket)
    )
    return _add_pocket(canvas, drawn, _move(canvas, pocket), pacemaker=pacemaker) if drawn else None


def _add_pocket(canvas: Canvas, drawn: Drawn, skin: Zyx, *, pacemaker: bool) -> Drawn:
    """Add the generator or the port under the skin."""
    z, _, x = canvas.offsets(drawn.box, skin)
    below = canvas.grid.crop(drawn.box).axes_mm()[1] - find_skin_mm(canvas, drawn.box)[:, None, :]
    half, thick, deep = (22.0, 8.0, 7.0) if pacemaker else (13.0, 10.0, 6.0)
    round_ = half - np.sqrt(z**2 + x**2)
    depth = np.minimum(round_, thick / 2 - np.abs(below - deep - thick / 2)).astype(np.float32)
    share = canvas.soften(depth)
    target = np.float32(METAL_HU if pacemaker else 1800.0)
    return Drawn(
        box=drawn.box,
        share=np.maximum(share, drawn.share),
        hu=np.maximum(drawn.hu, drawn.hu + share * (target - drawn.hu)),
        size_mm=None,
    )


def _count(canvas: Canvas, finding: Finding) -> int:
    """Count the waypoints of an artery."""
    return sum(key.startswith(f"{finding.place}_") for key in canvas.base.landmarks)


def _move(canvas: Canvas, point: np.ndarray) -> Zyx:
    """Carry a point of the real CT to the patient."""
    return canvas.deformation.find_in_patient((float(point[0]), float(point[1]), float(point[2])))


def _draw_tubes(
    canvas: Canvas, segments: list[tuple[Zyx, Zyx, float]], target: float, also: Zyx | None = None
) -> Drawn | None:
    """Draw rods; those thinner than a voxel fill the share of it that is theirs."""
    ends = np.array([end for segment in segments for end in segment[:2]] + ([also] if also else []))
    box = canvas.grid.find_box(ends, 30.0 if also else 5.0)
    if box is None:
        return None
    share = np.zeros(canvas.grid.crop(box).shape, dtype=np.float32)
    for start, end, radius in segments:
        _add_rod(canvas, box, share, (start, end), radius)
    hu = canvas.hu[box]
    return Drawn(box=box, share=share, hu=np.maximum(hu, hu + share * (np.float32(target) - hu)))


def _add_rod(canvas: Canvas, box: Box, share: Values, ends: tuple[Zyx, Zyx], radius: float) -> None:
    """Add a rod to the shares of a box: a bell across, with the rod's cross-section in all."""
    near = canvas.grid.find_box(np.array(ends), 3 * canvas.grid.pitch_mm)
    if near is None:
        return
    cut = tuple(
        slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(near, box, strict=True)
    )
    inner: Box = (cut[0], cut[1], cut[2])
    if any(s.start >= s.stop for s in inner):
        return
    start = np.array(ends[0])
    along = np.array(ends[1]) - start
    length = max(float(np.linalg.norm(along)), 1e-3)
    z, y, x = canvas.offsets(inner, (start[0], start[1], start[2]))
    at = np.clip((z * along[0] + y * along[1] + x * along[2]) / length**2, 0, 1)
    distance2 = (z - at * along[0]) ** 2 + (y - at * along[1]) ** 2 + (x - at * along[2]) ** 2
    sigma2 = (0.45 * canvas.grid.pitch_mm) ** 2 + (radius / 2) ** 2
    bell = np.minimum(1.0, radius**2 / (2 * sigma2) * np.exp(-distance2 / (2 * sigma2)))
    offset = [s.start - b.start for s, b in zip(inner, box, strict=True)]
    where = tuple(slice(o, o + s.stop - s.start) for o, s in zip(offset, inner, strict=True))
    share[where] = np.maximum(share[where], bell)
