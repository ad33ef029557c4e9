"""Random weights under the names and in the shapes of a CT-CLIP checkpoint, of a size for tests."""

import torch
from drrgen_training.ctclip.table import CTShape, TextShape, list_tensors
from torch import Tensor

TINY_CT = CTShape(
    dim=32, heads=2, head_dim=8, layers=2, codes=16, patch=4, patch_depth=2, grid=(4, 4, 4),
    latent=12,
)  # fmt: skip
TINY_TEXT = TextShape(dim=32, heads=2, layers=2, hidden=64, tokens=24, words=40, latent=12)


def make_state(
    ct: CTShape = TINY_CT, text: TextShape = TINY_TEXT, seed: int = 0
) -> dict[str, Tensor]:
    """Make every tensor of the table."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for spec in list_tensors(ct, text):
        values = torch.randn(spec.shape, generator=generator)
        fan_in = max(1, spec.shape[-1] if len(spec.shape) > 1 else 4)
        state[spec.name] = values / fan_in**0.5
        if spec.name.endswith(("gamma", "scale")) or ".3.0.weight" in spec.name:
            state[spec.name] = 1 + 0.2 * values
        if spec.name.endswith("beta"):
            state[spec.name] = torch.zeros(spec.shape)
        if spec.name.endswith("position_ids"):
            state[spec.name] = torch.arange(text.tokens)[None]
    return state
