"""A made-up data set that can be learnt: CT, radiograph and report of a patient tell the same.

Each patient has a mark on the left or right, high or low, small or large: a bright block in the CT,
its mean along y as the radiograph, a sentence as the report.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ct_files import write_ct
from datasets import make_good_row, write_dataset
from drrgen_training.model import BEST, TriModal, save_model
from drrgen_training.settings import read_settings

from drrgen.io.radiographs import write_radiograph
from drrgen.manifest import Row
from drrgen.volume import CTVolume

SIDES = ("left", "right")
HEIGHTS = ("upper", "lower")
SIZES = ("small", "large")
SPACING_MM = 8.0
SHAPE = (24, 24, 32)  # z y x


def describe(number: int) -> tuple[str, str, str]:
    """What a patient has."""
    return SIDES[number % 2], HEIGHTS[number // 2 % 2], SIZES[number // 4 % 2]


def make_hu(number: int, seed: int) -> np.ndarray:
    """HU of a patient."""
    side, height, size = describe(number)
    random = np.random.default_rng([number, seed])
    hu = random.normal(-700, 20, SHAPE)
    half = 3 if size == "large" else 2
    z = (6 if height == "lower" else 17) + random.integers(-1, 2)
    x = (24 if side == "left" else 8) + random.integers(-1, 2)
    hu[z - half : z + half, 8:16, x - half : x + half] = 600
    return np.clip(hu, -1024, 3071).astype(np.int16)


def make_rows(number: int, views: Sequence[str], split: str) -> list[Row]:
    """The rows of a patient's one study."""
    side, height, size = describe(number)
    name = f"s{number:03d}"
    return [
        make_good_row(
            f"{name}", view=view, patient_id=f"p{number:03d}", study_id=f"e{number:03d}",
            split=split, cxr_path=f"images/{name}_{view}.png", cxr_sha256=f"{number:064d}",
            ct_ref=f"{name}.nii.gz", ct_format="nifti", ct_sha256=f"ct{number}", ct_bytes=1,
            hu_source="header",
            report_findings=f"There is a {size} mass in the {height} lobe of the {side} lung.",
            report_impression="Not given." if number % 3 else f"Mass on the {side}.",
            labels=[{"name": "Left mass", "value": int(side == "left")},
                    {"name": "Upper mass", "value": int(height == "upper")}],
        )
        for view in views
    ]  # fmt: skip


def write_trainable(
    root: Path, *, n: int = 24, views: Sequence[str] = ("PA",), splits: dict[int, str] | None = None,
    with_ct: bool = False, first: int = 0, labels: Mapping[int, Sequence[Any]] | None = None,
    **changes: Any,
) -> Path:  # fmt: skip
    """Write CT and a finished data set.

    Args:
        root: Gets ``CXR`` and, ``with_ct``, ``CT``.
        n: Patients.
        views: A picture each; all but the first one are noisier.
        splits: Split of some patients; train for the others.
        with_ct: Also write the CT.
        first: Number of the first patient.
        labels: Labels of some patients, in the place of their own.
        changes: Columns that are other in every row.

    Returns:
        The data set's folder.
    """
    rows = []
    for number in range(first, first + n):
        made = make_rows(number, views, (splits or {}).get(number, "train"))
        told = {"labels": labels[number]} if labels and number in labels else {}
        hu = make_hu(number, 0)
        for i, row in enumerate(made):
            image = torch.from_numpy(hu.mean(axis=1).astype(np.float32))
            image = ((image + 900) / 600).clamp(0, 1).flip(0)
            noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(number + i))
            write_radiograph(
                root / "CXR" / row["cxr_path"], image * (1 - 0.1 * i) + 0.1 * i * noise
            )
            rows.append(row | told | changes)
        if with_ct:
            (root / "CT").mkdir(exist_ok=True)
            matrix = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
            write_ct(
                CTVolume(hu=hu, patient_from_voxel=matrix), root / "CT" / f"s{number:03d}.nii.gz"
            )
    return write_dataset(root / "CXR", rows)


def write_run(run: Path, *words: str) -> Path:
    """Write a training of random weights that sees radiographs and CT.

    Args:
        run: Its folder.
        words: Settings that are other.
    """
    settings = read_settings(None, ("model.cxr=tiny:32", "model.dim=256", "optim.epochs=2",
                                    "data.batch=8", "model.report=none", "loss.beta=0",
                                    "loss.scale=fixed", "loss.scale_value=10.0", *words))  # fmt: skip
    torch.manual_seed(0)
    save_model(run / BEST, TriModal(settings).own_state(), settings, {})
    (run / "config.toml").write_text(settings.to_toml())
    return run
