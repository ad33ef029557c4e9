"""Two planted data sets: one that tells the labels of CT-RATE, and one those of RAD-ChestCT.

A vector has an axis for each label of CT-RATE, +1 where the finding is there and -1 where it is not,
and one more that is always 1: what is true can be read off, so that an AUROC below 1 is a fault.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from drrgen_training.evaluation.mappings import read_mapping
from drrgen_training.evaluation.prompts import read_prompts

CT_RATE = tuple(read_mapping("ct-rate").labels)
RAD = read_mapping("rad-chestct-15")
SPLITS = ("train", "dev", "test")
ARTERIAL, CORONARY = "Arterial wall calcification", "Coronary artery wall calcification"


def draw_findings(n: int, seed: int) -> dict[str, np.ndarray]:
    """Draw what patients have: each label of CT-RATE in about half of them."""
    random = np.random.default_rng(seed)
    return {name: random.integers(0, 2, n) for name in CT_RATE}


def tell_as_rad(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tell findings by the labels of RAD-ChestCT, by a rule of its own: there if any part is."""
    return {
        name: np.array([int(any(found[s][i] == 1 for s in sources)) for i in range(len(found[ARTERIAL]))])
        for name, sources in RAD.labels.items()
    }  # fmt: skip


def write_table(
    folder: Path, found: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray],
    split: np.ndarray, prefix: str, *, wrong: tuple[str, ...] = (), **columns: object,
) -> Path:  # fmt: skip
    """Write embeddings of what is found, and what is said of it.

    Args:
        folder: Gets the tables.
        found: What the vectors show, by label of CT-RATE; any numbers.
        labels: What is told to be there, by label.
        split: Split of each row.
        prefix: Of the names of rows and patients.
        wrong: Splits whose rows are told the opposite, so that learning from them is seen.
        columns: Columns that are other than these.
    """
    n = len(split)
    x = np.stack([*(2.0 * found[name] - 1 for name in CT_RATE), np.ones(n)], axis=1)
    lies = np.isin(split, wrong)
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({
        "name": [f"{prefix}{i}" for i in range(n)], "patient_id": [f"{prefix}p{i}" for i in range(n)],
        "split": split, "cxr": list(x),
        **{name: np.where(lies & (told >= 0), 1 - told, told) for name, told in labels.items()},
        **columns,
    }).to_parquet(folder / "rows.parquet")  # fmt: skip
    return folder


def write_prompts(folder: Path) -> Path:
    """Write sentences: presence is one way along the label's axis, absence the other."""
    prompts, axes = read_prompts("x2ct"), np.eye(len(CT_RATE) + 1)
    told = [
        (sentence, sign * axes[i]) for i, name in enumerate(CT_RATE)
        for sign, side in zip((1, -1), prompts.write(name), strict=True) for sentence in side
    ]  # fmt: skip
    frame = pd.DataFrame({"text": [t for t, _ in told], "embedding": [list(v) for _, v in told]})
    frame.to_parquet(folder / "prompts.parquet")
    return folder
