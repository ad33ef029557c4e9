"""Where numbers become Hounsfield units: the one place that rounds, and that doubts them."""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from drrgen.errors import Reason, VolumeError
from drrgen.volume import Hu

HU_CLIPPED = "hu_clipped"
MAX_AIR_HU = -200  # a CT shows air somewhere: lungs, or the room around the patient
MAX_LABELS = 256
_INT16 = np.iinfo(np.int16)
_WHOLE_LIMIT = 2**14  # times 65535, and once more added, fits int32
_FAR = 2**40
_LABEL_STRIDE = 997  # a prime, so that a look at a few voxels keeps no rhythm of the grid


def to_hu(
    stored: Shaped[np.ndarray, "z y x"], *, slope: float = 1.0, intercept: float = 0.0
) -> tuple[Hu, tuple[str, ...]]:
    """Turn stored values into int16 HU; int16 without a scale passes without a copy.

    Args:
        stored: Values as the file holds them.
        slope: HU per stored unit.
        intercept: HU of a stored zero [HU].

    Returns:
        HU, and ``hu_clipped`` among the warnings where int16 could not hold a value.

    Raises:
        VolumeError: ``nan_voxels``, a value is not finite.
    """
    plain = slope == 1.0 and intercept == 0.0
    if stored.dtype.newbyteorder("=") == np.int16 and plain:
        return np.ascontiguousarray(stored, dtype=np.int16), ()
    hu = _scale(stored, slope, intercept)
    low, high = hu.min(), hu.max()
    clipped = low < _INT16.min or high > _INT16.max
    if clipped:
        np.clip(hu, _INT16.min, _INT16.max, out=hu)
    return np.ascontiguousarray(hu.astype(np.int16)), ((HU_CLIPPED,) if clipped else ())


def _scale(stored: Any, slope: float, intercept: float) -> Any:
    """Apply a scale and round: whole numbers stay exact."""
    whole = all(float(x).is_integer() and abs(x) < _WHOLE_LIMIT for x in (slope, intercept))
    if stored.dtype.kind in "iub" and whole:
        if stored.dtype.itemsize > 4:  # beyond any HU, and the product must not run over
            stored = np.clip(stored, -_FAR if stored.dtype.kind == "i" else 0, _FAR)
        wide = stored.astype(np.int64 if stored.dtype.itemsize > 2 else np.int32)
        return wide * int(slope) + int(intercept)
    kind = np.float32 if stored.dtype.itemsize <= 4 else np.float64
    hu = np.rint(stored.astype(kind) * kind(slope) + kind(intercept))
    if not np.isfinite(hu).all():
        raise VolumeError(
            Reason.NAN_VOXELS,
            "",
            "found voxels that are not finite, wanted HU everywhere",
            remedy="write the CT again from its source, as int16",
        )
    return hu


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
        VolumeError: ``hu_suspect``, nothing is as light as air or lung.
    """
    low = int(hu.min())
    if low > MAX_AIR_HU:
        offset = "; they look like HU + 1024" if low >= 0 and hu.max() > MAX_LABELS else ""
        raise VolumeError(
            Reason.HU_SUSPECT,
            "",
            f"the smallest value is {low}, wanted air below {MAX_AIR_HU} HU{offset}",
            remedy="convert the CT again so that the rescale slope and intercept are applied",
        )
