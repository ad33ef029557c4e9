"""Every kind of finding lies where it belongs, and is as dense as it is published to be."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from drrgen.cohort.base import Base
from drrgen.cohort.canvas import Canvas, Drawn, make_canvas
from drrgen.cohort.findings import draw_finding
from drrgen.cohort.kinds import Finding, Kind, Side
from drrgen.cohort.patient import _collapse
from drrgen.cohort.shape import Shape, draw_shape

BALL_TOL = 0.25  # of the volume: voxels of 2.8 mm, and lobes on the ball


@pytest.fixture(scope="module")
def canvas(base: Base) -> Canvas:
    shape = draw_shape(np.random.default_rng(3), female=False, hyperinflated=False)
    return make_canvas(base, shape, contrast=False, anchors={})


def make(kind: Kind, amount: float, **more: object) -> Finding:
    return Finding(kind=kind, amount=amount, seed=5, **more)  # type: ignore[arg-type]


def draw(canvas: Canvas, finding: Finding, factor: float = 1.0) -> Drawn:
    drawn = draw_finding(replace_anchors(canvas), finding, factor)
    assert drawn is not None
    return drawn


def replace_anchors(canvas: Canvas) -> Canvas:
    return replace(canvas, anchors={})


def hu_of(drawn: Drawn, least: float = 0.95) -> np.ndarray:
    return drawn.hu[drawn.share >= least]


def center(canvas: Canvas, drawn: Drawn) -> np.ndarray:
    axes = canvas.grid.crop(drawn.box).axes_mm()
    total = drawn.share.sum()
    return np.array([(drawn.share * axis).sum() / total for axis in axes], dtype=float)


def lung_center(canvas: Canvas, side: Side) -> np.ndarray:
    index = np.argwhere(canvas.find_lung(side)).mean(axis=0)
    return np.array(canvas.grid.origin_mm) + index * canvas.grid.spacing_mm


@pytest.mark.parametrize("lobe", ["left upper lobe", "right middle lobe", "right lower lobe"])
def test_a_nodule_lies_in_its_lobe_and_not_in_the_mediastinum(canvas: Canvas, lobe: str) -> None:
    finding = make(Kind.NODULE, 14.0, place=lobe, variant="solid")
    drawn = draw(canvas, finding)
    lung = canvas.find_lung(None, box=drawn.box)
    assert drawn.share[lung].sum() > 0.98 * drawn.share.sum()
    z, y, x = center(canvas, drawn).tolist()
    assert canvas.find_lobe((z, y, x)) == lobe


def test_a_ball_has_the_volume_of_a_ball(canvas: Canvas) -> None:
    drawn = draw(canvas, make(Kind.NODULE, 20.0, place="right upper lobe", variant="solid"))
    volume = drawn.share.sum() * canvas.grid.voxel_ml
    assert volume == pytest.approx(np.pi / 6 * 2.0**3, rel=BALL_TOL)


def test_the_edge_of_a_nodule_is_soft(canvas: Canvas) -> None:
    drawn = draw(canvas, make(Kind.NODULE, 20.0, place="right upper lobe", variant="solid"))
    partial = (drawn.share > 0.05) & (drawn.share < 0.95)
    assert 0.3 < partial.sum() / (drawn.share >= 0.95).sum() < 4


@pytest.mark.parametrize(
    ("finding", "low", "high"),
    [
        (make(Kind.NODULE, 18.0, place="left upper lobe", variant="solid"), 0, 80),
        (make(Kind.NODULE, 18.0, place="left upper lobe", variant="ground-glass"), -750, -400),
        (make(Kind.NODULE, 18.0, place="left upper lobe", variant="calcified"), 200, 800),
        (make(Kind.MASS, 40.0, place="right lower lobe", variant="solid"), -10, 90),
        (make(Kind.CONSOLIDATION, 60.0, place="right lower lobe"), -80, 120),
        (make(Kind.GROUND_GLASS, 60.0, place="right lower lobe"), -800, -350),
        (make(Kind.EMPHYSEMA, 0.3), -1000, -950),
        (make(Kind.ATELECTASIS, 50.0, place="left lower lobe", variant="linear"), -60, 80),
        (make(Kind.PLEURAL_EFFUSION, 400.0, side=Side.LEFT), -10, 30),
        (make(Kind.PERICARDIAL_EFFUSION, 18.0), 0, 25),
        (make(Kind.LYMPHADENOPATHY, 20.0, place="right hilar"), 20, 60),
    ],
    ids=lambda value: f"{value.kind} {value.variant}" if isinstance(value, Finding) else "",
)
def test_planted_tissue_has_published_densities(
    canvas: Canvas, finding: Finding, low: float, high: float
) -> None:
    hu = hu_of(draw(canvas, finding))
    middle = np.percentile(hu, [15, 85])
    assert hu.size > 3
    assert low <= middle[0] <= middle[1] <= high


def test_contrast_medium_enhances_tissue_and_not_fluid(base: Base) -> None:
    shape = Shape()
    hu = {}
    for contrast in (False, True):
        canvas = make_canvas(base, shape, contrast=contrast, anchors={})
        mass = draw(canvas, make(Kind.MASS, 40.0, place="right lower lobe", variant="solid"))
        fluid = draw(canvas, make(Kind.PLEURAL_EFFUSION, 400.0, side=Side.LEFT))
        hu[contrast] = np.median(hu_of(mass)), np.median(hu_of(fluid))
        aorta = canvas.hu[canvas.labels == base.names["aorta"]]
        assert bool(np.median(aorta) > 250) is contrast
    assert hu[True][0] - hu[False][0] == pytest.approx(30, abs=3)
    assert hu[True][1] == pytest.approx(hu[False][1], abs=3)


@pytest.mark.parametrize("side", list(Side))
def test_fluid_lies_behind_in_its_own_side_and_has_the_volume_asked_for(
    canvas: Canvas, side: Side
) -> None:
    drawn = draw(canvas, make(Kind.PLEURAL_EFFUSION, 400.0, side=side))
    lung = ndimage.binary_dilation(canvas.find_lung(side), iterations=2)[drawn.box]
    assert drawn.share[~lung].sum() == 0
    assert drawn.share.sum() * canvas.grid.voxel_ml == pytest.approx(400, rel=0.05)
    assert center(canvas, drawn)[1] > lung_center(canvas, side)[1] + 30


def test_fluid_climbs_the_chest_wall_in_a_crescent(canvas: Canvas) -> None:
    drawn = draw(canvas, make(Kind.PLEURAL_EFFUSION, 500.0, side=Side.LEFT))
    depth = canvas.look_up("lung", drawn.box)
    y = canvas.grid.crop(drawn.box).axes_mm()[1] + np.zeros_like(depth)
    z = y.shape[0] // 3
    full = (drawn.share[z] > 0.5) & (depth[z] > 0)
    near, far = full & (depth[z] < 4), full & (depth[z] > 14)
    assert y[z][near].min() < y[z][far].min() - 5


def test_fluid_changes_no_bone(canvas: Canvas) -> None:
    drawn = draw(canvas, make(Kind.PLEURAL_EFFUSION, 500.0, side=Side.RIGHT))
    bone = canvas.find_any("rib", "vertebra", box=drawn.box) & (canvas.hu[drawn.box] > 200)
    np.testing.assert_array_equal(drawn.hu[bone], canvas.hu[drawn.box][bone])


@pytest.mark.parametrize("side", list(Side))
def test_free_air_lies_in_front(canvas: Canvas, side: Side) -> None:
    drawn = draw(canvas, make(Kind.PNEUMOTHORAX, 0.2, side=side))
    assert center(canvas, drawn)[1] < lung_center(canvas, side)[1] - 30
    lung = ndimage.binary_dilation(canvas.find_lung(side), iterations=2)[drawn.box]
    assert drawn.share[~lung].sum() == 0
    assert np.median(hu_of(drawn)) < -980


def test_pressed_lung_floats_on_its_fluid(canvas: Canvas) -> None:
    fluid = draw(canvas, make(Kind.PLEURAL_EFFUSION, 600.0, side=Side.LEFT))
    lung = make(Kind.ATELECTASIS, 600.0, side=Side.LEFT, variant="compressive")
    rim = draw(canvas, lung)
    assert fluid.box == rim.box
    assert (np.minimum(fluid.share, rim.share)).sum() < 0.35 * rim.share.sum()
    assert center(canvas, rim)[1] < center(canvas, fluid)[1]


def test_a_lobe_that_collapses_is_smaller_and_dense(base: Base) -> None:
    finding = make(Kind.ATELECTASIS, 0.5, place="left lower lobe", variant="lobar")
    plain = make_canvas(base, Shape(), contrast=False, anchors={})
    small = make_canvas(base, Shape(pulls=(_collapse(finding, base),)), contrast=False, anchors={})
    number = base.lobe_numbers["left lower lobe"]
    before, after = (np.count_nonzero(c.labels == number) for c in (plain, small))
    assert after < 0.75 * before
    assert np.median(hu_of(draw(small, finding))) > 0


def test_emphysema_is_worse_above_and_spares_the_wall(canvas: Canvas) -> None:
    drawn = draw(canvas, make(Kind.EMPHYSEMA, 0.25))
    lung = canvas.find_lung(None, box=drawn.box)
    share = drawn.share.sum() / lung.sum()
    assert share == pytest.approx(0.25, abs=0.08)
    third = drawn.share.shape[0] // 3
    assert drawn.share[-third:].sum() / lung[-third:].sum() > share
    assert drawn.share[~lung].sum() == 0


def test_pericardial_fluid_surrounds_the_heart_only(canvas: Canvas) -> None:
    drawn = draw(canvas, make(Kind.PERICARDIAL_EFFUSION, 15.0))
    distance = canvas.look_up("heart", drawn.box)
    inside = drawn.share > 0.5
    assert distance[inside].max() < 17
    assert distance[inside].min() > -4
    heart = canvas.find_any("heart", box=drawn.box)
    assert drawn.share[heart].sum() == 0


def test_nodes_spare_vessels_and_airways(canvas: Canvas) -> None:
    drawn = draw(canvas, make(Kind.LYMPHADENOPATHY, 22.0, place="subcarinal"))
    kept = canvas.find_any("aorta", "trachea", "heart", "vertebrae", box=drawn.box)
    assert drawn.share[kept].sum() == 0
    carina = canvas.deformation.find_in_patient(canvas.base.landmarks["carina"])
    assert np.linalg.norm(center(canvas, drawn) - carina) < 40


def test_gas_in_a_hernia_is_in_front_of_its_fluid(canvas: Canvas) -> None:
    drawn = draw(canvas, make(Kind.HIATAL_HERNIA, 60.0))
    y = canvas.grid.crop(drawn.box).axes_mm()[1] + np.zeros_like(drawn.share)
    inside = drawn.share > 0.9
    gas, fluid = (
        y[inside & (drawn.hu < -800)].mean(),
        y[inside & (np.abs(drawn.hu - 15) < 15)].mean(),
    )
    assert gas < fluid - 8
    heart = canvas.deformation.find_in_patient(canvas.base.landmarks["heart"])
    assert center(canvas, drawn)[1] > heart[1]


@pytest.mark.parametrize("artery", ["lad", "lcx", "rca"])
def test_coronary_calcium_lies_on_the_heart(canvas: Canvas, artery: str) -> None:
    drawn = draw(canvas, make(Kind.CORONARY_CALCIFICATION, 6.0, place=artery))
    bright = drawn.hu - canvas.hu[drawn.box] > 100
    heart = canvas.find_any("heart", box=drawn.box)
    distance = ndimage.distance_transform_edt(~heart, canvas.grid.spacing_mm)
    assert bright.any()
    assert distance[bright].max() < 12
    assert drawn.hu[bright].max() > 130  # the least that counts as calcium


def test_aortic_calcium_lies_in_the_wall(canvas: Canvas) -> None:
    drawn = draw(canvas, make(Kind.AORTIC_CALCIFICATION, 12.0))
    bright = drawn.hu - canvas.hu[drawn.box] > 100
    assert bright.any()
    assert np.abs(canvas.look_up("aorta", drawn.box)[bright]).max() < 5
    assert drawn.hu[bright].max() > 300


@pytest.mark.parametrize(("variant", "side"), [("pacemaker", Side.LEFT), ("port", Side.RIGHT)])
def test_material_lies_under_the_skin_of_its_side_and_reaches_the_heart(
    canvas: Canvas, variant: str, side: Side
) -> None:
    drawn = draw(canvas, make(Kind.MEDICAL_MATERIAL, 1.0, variant=variant, side=side))
    _, y, x = center(canvas, drawn)
    middle = canvas.deformation.find_in_patient(canvas.base.landmarks["carina"])
    assert bool(x > middle[2]) is (side is Side.LEFT)
    assert y < middle[1] - 40
    heart = canvas.find_any("heart", "superior_vena_cava", box=drawn.box)
    assert drawn.share[heart].max() > 0.2
    assert drawn.hu.max() > 1400


@pytest.mark.parametrize("kind", [Kind.NODULE, Kind.CONSOLIDATION])
def test_at_follow_up_a_finding_is_where_it_was(base: Base, kind: Kind) -> None:
    shape = draw_shape(np.random.default_rng(3), female=False, hyperinflated=False)
    finding = make(kind, 15.0, place="right lower lobe", variant="solid", course=(1.0, 1.5))
    anchors: dict[int, tuple[float, float, float]] = {}
    places = []
    for breath, factor in ((0.0, 1.0), (5.0, 1.5)):
        canvas = make_canvas(
            base, replace(shape, breath_mm=breath), contrast=False, anchors=anchors
        )
        drawn = draw_finding(canvas, finding, factor)
        assert drawn is not None
        z, y, x = center(canvas, drawn).tolist()
        places.append(canvas.deformation.find_in_base((z, y, x)))
    assert places[1] == pytest.approx(places[0], abs=4)


def test_a_finding_that_finds_no_room_is_not_there(canvas: Canvas) -> None:
    full = replace_anchors(canvas)
    full.hu = np.zeros_like(canvas.hu)
    nodule = make(Kind.NODULE, 10.0, place="left upper lobe", variant="solid")
    assert draw_finding(full, nodule, 1.0) is None
