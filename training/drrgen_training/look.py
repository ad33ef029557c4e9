"""How far a training has come, by its development patients."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from drrgen.errors import InputError
from drrgen_training.batches import BatchMaker, encode, make_ahead
from drrgen_training.evaluation.retrieval import measure_retrieval
from drrgen_training.losses import Modality
from drrgen_training.model import TriModal
from drrgen_training.samples import plan_epoch
from drrgen_training.settings import TrainSettings

DEV_MOST = 2048  # studies looked at
_BATCH = 256


@torch.no_grad()
def look_at_dev(
    model: TriModal, dev: BatchMaker, settings: TrainSettings, device: torch.device
) -> tuple[float, float]:
    """Measure the mean reciprocal rank over all directions of the loss's terms, and chance.

    It tells models apart on a few patients, where Recall@10 is one for all of them.

    Args:
        model: To look at.
        dev: Makes batches of development patients.
        settings: The recipe.
        device: Where the model is.

    Raises:
        InputError: No two development samples have both sides of a term.
    """
    model.eval()
    size = min(settings.data.batch, _BATCH)
    planned = plan_epoch(
        dev.samples, key=settings.data.key, batch=size, seed=0, epoch=0, drop_rest=False
    )[: -(-DEV_MOST // size)]
    parts: list[dict[str, Tensor]] = []
    for batch in make_ahead(dev.make, planned):
        with choose_precision(settings, device):
            made = encode(model, batch, slice(0, len(batch)), device)
        parts.append({name: each.float().cpu() for name, each in made.items()})
    whole = {name: torch.cat([p[name] for p in parts]).numpy() for name in parts[0]}
    return _score(whole, np.concatenate(planned), dev, settings)


def _score(
    whole: dict[str, np.ndarray],
    rows: Int64[np.ndarray, " n"],
    dev: BatchMaker,
    settings: TrainSettings,
) -> tuple[float, float]:
    """Mean over both directions of each term, among samples that have both sides."""
    scores, chances = [], []
    identity = dev.make_identity(rows)
    for a, b, _ in settings.loss.weights.terms:
        chosen = identity.relate(a, b).chosen.numpy()
        if len(chosen) < 2:
            continue
        # The same report is the same thing to find, whoever's it is.
        report, study = identity.report.numpy()[chosen], identity.key.numpy()[chosen]
        key = report if Modality.REPORT in (a, b) else study
        left, right = whole[a][chosen], whole[b][chosen]
        for query, gallery in ((left, right), (right, left)):
            found = measure_retrieval(query, gallery, query_key=key, gallery_key=key)
            scores.append(found.reciprocal)
            chances.append(found.chance_reciprocal)
    if not scores:
        raise InputError(
            "the dev patients have no two samples with both sides of a term; give more of "
            "them, or another data.dev_share"
        )
    return float(np.mean(scores)), float(np.mean(chances))


def choose_precision(settings: TrainSettings, device: torch.device) -> AbstractContextManager[Any]:
    """Run encoders in bfloat16 where it is wanted and the device has it."""
    wanted = settings.run.bf16 and device.type == "cuda"
    if wanted and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()
