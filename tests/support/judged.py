"""A model to judge: its vectors tell a label, and who it is."""

import numpy as np
from drrgen_training.evaluation.embedded import Embedded
from drrgen_training.evaluation.prompts import read_prompts


def make_model(name: str = "good", noise: float = 0.1, seed: int = 0, n: int = 90) -> Embedded:
    """Vectors that tell a label on the first axis, and who it is on the others."""
    random = np.random.default_rng(7)
    who, label = random.normal(size=(n, 14)), random.integers(0, 2, n)
    split = np.where(
        np.arange(n) < n // 2, "train", np.where(np.arange(n) < 3 * n // 5, "dev", "test")
    )
    base = np.concatenate([(6.0 * label - 3)[:, None], np.ones((n, 1)), who], axis=1)

    def embed(seed: int) -> np.ndarray:
        x = base + noise * np.random.default_rng(seed).normal(size=base.shape)
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    present, absent = np.zeros(16, np.float32), np.zeros(16, np.float32)
    present[0], absent[0] = 1, -1
    sentences = dict(zip(read_prompts("x2ct").write_all(["Cyst"]), (present, absent), strict=True))
    return Embedded(
        model=name, names=tuple(f"r{i}" for i in range(n)), patient=np.arange(n), study=np.arange(n),
        report=np.arange(n), split=split, labels={"Cyst": label}, prompts=sentences, scale=10.0,
        vectors={"cxr": embed(10 + seed), "ct": embed(20), "report": embed(30)},
    )  # fmt: skip
