"""A radiograph encoder trained on labels alone, from scratch: what alignment has to beat."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from drrgen.errors import InputError
from drrgen_training.batches import make_ahead, read_shrunk
from drrgen_training.encoders import ImageEncoder, make_image_encoder
from drrgen_training.loop import find_rate
from drrgen_training.model import decay_groups
from drrgen_training.pictures import Pictures, augment
from drrgen_training.settings import OptimSettings, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedSettings:
    """How it is trained; no label but those it is given is looked at, so nothing is chosen by any.

    Attributes:
        encoder: See ``drrgen_training.encoders``.
        steps: Steps; a step is a batch.
        batch: Radiographs in a batch; fewer where there are fewer.
        lr: Learning rate; warm-up over a twentieth of the steps, then half a cosine.
        weight_decay: Weight decay of matrices.
        crop: As in ``settings.DataSettings``.
        brightness: Likewise.
        contrast: Likewise.
        seed: Seed of weights, order and augmentation.
    """

    encoder: str = "tiny"
    steps: int = 400
    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05
    crop: float = 0.15
    brightness: float = 0.1
    contrast: float = 0.2
    seed: int = 0


class Classifier(nn.Module):
    """An encoder, and a logit for each label."""

    def __init__(self, encoder: ImageEncoder, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, labels)

    def forward(self, grey: Float[Tensor, "b v u"]) -> Float[Tensor, "b l"]:
        """Classify."""
        logits: Tensor = self.head(self.encoder(grey))
        return logits


def fit_supervised(
    pictures: Pictures,
    rows: Int64[np.ndarray, " m"],
    labels: Mapping[str, Int64[np.ndarray, " n"]],
    settings: SupervisedSettings,
    device: str = "cpu",
) -> Classifier:
    """Train a classifier of labels from scratch; a label that a row does not tell costs nothing.

    Args:
        pictures: Of all rows.
        rows: Which of them to train on.
        labels: 1, 0, or anything else for unknown, of all rows, by label.
        settings: How.
        device: Where.

    Raises:
        InputError: There is no row, or no label.
    """
    if not len(rows) or not labels:
        raise InputError(
            f"{len(rows)} radiographs with {len(labels)} labels to train on; wanted some of each"
        )
    torch.manual_seed(settings.seed)
    model = Classifier(make_image_encoder(settings.encoder), len(labels)).to(device).train()
    truth = torch.from_numpy(np.stack([labels[name] for name in labels], axis=1)).float()
    optimizer = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=settings.lr)
    rates = OptimSettings(lr=1.0, schedule=Schedule.COSINE, warmup_steps=settings.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: find_rate(rates, step, settings.steps)
    )
    for seen, told in make_ahead(
        lambda step: _draw(pictures, rows, truth, model.encoder.spec.size, settings, step),
        range(settings.steps),
    ):
        loss = _known_loss(model(seen.to(device).float() / 255), told.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def _draw(
    pictures: Pictures,
    rows: Int64[np.ndarray, " m"],
    truth: Float[Tensor, "n l"],
    size: int,
    settings: SupervisedSettings,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Draw a batch; what is drawn hangs on the seed and the step alone."""
    random = np.random.default_rng([settings.seed, step])
    drawn = np.sort(random.choice(rows, min(settings.batch, len(rows)), replace=False))
    generator = torch.Generator().manual_seed(int(random.integers(2**62)))
    seen = augment(
        pictures.read(drawn), size, crop=settings.crop, brightness=settings.brightness,
        contrast=settings.contrast, generator=generator,
    )  # fmt: skip
    return seen, truth[drawn]


def _known_loss(logits: Float[Tensor, "b l"], truth: Float[Tensor, "b l"]) -> Float[Tensor, ""]:
    """Binary cross-entropy over the labels that are told."""
    known = (truth == 0) | (truth == 1)
    losses = functional.binary_cross_entropy_with_logits(
        logits, truth.clamp(0, 1), reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


@torch.no_grad()
def classify(
    model: Classifier, pictures: Pictures, n: int, device: str = "cpu"
) -> tuple[Float32[np.ndarray, "n l"], Float32[np.ndarray, "n k"]]:
    """Probabilities and unit features of the first N pictures."""
    scores, features = [], []
    for seen in read_shrunk(pictures, n, model.encoder.spec.size):
        made = model.encoder(seen.to(device).float() / 255)
        scores.append(torch.sigmoid(model.head(made)).cpu().numpy())
        features.append(functional.normalize(made, dim=-1).cpu().numpy())
    return np.concatenate(scores), np.concatenate(features)
