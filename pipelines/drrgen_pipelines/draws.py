"""The pictures taken of a CT: a plain one of each view, and others drawn around it.

Every number that chance decides comes from the seed, the CT's own content, the view and the number
of the draw. So the same settings give the same pictures in any order on any machine, and the same
CT gives the same noise in whatever format it comes.
"""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np

from drrgen.choices import View
from drrgen.config import AugmentConfig, RenderConfig
from drrgen.physics.acquisitions import Acquisition
from drrgen.volume import CTVolume

Xyz = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One picture to be taken.

    Attributes:
        view: The named view.
        number: 0 for the plain picture.
        seed: Of all chance in this picture.
        config: The settings, as this draw varies them.
        shift_mm: How far the isocenter is moved, patient LPS [mm].
    """

    view: View
    number: int
    seed: int
    config: RenderConfig
    shift_mm: Xyz = (0.0, 0.0, 0.0)


def list_draws(
    render: RenderConfig,
    augment: AugmentConfig,
    presets: dict[View, Acquisition],
    mark: str,
) -> list[Draw]:
    """List the pictures of a CT: every view, each with its draws.

    Args:
        render: The settings.
        augment: How far draws wander.
        presets: The acquisition of each view, with what the settings override.
        mark: What tells the CT from others, see ``find_mark``.
    """
    return [
        _draw(render, augment, presets[view], mark, view, number)
        for view in render.view
        for number in range(render.views_per_ct)
    ]


def find_mark(volume: CTVolume) -> str:
    """Find what tells a CT from others, however its axes are stored.

    Its size, and the sum of the one or two slices in its middle.

    Args:
        volume: The CT.
    """
    axis, _ = volume.find_axis(2)
    n = volume.hu.shape[axis]
    middle = volume.hu.take(range((n - 1) // 2, n // 2 + 1), axis)
    return f"{sorted(volume.hu.shape)} {int(middle.sum(dtype=np.int64))}"


def _draw(
    render: RenderConfig,
    augment: AugmentConfig,
    preset: Acquisition,
    mark: str,
    view: View,
    number: int,
) -> Draw:
    """Make one draw; number 0 varies nothing."""
    seed = _find_seed(render.seed, mark, view, number)
    if number == 0:
        return Draw(view=view, number=0, seed=seed, config=render)
    random = np.random.default_rng(seed)

    def around(middle: float, reach: float) -> float:
        return float(middle + reach * random.uniform(-1, 1))

    rotation = [
        around(a, b) for a, b in zip(render.rotation_deg, augment.rotation_deg, strict=True)
    ]
    shift = [around(0, augment.shift_mm) for _ in range(3)]
    moved_mm = preset.sid_mm * around(0, augment.sid_share)
    kvp = preset.kvp * around(1, augment.kvp_share)
    dose = preset.dose_ugy * augment.dose_factor ** around(0, 1)
    config = dataclasses.replace(
        render,
        rotation_deg=(rotation[0], rotation[1], rotation[2]),
        # The source moves; patient and detector stay where they are.
        sid_mm=preset.sid_mm + moved_mm,
        sod_mm=preset.sod_mm + moved_mm,
        kvp=None if render.kev else float(np.clip(kvp, 50, 150)),
        dose_ugy=dose,
        brightness=float(np.clip(around(render.brightness, augment.brightness), -1, 1)),
        contrast=render.contrast * around(1, augment.contrast_share),
    )
    return Draw(
        view=view, number=number, seed=seed, config=config, shift_mm=(shift[0], shift[1], shift[2])
    )


def _find_seed(seed: int, mark: str, view: View, number: int) -> int:
    """Derive the seed of one picture."""
    text = f"{seed} {mark} {view.value} {number}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
