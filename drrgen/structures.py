"""Structures of a label map: where a CT shows an organ, a bone or a finding.

A structure is a small volume of its own, 1 inside and 0 outside, cut out around it. It lies in the
patient like any CT, so the renderer projects it as it is: whatever grid the label map has, no
resampling to the CT's grid is needed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import ndimage

from drrgen.volume import CTVolume, Hu, Matrix4

MIN_INSIDE = 0.95  # of a label map's structures, by their corners: else it is of another CT


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Structure:
    """One labelled thing.

    Attributes:
        name: As the label table names it.
        label: Its number in the label map.
        volume: 1 inside, 0 outside, with a margin of one voxel where the label map has one.
    """

    name: str
    label: int
    volume: CTVolume


def cut_structures(
    labels: Hu, patient_from_voxel: Matrix4, names: Mapping[int, str]
) -> list[Structure]:
    """Cut every structure out of a label map.

    Args:
        labels: A number a voxel; 0 and less is nothing.
        patient_from_voxel: Its grid.
        names: Names by number; others are called ``label_<number>``.
    """
    highest = int(labels.max(initial=0))
    boxes = ndimage.find_objects(np.maximum(labels, 0), highest) if highest else []
    return [
        _cut(labels, box, label, names.get(label, f"label_{label}"), patient_from_voxel)
        for label, box in enumerate(boxes, start=1)
        if box is not None
    ]


def lies_inside(structures: list[Structure], volume: CTVolume) -> bool:
    """Say whether structures lie where the CT is, so that they can belong to it.

    Args:
        structures: Structures of one label map.
        volume: The CT.
    """
    inside = list(_find_shares_inside(structures, volume))
    return bool(inside) and float(np.mean(inside)) >= MIN_INSIDE


def _find_shares_inside(structures: list[Structure], volume: CTVolume) -> Iterator[float]:
    """Find what share of each structure's corners lies inside the CT's grid."""
    count = np.array(volume.hu.shape[::-1])
    for structure in structures:
        index = _to_index(volume.voxel_from_patient, structure.volume.corners_mm)
        # The margin of a voxel may reach beyond the CT.
        reach = 1 + max(structure.volume.spacing_zyx_mm) / min(volume.spacing_zyx_mm)
        good = (index > -0.5 - reach) & (index < count - 0.5 + reach)
        yield float(good.all(axis=1).mean())


def _cut(
    labels: Hu, box: tuple[slice, ...], label: int, name: str, patient_from_voxel: Matrix4
) -> Structure:
    """Cut one structure out, with its margin, and say where it lies."""
    grown = tuple(
        slice(max(0, s.start - 1), min(n, s.stop + 1))
        for s, n in zip(box, labels.shape, strict=True)
    )
    matrix = patient_from_voxel.copy()
    first = np.array([s.start for s in grown[::-1]], dtype=float)
    matrix[:3, 3] += matrix[:3, :3] @ first
    inside = (labels[grown] == label).astype(np.int16)
    return Structure(name=name, label=label, volume=CTVolume(hu=inside, patient_from_voxel=matrix))


def _to_index(
    voxel_from_patient: Matrix4, points: Float64[np.ndarray, "n 3"]
) -> Float64[np.ndarray, "n 3"]:
    """Carry points from the patient to voxel coordinates."""
    return points @ voxel_from_patient[:3, :3].T + voxel_from_patient[:3, 3]
