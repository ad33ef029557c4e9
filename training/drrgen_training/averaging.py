"""An average of the weights over the steps: it does better than the last ones of a short run."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from drrgen_training.model import TriModal


@dataclass(slots=True)
class Average:
    """A running average of what is trained; running statistics are taken as they are.

    Args:
        model: Whose weights.
        decay: Share of the average that stays at a step; less in the first steps.
    """

    model: TriModal
    decay: float
    weights: dict[str, Tensor] = field(init=False)
    _trained: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = {name: t.detach().clone() for name, t in self.model.own_state().items()}
        self._trained = frozenset(name for name, _ in self.model.find_trained())

    @torch.no_grad()
    def follow(self, model: TriModal, step: int) -> None:
        """Move towards the model's weights, faster in the first steps, which are soon outdated."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in model.own_state().items():
            if name in self._trained:
                self.weights[name].lerp_(tensor, 1 - decay)
            else:
                self.weights[name].copy_(tensor)

    def swap_in(self, model: TriModal) -> dict[str, Tensor]:
        """Put the average into the model; return what was there."""
        kept = {name: t.detach().clone() for name, t in model.own_state().items()}
        model.load_own(self.weights)
        return kept

    @staticmethod
    def swap_out(model: TriModal, kept: dict[str, Tensor]) -> None:
        """Put back what was there."""
        model.load_own(kept)
