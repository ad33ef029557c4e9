import numpy as np
import pytest
import torch

from drrgen.geometry.detector import Detector
from drrgen.geometry.pose import make_pose
from drrgen.phantoms import make_box, make_grid
from drrgen.physics.materials import Basis
from drrgen.renderer.render import render
from drrgen.structures import cut_structures, lies_inside
from drrgen.volume import CTVolume

INSIDE = Basis(names=("inside",), knots_hu=np.array([0.0, 1.0]), amounts=np.array([[0.0, 1.0]]))
SUM_TOL_MM = 1e-3  # float32 sums
PANEL = Detector(sid_mm=1800, pitch_mm=8.0, rows=40, columns=40)


@pytest.fixture
def labels() -> CTVolume:
    random = np.random.default_rng(1)
    values = np.zeros((30, 32, 34), dtype=np.int16)
    values[5:20, 6:18, 7:22] = 3
    values[10:25, 12:32, 20:34] = 7  # up to the end of the grid
    values[2:4] = np.where(random.random((2, 32, 34)) > 0.9, 9, 0)
    return CTVolume(hu=values, patient_from_voxel=make_grid(values.shape, (3.0, 4.0, 5.0)))


def test_a_structure_cut_out_projects_like_the_whole_label_map(labels: CTVolume) -> None:
    pose = make_pose("PA", isocenter_mm=(0, 0, 0), sod_mm=1600, rotation_deg=(3, 4, 25))
    for structure in cut_structures(labels.hu, labels.patient_from_voxel, {3: "liver"}):
        whole = CTVolume(
            hu=(labels.hu == structure.label).astype(np.int16),
            patient_from_voxel=labels.patient_from_voxel,
        )
        cut, expected = (
            render(volume, PANEL, [pose], basis=INSIDE) for volume in (structure.volume, whole)
        )
        assert float(expected.max()) > 0
        assert torch.allclose(cut, expected, atol=SUM_TOL_MM)


def test_names_come_from_the_table_and_others_get_their_number(labels: CTVolume) -> None:
    found = cut_structures(labels.hu, labels.patient_from_voxel, {3: "liver", 4: "absent"})
    assert [(s.label, s.name) for s in found] == [(3, "liver"), (7, "label_7"), (9, "label_9")]


def test_nothing_is_cut_out_of_an_empty_map(labels: CTVolume) -> None:
    assert cut_structures(np.zeros_like(labels.hu), labels.patient_from_voxel, {}) == []


def test_a_label_map_on_a_finer_grid_belongs_to_its_ct_and_one_elsewhere_does_not() -> None:
    ct = make_box((200, 200, 200), 4.0, hu=0)
    fine = make_box((160, 160, 160), 1.5, hu=1)
    moved = fine.patient_from_voxel.copy()
    moved[0, 3] += 150
    near = cut_structures(fine.hu, fine.patient_from_voxel, {})
    assert lies_inside(near, ct)
    assert not lies_inside(cut_structures(fine.hu, moved, {}), ct)
