from dataclasses import replace

import numpy as np
import pytest

from drrgen.choices import View
from drrgen.cohort.base import Base
from drrgen.cohort.canvas import Canvas, make_canvas
from drrgen.cohort.findings import draw_finding
from drrgen.cohort.kinds import Finding, Kind
from drrgen.cohort.shape import draw_shape
from drrgen.cohort.visibility import (
    PIXEL_MM,
    SID_MM,
    SOD_MM,
    VIEWS,
    find_shadows,
    make_room,
    project_center,
)
from drrgen.renderer.render import render
from drrgen.volume import CTVolume

PLACE_TOL_PX = 0.5  # of 3 mm, behind a ball with lobes
WATER_PER_MM = 0.0206  # at the energy of the line integrals


@pytest.fixture(scope="module")
def canvas(base: Base) -> Canvas:
    shape = draw_shape(np.random.default_rng(11), female=True, hyperinflated=False)
    return make_canvas(base, shape, contrast=False, anchors={})


@pytest.mark.parametrize("lobe", ["left upper lobe", "right lower lobe"])
def test_a_nodule_is_seen_where_its_mask_says(canvas: Canvas, lobe: str) -> None:
    finding = Finding(kind=Kind.NODULE, amount=18.0, place=lobe, variant="solid", seed=3)
    drawn = draw_finding(replace(canvas, anchors={}), finding, 1.0)
    assert drawn is not None
    crop = canvas.grid.crop(drawn.box)
    z, y, x = (float((drawn.share * axis).sum() / drawn.share.sum()) for axis in crop.axes_mm())
    room = make_room(canvas.hu, canvas.grid)
    shadows = find_shadows(room, crop, canvas.hu[drawn.box], drawn.hu)
    for view, shadow in zip(VIEWS, shadows, strict=True):
        assert shadow.center_uv == pytest.approx(
            project_center(room, view, (z, y, x)), abs=PLACE_TOL_PX
        )
        # The chord of a ball is 2/3 of its diameter on average; at half its height, more.
        thickest = 18.0 * WATER_PER_MM
        assert 0.5 * thickest < shadow.contrast < thickest
        assert shadow.contrast_to_noise > 0.5


def test_a_nodule_on_the_left_is_seen_on_the_right_of_a_pa(canvas: Canvas) -> None:
    room = make_room(canvas.hu, canvas.grid)
    z, y, x = canvas.grid.center_mm
    middle = project_center(room, View.PA, (z, y, x))
    left = project_center(room, View.PA, (z, y, x + 50))
    assert left[0] - middle[0] == pytest.approx(50 * SID_MM / SOD_MM / PIXEL_MM, abs=1e-6)


def test_what_the_part_shows_is_what_the_whole_ct_would(canvas: Canvas) -> None:
    finding = Finding(kind=Kind.MASS, amount=40.0, place="right lower lobe", seed=3)
    drawn = draw_finding(replace(canvas, anchors={}), finding, 1.0)
    assert drawn is not None
    room = make_room(canvas.hu, canvas.grid)
    (pa, _) = find_shadows(room, canvas.grid.crop(drawn.box), canvas.hu[drawn.box], drawn.hu)
    whole = []
    for part in (canvas.hu[drawn.box], drawn.hu):
        hu = canvas.hu.copy()
        hu[drawn.box] = part
        volume = CTVolume(hu=np.rint(hu).astype(np.int16), patient_from_voxel=canvas.grid.matrix)
        whole.append(render(volume, room.panel, [room.poses[0]])[0, 0].numpy())
    difference = whole[1] - whole[0]
    core = difference > 0.5 * difference.max()
    assert pa.contrast == pytest.approx(float(difference[core].mean()), rel=0.02)


def test_air_shows_as_less(canvas: Canvas) -> None:
    finding = Finding(kind=Kind.EMPHYSEMA, amount=0.4, seed=3)
    drawn = draw_finding(canvas, finding, 1.0)
    assert drawn is not None
    room = make_room(canvas.hu, canvas.grid)
    for shadow in find_shadows(room, canvas.grid.crop(drawn.box), canvas.hu[drawn.box], drawn.hu):
        assert shadow.contrast < 0


def test_what_changes_nothing_cannot_be_seen(canvas: Canvas) -> None:
    room = make_room(canvas.hu, canvas.grid)
    box = (slice(50, 60), slice(50, 60), slice(50, 60))
    for shadow in find_shadows(room, canvas.grid.crop(box), canvas.hu[box], canvas.hu[box]):
        assert shadow.contrast == shadow.contrast_to_noise == 0
