"""The contrastive loss of three modalities, and how to take its gradient on a small memory.

``L = alpha L(C, R) + beta L(X, R) + gamma L(X, C)`` with C the CT, X the radiograph, R the report.
Each term compares all pairs of a batch: it pulls positives together and pushes all others apart,
except those that are *ignored*, which it does not look at.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from drrgen.errors import ConfigError, InputError

CLIP_SCALE = 1 / 0.07  # Radford et al. 2021, the start of a learned temperature
MAX_SCALE = 100.0  # a learned scale beyond it makes training unstable, ibid.
SIGLIP_SCALE, SIGLIP_BIAS = 10.0, -10.0  # Zhai et al. 2023, section 3.2

Embeddings = dict[str, Tensor]


class Modality(StrEnum):
    """What an embedding is of."""

    CT = "ct"
    CXR = "cxr"
    REPORT = "report"


class Scale(StrEnum):
    """Where the factor of the cosines (one over the temperature) comes from."""

    FROZEN = "frozen"  # the one that the CT encoder was trained with
    LEARNED = "learned"
    FIXED = "fixed"  # a number of the settings


class LossKind(StrEnum):
    """Which contrastive loss."""

    INFONCE = "infonce"
    SIGLIP = "siglip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Weights of the three terms.

    Attributes:
        alpha: CT and report.
        beta: Radiograph and report.
        gamma: Radiograph and CT.

    Raises:
        ConfigError: A weight is negative or not finite, or all are zero.
    """

    alpha: float = 0.0
    beta: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        values = (self.alpha, self.beta, self.gamma)
        if not all(math.isfinite(w) and w >= 0 for w in values) or not any(values):
            raise ConfigError(
                f"alpha, beta, gamma: got {values}, wanted numbers from 0, not all of them 0"
            )

    @property
    def terms(self) -> tuple[tuple[Modality, Modality, float], ...]:
        """The terms that count."""
        every = (
            (Modality.CT, Modality.REPORT, self.alpha),
            (Modality.CXR, Modality.REPORT, self.beta),
            (Modality.CXR, Modality.CT, self.gamma),
        )
        return tuple(term for term in every if term[2] > 0)

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that any of them needs."""
        return frozenset(side for a, b, _ in self.terms for side in (a, b))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Identity:
    """Who is who in a batch.

    Attributes:
        key: Number of the patient, study or instance: equal numbers are one and the same.
        report: Number of the report's text; -1 for none.
        has: Which samples have each modality; one that is not named is there for all.
    """

    key: Int64[Tensor, " b"]
    report: Int64[Tensor, " b"]
    has: Mapping[str, Bool[Tensor, " b"]]

    def to(self, device: torch.device) -> "Identity":
        """Bring it to a device."""
        has = {name: flag.to(device) for name, flag in self.has.items()}
        return Identity(key=self.key.to(device), report=self.report.to(device), has=has)

    def relate(self, a: str, b: str) -> "Relation":
        """Find positives and ignored pairs of a term, among samples that have both sides.

        Equal keys are positives. Equal texts are positives where the report is a side; between CT
        and radiograph they say nothing, and are ignored.
        """
        every = torch.ones_like(self.key, dtype=torch.bool)
        chosen = (self.has.get(a, every) & self.has.get(b, every)).nonzero().flatten()
        key, report = self.key[chosen], self.report[chosen]
        same = key[:, None] == key
        alike = (report[:, None] == report) & (report[:, None] >= 0)
        if Modality.REPORT in (a, b):
            return Relation(chosen=chosen, positive=same | alike, ignored=torch.zeros_like(same))
        return Relation(chosen=chosen, positive=same, ignored=alike & ~same)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relation:
    """How the samples of one term stand to each other.

    Attributes:
        chosen: Samples that have both modalities.
        positive: Pairs to pull together.
        ignored: Pairs to leave alone.
    """

    chosen: Int64[Tensor, " n"]
    positive: Bool[Tensor, "n n"]
    ignored: Bool[Tensor, "n n"]


class LogitScale(nn.Module):
    """The factor of the cosines, and for SigLIP their offset.

    Args:
        kind: Where the factor comes from; only a learned one is a parameter.
        loss: The loss it is for.
        value: The factor, or its start; None takes the loss's usual start.

    Raises:
        ConfigError: A frozen or fixed scale without a value, or one that is not positive.
    """

    def __init__(self, kind: Scale, loss: LossKind, value: float | None = None) -> None:
        super().__init__()
        if value is None and kind is not Scale.LEARNED:
            raise ConfigError(
                f"a {kind} scale needs a value, got none; give loss.scale_value, or cached targets "
                "of an encoder that has one, or take scale = learned"
            )
        usual = SIGLIP_SCALE if loss is LossKind.SIGLIP else CLIP_SCALE
        start = usual if value is None else value
        if not (math.isfinite(start) and start > 0):
            raise ConfigError(f"the logit scale must be positive, got {start}; 1/0.07 is usual")
        log, bias = torch.tensor(math.log(start)), torch.tensor(SIGLIP_BIAS)
        self.is_learned = kind is Scale.LEARNED
        if self.is_learned:
            self.log_scale: Tensor = nn.Parameter(log)
        else:
            self.register_buffer("log_scale", log)
        if loss is LossKind.SIGLIP:
            self.bias: Tensor | None = nn.Parameter(bias)
        else:
            self.bias = None

    def forward(self, cosines: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Turn cosines into logits."""
        log = self.log_scale
        if self.is_learned:
            log = log.clamp(max=math.log(MAX_SCALE))
        logits = cosines * log.exp()
        return logits if self.bias is None else logits + self.bias


def infonce(
    logits: Float[Tensor, "n n"], positive: Bool[Tensor, "n n"], ignored: Bool[Tensor, "n n"]
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with any number of positives a row.

    Each row's target is spread evenly over its positives; with one positive a row this is the mean
    of two cross-entropies against the diagonal.

    Source:
        van den Oord et al. 2018; Khosla et al. 2020, equation 2, for several positives.

    Example:
        Two samples that nothing tells apart cost ln 2:

        >>> yes, no = torch.eye(2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)
        >>> infonce(torch.zeros(2, 2), yes, no)
        tensor(0.6931)
    """
    # Far below any logit and still finite, so that zero times it is zero.
    seen = logits.float().masked_fill(ignored, torch.finfo(torch.float32).min / 4)
    target = positive.float()
    rows = functional.cross_entropy(seen, target / target.sum(1, keepdim=True))
    columns = functional.cross_entropy(seen.T, target.T / target.T.sum(1, keepdim=True))
    return (rows + columns) / 2


def siglip(
    logits: Float[Tensor, "n n"], positive: Bool[Tensor, "n n"], ignored: Bool[Tensor, "n n"]
) -> Float[Tensor, ""]:
    """Sigmoid loss: each pair is a question of its own.

    Source:
        Zhai et al. 2023, Sigmoid loss for language image pre-training, equation 1.
    """
    sign = positive.float() * 2 - 1
    each = -functional.logsigmoid(sign * logits.float())
    return each.masked_fill(ignored, 0.0).sum() / len(logits)


_LOSSES = {LossKind.INFONCE: infonce, LossKind.SIGLIP: siglip}


def tri_modal_loss(
    embeddings: Embeddings,
    identity: Identity,
    scale: LogitScale,
    *,
    weights: Weights,
    kind: LossKind = LossKind.INFONCE,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Weigh and sum the terms.

    A term compares the samples that have both of its modalities; with fewer than two of them it
    is zero, and its gradient too.

    Args:
        embeddings: Unit vectors by modality, ``b e``; rows of samples that lack it may hold
            anything finite.
        identity: Who is who.
        scale: The factor of the cosines.
        weights: Weights of the terms.
        kind: Which loss.

    Returns:
        The loss, and each term without its weight, by name such as ``cxr-report``.

    Raises:
        InputError: Embeddings of a modality that a term needs are missing.
    """
    total = next(iter(embeddings.values())).new_zeros((), dtype=torch.float32)
    told = {}
    for a, b, weight in weights.terms:
        if a not in embeddings or b not in embeddings:
            raise InputError(
                f"the term {a}-{b} has weight {weight}, but there are embeddings of "
                f"{', '.join(sorted(embeddings))} only; give the other, or set its weight to 0"
            )
        relation = identity.relate(a, b)
        left, right = embeddings[a][relation.chosen], embeddings[b][relation.chosen]
        if len(relation.chosen) < 2:
            term = (left.sum() + right.sum()) * 0.0
        else:
            logits = scale(left.float() @ right.float().T)
            term = _LOSSES[kind](logits, relation.positive, relation.ignored)
        told[f"{a}-{b}"] = float(term.detach())
        total = total + weight * term
    return total, told


def count_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    """Joins the tensors of all processes; its gradient comes back from all of them."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(count_processes())]
        dist.all_gather(parts, mine.contiguous())
        ctx.rows = len(mine)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)  # every process holds a part of it: the sum is the whole
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def gather(mine: Tensor) -> Tensor:
    """Join a tensor over all processes, row after row; gradients flow back to where it came from.

    When each process then takes the same loss of the whole batch and gradients of parameters are
    averaged over processes, they are those of one process with the whole batch.

    Args:
        mine: Rows of this process, as many as every other has.
    """
    if count_processes() == 1:
        return mine
    if not mine.is_floating_point():
        parts = [torch.empty_like(mine) for _ in range(count_processes())]
        dist.all_gather(parts, mine.contiguous())
        return torch.cat(parts)
    joined: Tensor = _Gather.apply(mine)
    return joined


def gather_identity(mine: Identity) -> Identity:
    """Join who is who over all processes."""
    return Identity(
        key=gather(mine.key),
        report=gather(mine.report),
        # Booleans cannot be gathered everywhere; bytes can.
        has={name: gather(flag.to(torch.uint8)).bool() for name, flag in mine.has.items()},
    )


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over processes, as data parallel training does."""
    if count_processes() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= count_processes()


def backward_in_chunks(
    encode: Callable[[slice], Embeddings],
    loss_of: Callable[[Embeddings], tuple[Tensor, dict[str, float]]],
    *,
    batch: int,
    chunk: int,
) -> tuple[Tensor, dict[str, float]]:
    """Take the gradient of a whole batch's loss with the memory of a chunk.

    Every chunk is encoded without a gradient, the loss of all gives the gradient of each embedding,
    and every chunk is encoded again to take it to the parameters. Random numbers are the same both
    times and are drawn on where one pass would have left them. Layers that mix samples (batch
    norm) see chunks; all others give the gradient of one step.

    Args:
        encode: Encodes a slice of the batch; of each modality rows of that slice.
        loss_of: Loss of the whole batch.
        batch: Samples in the batch.
        chunk: Samples to encode at once; all of them takes the plain way.

    Returns:
        What ``loss_of`` answers; gradients are added to the parameters.

    Source:
        Gao et al. 2021, Scaling deep contrastive learning batch size (GradCache).
    """
    if chunk >= batch:
        loss, told = loss_of(encode(slice(0, batch)))
        loss.backward()
        return loss.detach(), told
    slices = [slice(start, min(start + chunk, batch)) for start in range(0, batch, chunk)]
    states, parts = [], []
    with torch.no_grad():
        for each in slices:
            states.append(_read_random_state())
            parts.append(encode(each))
    whole = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
    loss, told = loss_of(whole)
    loss.backward()
    after = _read_random_state()
    for each, state in zip(slices, states, strict=True):
        _set_random_state(state)
        for name, embedding in encode(each).items():
            gradient = whole[name].grad
            if gradient is not None and embedding.requires_grad:
                embedding.backward(gradient[each], retain_graph=True)
    _set_random_state(after)
    return loss.detach(), told


def _read_random_state() -> tuple[Tensor, Tensor | None]:
    """Read the state of torch's random numbers, on the processor and on the current GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    """Set it again."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
