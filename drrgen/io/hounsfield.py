"""Where numbers become Hounsfield units: the one place that rounds, and that doubts them.

A file format seldom says whether its numbers are HU. The histogram does: a CT shows air (the
room, the lungs) near -1000 and fat and soft tissue near 0, a thousand apart. Where both lie
elsewhere, the scale was not applied, or applied twice.
"""

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped
from scipy import ndimage

from drrgen.errors import Reason, VolumeError
from drrgen.volume import AIR_HU, Hu

HU_CLIPPED = "hu_clipped"
PADDING_TO_AIR = "padding_to_air"
NAN_TO_AIR = "nan_to_air"
MAX_AIR_HU = -200  # a CT shows air somewhere: lungs, or the room around the patient
MIN_HU = -1100  # noise in air reaches this far down; below lies what makers put for "not imaged"
PADDING_HU = -1024  # the air that takes its place
MAX_LABELS = 256
MAX_NAN_SHARE = 1e-3

# Shares of all voxels. A chest CT has some 10 to 60 % of each; metal and bone stay below 2 %.
_AIR_HU, _MIN_AIR = (-1100, -600), 0.01
_SOFT_HU, _MIN_SOFT = (-200, 200), 0.02
_DENSE_HU, _MAX_DENSE = 800, 0.10
# What is added by a rescale that is missing (+) or applied twice (-): CT numbers from 0 on, and
# the unsigned files of CT-RATE.
_OFFSETS = (1024, 8192, 32768, -1024, -8192)  # 1000 passes for 1024
_CLIP_TOPS = (1000, 1023, 1024)
_BODY_HU = -500

_INT16 = np.iinfo(np.int16)
_WHOLE_LIMIT = 2**14  # times 65535, and once more added, fits int32
_FAR = 2**40
_LABEL_STRIDE = 997  # a prime, so that a look at a few voxels keeps no rhythm of the grid
_GLANCE_VOXELS = 200_000
_BLOCK_VOXELS = 2**20  # stays in the cache between two looks at it

_log = logging.getLogger(__name__)


class HuScale(StrEnum):
    """What the numbers of an image are, by their histogram."""

    HU = "hu"
    OFFSET = "offset"  # CT numbers, but the rescale was not applied
    DOUBLE = "double"  # the rescale was applied twice
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class HuVerdict:
    """What a histogram says of its numbers.

    Attributes:
        scale: What they are.
        offset: What they have too much [HU]; 0 where that is nothing or unknown.
        air: Share of voxels near air, once the offset is taken off.
        soft: Share of voxels near fat and soft tissue, likewise.
    """

    scale: HuScale
    offset: int = 0
    air: float = 0.0
    soft: float = 0.0


def to_hu(
    stored: Shaped[np.ndarray, "z y x"], *, slope: float = 1.0, intercept: float = 0.0
) -> tuple[Hu, tuple[str, ...]]:
    """Turn stored values into int16 HU; int16 without a scale passes without a copy.

    A few voxels that are not finite become air where they lie outside the body.

    Args:
        stored: Values as the file holds them.
        slope: HU per stored unit.
        intercept: HU of a stored zero [HU].

    Returns:
        HU, and among the warnings ``hu_clipped`` where int16 could not hold a value and
        ``nan_to_air`` where voxels were not finite.

    Raises:
        VolumeError: ``nan_voxels``, too many values are not finite, or one inside the body.
    """
    plain = slope == 1.0 and intercept == 0.0
    if stored.dtype == np.int16 and stored.dtype.isnative and plain:
        return np.ascontiguousarray(stored), ()
    hu = np.empty(stored.shape, np.int16)
    clipped, n_bad = False, 0
    for z in _list_blocks(stored):
        block = _scale(stored[z], slope, intercept)
        low, high = block.min(), block.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            bad = ~np.isfinite(block)
            n_bad += int(np.count_nonzero(bad))
            block[bad] = AIR_HU
            low, high = block.min(), block.max()
        if low < _INT16.min or high > _INT16.max:
            clipped = True
            np.clip(block, _INT16.min, _INT16.max, out=block)
        hu[z] = block
    words: tuple[str, ...] = (HU_CLIPPED,) if clipped else ()
    if n_bad:
        _check_not_finite(stored, hu, n_bad)
        words += (NAN_TO_AIR,)
    return hu, words


def _list_blocks(array: Shaped[np.ndarray, "z y x"]) -> list[slice]:
    """Cut an array along z into blocks that stay in the cache."""
    step = max(1, _BLOCK_VOXELS // max(1, array[0].size)) if len(array) else 1
    return [slice(z, z + step) for z in range(0, len(array), step)]


def _scale(stored: Any, slope: float, intercept: float) -> Any:
    """Apply a scale and round: whole numbers stay exact."""
    whole = all(float(x).is_integer() and abs(x) < _WHOLE_LIMIT for x in (slope, intercept))
    if stored.dtype.kind in "iub" and whole:
        if stored.dtype.itemsize > 4:  # beyond any HU, and the product must not run over
            stored = np.clip(stored, -_FAR if stored.dtype.kind == "i" else 0, _FAR)
        wide = stored.astype(np.int64 if stored.dtype.itemsize > 2 else np.int32)
        wide *= int(slope)
        wide += int(intercept)
        return wide
    kind = np.float32 if stored.dtype.itemsize <= 4 else np.float64
    with np.errstate(over="ignore", invalid="ignore"):
        hu = stored.astype(kind)
        if slope != 1.0:
            hu *= kind(slope)
        if intercept != 0.0:
            hu += kind(intercept)
        return np.rint(hu, out=hu)


def _check_not_finite(stored: Shaped[np.ndarray, "z y x"], hu: Hu, n_bad: int) -> None:
    """Refuse voxels without a value unless they are few and lie outside the body."""
    if n_bad >= MAX_NAN_SHARE * hu.size:
        raise _refuse_nan(f"found {n_bad} voxels of {hu.size} that are not finite")
    for z in range(len(stored)):
        bad = ~np.isfinite(stored[z]) if stored.dtype.kind == "f" else np.zeros(0, bool)
        if bad.any() and (bad & _find_inside(hu[z])).any():
            raise _refuse_nan("found voxels that are not finite inside the body")


def _find_inside(plane: Shaped[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """Find what the skin encloses in a slice; a skin of one voxel may have gaps of one."""
    skin = ndimage.binary_dilation(plane > _BODY_HU, np.ones((3, 3)))
    inside: Bool[np.ndarray, "y x"] = ndimage.binary_fill_holes(skin)
    return inside


def _refuse_nan(detail: str) -> VolumeError:
    """Make the error of voxels without a value."""
    return VolumeError(
        Reason.NAN_VOXELS, "", f"{detail}, wanted HU everywhere",
        remedy="write the CT again from its source, as int16",
    )  # fmt: skip


def clean_hu(hu: Hu) -> tuple[str, ...]:
    """Turn padding into air, in place, where the values are HU beyond doubt.

    Padding is what lies below -1100 HU: outside the round field of view makers put -2000 or -3024.
    Values whose scale is in doubt stay as they are, for ``check_hounsfield`` to judge: a CT that
    was rescaled twice has its air there.

    Args:
        hu: Values just read, changed in place.

    Returns:
        ``padding_to_air`` where there was padding, ``hu_clipped`` where bone ends at 1000 HU.
    """
    if judge_hounsfield(hu).scale is not HuScale.HU:
        return ()
    count, top = 0, int(_INT16.min)
    for z in _list_blocks(hu):
        block = hu[z]
        top = max(top, int(block.max()))
        if block.min() < MIN_HU:
            count += int(np.count_nonzero(block < MIN_HU))
            # Between the two lies noise of air, which attenuates as little.
            np.maximum(block, PADDING_HU, out=block)
    if count:
        _log.debug("turned %d voxels of padding into air", count)
    words = (PADDING_TO_AIR,) if count else ()
    return (*words, HU_CLIPPED) if _is_clipped(_glance(hu), top) else words


def _is_clipped(glance: Shaped[np.ndarray, "n"], top: int) -> bool:
    """Say whether bone ends in a spike at a number that people clip at."""
    if top not in _CLIP_TOPS:
        return False
    spike = np.count_nonzero(glance == top)
    return bool(spike > np.count_nonzero((glance >= top - 20) & (glance < top)))


def _glance(hu: Hu) -> Shaped[np.ndarray, "n"]:
    """Take some of the voxels, spread over all of the volume."""
    stride = max(1, hu.size // _GLANCE_VOXELS)
    return hu.reshape(-1)[:: stride + 1 - stride % 2]  # odd: rows have even lengths


def judge_hounsfield(hu: Hu) -> HuVerdict:
    """Tell from the histogram whether values are HU, lack their rescale or had it twice.

    Args:
        hu: Values as read [HU, if it is a CT].

    Example:
        >>> from drrgen.phantoms import make_torso
        >>> judge_hounsfield(make_torso(spacing_mm=8.0).hu + np.int16(1024)).offset
        1024
    """
    glance = _glance(hu).astype(np.int32)
    counts = np.bincount(glance - _INT16.min, minlength=2**16)
    below = np.concatenate([[0], np.cumsum(counts)]) / glance.size

    def share(low: int, high: int) -> float:
        """Share of voxels from low up to high, high left out."""
        ends = [min(max(hu - _INT16.min, 0), 2**16) for hu in (low, high)]
        return float(
            (below[ends[1] - 1] if ends[1] else 0) - (below[ends[0] - 1] if ends[0] else 0)
        )

    def look(offset: int) -> tuple[bool, float, float]:
        """Look for air and soft tissue, an offset away from where HU have them."""
        air = share(_AIR_HU[0] + offset, _AIR_HU[1] + offset)
        soft = share(_SOFT_HU[0] + offset, _SOFT_HU[1] + offset)
        dense = share(_DENSE_HU + offset, 2**16)
        return air >= _MIN_AIR and soft >= _MIN_SOFT and dense <= _MAX_DENSE, air, soft

    fits, air, soft = look(0)
    if fits:
        return HuVerdict(scale=HuScale.HU, air=air, soft=soft)
    best = max(_OFFSETS, key=lambda offset: (look(offset)[0], sum(look(offset)[1:])))
    fits, air, soft = look(best)
    if not fits:
        return HuVerdict(scale=HuScale.UNKNOWN)
    scale = HuScale.OFFSET if best > 0 else HuScale.DOUBLE
    return HuVerdict(scale=scale, offset=best, air=air, soft=soft)


def is_label_map(hu: Hu) -> bool:
    """Say whether the values are labels of structures: small whole numbers from 0, mostly 0.

    A CT stored with an offset also starts at 0, but has many more values than a label map.

    Args:
        hu: Values as read [HU, if it is a CT].
    """
    glance = hu.reshape(-1)[::_LABEL_STRIDE]
    if glance.min() < 0 or glance.max() >= MAX_LABELS:
        return False
    if hu.min() < 0 or hu.max() >= MAX_LABELS:
        return False
    # Neighbours in a label map are nearly always alike; noise in an image makes them differ.
    changes = np.count_nonzero(hu[:, :, 1:] != hu[:, :, :-1])
    return bool(changes < hu.size / 4)


def check_hounsfield(hu: Hu) -> None:
    """Refuse values that cannot be Hounsfield units.

    Args:
        hu: Values as read [HU, if it is a CT].

    Raises:
        VolumeError: ``hu_suspect``, air and soft tissue are not where HU have them;
            ``hu_double_rescaled``, they lie as far below as a rescale applied twice takes them.
    """
    verdict = judge_hounsfield(hu)
    if verdict.scale is HuScale.HU:
        return
    if verdict.scale is HuScale.DOUBLE:
        raise VolumeError(
            Reason.HU_DOUBLE_RESCALED, "",
            f"air and soft tissue lie {-verdict.offset} HU too low, wanted -1000 and 0 HU; the "
            "rescale was applied twice",
            remedy="write the CT again with slope and intercept applied once; the fixed files "
            "of CT-RATE hold HU and need no CSV",
        )  # fmt: skip
    low = int(hu.min())
    told = f"the smallest value is {low}, wanted air below {MAX_AIR_HU} HU"
    if verdict.scale is HuScale.OFFSET:
        told = (
            f"air and soft tissue lie {verdict.offset} HU too high, wanted -1000 and 0 HU; they "
            f"look like HU + {verdict.offset}"
        )
    elif low <= MAX_AIR_HU:
        told = "found no air near -1000 HU beside soft tissue near 0 HU, which every CT has"
    raise VolumeError(
        Reason.HU_SUSPECT, "", told,
        remedy="convert the CT again so that the rescale slope and intercept are applied (the "
        "first files of CT-RATE have them in the metadata CSV); another modality is no CT",
    )  # fmt: skip
