"""A linear head fitted by AdamW: the probe that X2CT-CLIP's few-shot numbers are of.

Binary cross-entropy of logits without class weights, and the best state by the loss of held-out
patients. Learning rate, epochs and batch changed over time in its scripts, and which made its table
is unknown; these are of one version. Unlike there each label stops by itself, the patients that
stop it are drawn as those that choose the penalty of ``probe.fit_probe``, and it starts from zero.

A head that starts from sentences says before its first step what zero-shot says (text-informed
probes: arXiv 2409.03868, 2506.17500).
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

RATE = 5e-2
EPOCHS = 100
BATCH = 4096  # rows; fewer where there are fewer
DECAY = 0.01  # of weights and bias
PATIENCE = 20  # epochs without a smaller loss of the held-out rows


def fit_head(
    x: Float[np.ndarray, "m e"],
    y: Int64[np.ndarray, " m"],
    held: Bool[np.ndarray, " m"],
    seen: Float[np.ndarray, "n e"],
    *,
    start: Float[np.ndarray, " e"] | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> Float64[np.ndarray, " n"]:
    """Fit one label, and score other rows.

    Args:
        x: Unit vectors to learn from.
        y: 1 and 0.
        held: Rows that choose the epoch, and are not learnt from; of none, it is the last one.
        seen: Vectors to score.
        start: Weights before the first step; zero for None. The bias starts from zero.
        epochs: Epochs at most.
        seed: Seed of the order of rows, where they do not fit one batch.

    Returns:
        Probabilities.
    """
    first = np.zeros(x.shape[1]) if start is None else start
    weight = torch.tensor(np.append(first, 0.0), dtype=torch.float64, requires_grad=True)
    rows, told = _add_ones(x), torch.from_numpy(y).double()
    learnt, waiting = torch.from_numpy(~held), torch.from_numpy(held)
    best, least, waited = weight.detach().clone(), math.inf, 0
    for state in _step(weight, rows[learnt], told[learnt], epochs, seed):
        if not held.any():
            best = state
            continue
        loss = float(_measure_loss(state, rows[waiting], told[waiting]))
        waited = 0 if loss < least else waited + 1
        best, least = (state, loss) if loss < least else (best, least)
        if waited == PATIENCE:
            break
    return torch.sigmoid(_add_ones(seen) @ best).numpy()


def _step(weight: Tensor, rows: Tensor, told: Tensor, epochs: int, seed: int) -> Iterator[Tensor]:
    """Step, and yield what the weights are before the first epoch and after each."""
    optimizer = torch.optim.AdamW([weight], lr=RATE, weight_decay=DECAY)
    random = torch.Generator().manual_seed(seed)
    yield weight.detach().clone()
    for _ in range(epochs):
        for batch in torch.randperm(len(rows), generator=random).split(BATCH):
            optimizer.zero_grad()
            _measure_loss(weight, rows[batch], told[batch]).backward()
            optimizer.step()
        yield weight.detach().clone()


def _measure_loss(weight: Tensor, rows: Tensor, told: Tensor) -> Tensor:
    """Measure the binary cross-entropy."""
    return functional.binary_cross_entropy_with_logits(rows @ weight, told)


def _add_ones(x: Float[np.ndarray, "m e"]) -> Float64[Tensor, "m e1"]:
    """Add a column of ones, whose weight is the bias."""
    return torch.from_numpy(np.concatenate([x, np.ones((len(x), 1))], axis=1, dtype=np.float64))
