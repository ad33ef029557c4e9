"""The CT tower of CT-CLIP: patches, a spatial and a temporal transformer, a codebook, one vector.

Names of modules are those of the checkpoint. ``t h w`` are patches along depth, height and width.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from drrgen.errors import InputError
from drrgen_training.ctclip.table import CTShape

ATTENTION_SCALE = 8.0  # of the cosines of queries and keys
QUANTISE_TOKENS = 1024  # compared with the codebook at once: 34 MB instead of 453 MB a volume
_EPS = 1e-5


class GainNorm(nn.Module):
    """Layer norm with a gain, and an offset that is not trained and zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.register_buffer("beta", torch.zeros(dim))
        self.beta: Tensor

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Normalise each token."""
        return functional.layer_norm(x, x.shape[-1:], self.gamma, self.beta, _EPS)


class Peg(nn.Module):
    """Position encoding by a depthwise convolution over the grid, which looks back in its depth.

    The tokens are *reshaped* to ``b t h w``, whatever their order is. Those of the temporal
    transformer lie ``b h w t``, so there its axes see (h, w, t): the published weights were trained
    with it, on a grid of equal sides.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(dim, dim, 3, groups=dim)

    def forward(
        self, x: Float[Tensor, "n s d"], grid: tuple[int, int, int, int]
    ) -> Float[Tensor, "n s d"]:
        """Look at each token's neighbours in ``grid``: samples, depth, height, width."""
        laid = x.reshape(*grid, x.shape[-1]).movedim(-1, 1)
        seen = self.dsconv(functional.pad(laid, (1, 1, 1, 1, 2, 0)))
        return seen.movedim(1, -1).reshape(x.shape)


class Attention(nn.Module):
    """Self-attention of cosines; keys and values come from tokens that are *not* normalised."""

    def __init__(self, shape: CTShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.norm = GainNorm(shape.dim)
        self.to_q = nn.Linear(shape.dim, shape.inner, bias=False)
        self.to_kv = nn.Linear(shape.dim, 2 * shape.inner, bias=False)
        self.q_scale = nn.Parameter(torch.ones(shape.head_dim))
        self.k_scale = nn.Parameter(torch.ones(shape.head_dim))
        self.to_out = nn.Linear(shape.inner, shape.dim, bias=False)

    def forward(
        self, x: Float[Tensor, "n s d"], bias: Float[Tensor, "h s s"] | None = None
    ) -> Float[Tensor, "n s d"]:
        """Attend over the tokens of each sequence."""
        q, (k, v) = self.to_q(self.norm(x)), self.to_kv(x).chunk(2, dim=-1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        q = functional.normalize(q, dim=-1) * self.q_scale
        k = functional.normalize(k, dim=-1) * self.k_scale
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, scale=ATTENTION_SCALE
        )
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class Gate(nn.Module):
    """The first half of the features, gated by the second."""

    def forward(self, x: Float[Tensor, "*b two_d"]) -> Float[Tensor, "*b d"]:
        """Gate."""
        value, gate = x.chunk(2, dim=-1)
        return functional.gelu(gate) * value


class Transformer(nn.Module):
    """Layers of position encoding, attention and feed-forward, each added to its input."""

    def __init__(self, shape: CTShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self._make_layer(shape) for _ in range(shape.layers))
        self.norm_out = GainNorm(shape.dim)

    @staticmethod
    def _make_layer(shape: CTShape) -> nn.ModuleDict:
        """Make a layer; it has no member 2, which would be cross-attention."""
        feed_forward = nn.Sequential(
            nn.LayerNorm(shape.dim),
            nn.Linear(shape.dim, 2 * shape.hidden, bias=False),
            Gate(),
            nn.Identity(),  # dropout, in training
            nn.Linear(shape.hidden, shape.dim, bias=False),
        )
        return nn.ModuleDict({"0": Peg(shape.dim), "1": Attention(shape), "3": feed_forward})

    def forward(
        self,
        x: Float[Tensor, "n s d"],
        grid: tuple[int, int, int, int],
        bias: Float[Tensor, "h s s"] | None = None,
    ) -> Float[Tensor, "n s d"]:
        """Transform the tokens of each sequence; ``grid`` is that of the whole batch."""
        for layer in self.layers:
            peg, attention, feed_forward = layer.children()
            x = peg(x, grid) + x
            x = attention(x, bias) + x
            x = feed_forward(x) + x
        return self.norm_out(x)


class PositionBias(nn.Module):
    """What attention adds for the way between two places of a plane, from a small network.

    It is the same for all frames, layers and volumes, so it is kept until other weights come.
    """

    def __init__(self, shape: CTShape) -> None:
        super().__init__()
        d = shape.dim
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(2, d), nn.LeakyReLU(0.1)),
            nn.Sequential(nn.Linear(d, d), nn.LeakyReLU(0.1)),
            nn.Linear(d, shape.heads),
        )
        self._kept: Tensor | None = None
        self.register_load_state_dict_post_hook(lambda module, _: module.forget())

    def forget(self) -> None:
        """Let the next call compute it anew."""
        self._kept = None

    def forward(self, h: int, w: int) -> Float[Tensor, "heads s s"]:
        """Make the bias between all places of a plane of ``h`` times ``w``."""
        weight = next(self.parameters())
        kept = self._kept
        fits = kept is not None and kept.device == weight.device and kept.dtype == weight.dtype
        if kept is None or not fits or kept.shape[-1] != h * w:
            kept = self._kept = self._make(h, w)
        return kept

    def _make(self, h: int, w: int) -> Float[Tensor, "heads s s"]:
        """Ask the network once for each way there is, and look all pairs up among the answers."""
        down, right = torch.arange(1 - h, h), torch.arange(1 - w, w)
        ways = torch.stack(torch.meshgrid(down, right, indexing="ij"), dim=-1)
        answers = self.net((ways.sign() * (ways.abs() + 1).log()).to(next(self.parameters())))
        places = torch.cartesian_prod(torch.arange(h), torch.arange(w))
        between = places[:, None] - places[None]
        chosen = answers[between[..., 0] + h - 1, between[..., 1] + w - 1]
        return chosen.movedim(-1, 0).contiguous()


class Codebook(nn.Module):
    """The stored codes."""

    def __init__(self, shape: CTShape) -> None:
        super().__init__()
        self.register_buffer("embed", torch.randn(1, shape.codes, shape.dim))
        self.embed: Tensor


class Quantizer(nn.Module):
    """Puts in place of each token the code of the nearest direction, as it is stored."""

    def __init__(self, shape: CTShape) -> None:
        super().__init__()
        self._codebook = Codebook(shape)

    def find_codes(self, x: Float[Tensor, "n d"]) -> Int64[Tensor, " n"]:
        """Find the code nearest to each token, in float32 whatever runs around it."""
        with torch.autocast(x.device.type, enabled=False):
            directions = functional.normalize(self._codebook.embed[0].float(), dim=-1)
            parts = functional.normalize(x.float(), dim=-1).split(QUANTISE_TOKENS)
            return torch.cat([(part @ directions.T).argmax(dim=-1) for part in parts])

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Quantise each token."""
        codes = self.find_codes(x.flatten(end_dim=-2))
        return self._codebook.embed[0][codes].reshape(x.shape)


class Patches(nn.Module):
    """Cuts a volume into patches, each flattened."""

    def __init__(self, shape: CTShape) -> None:
        super().__init__()
        self.sides = shape.patch_depth, shape.patch, shape.patch

    def forward(self, volume: Float[Tensor, "b 1 z x y"]) -> Float[Tensor, "b t h w v"]:
        """Cut."""
        cut = volume[:, 0]
        for axis, side in zip((1, 3, 5), self.sides, strict=True):
            cut = cut.unflatten(axis, (-1, side))
        return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)


class CTViT(nn.Module):
    """From a volume to quantised tokens."""

    def __init__(self, shape: CTShape) -> None:
        super().__init__()
        self.spatial_rel_pos_bias = PositionBias(shape)
        self.to_patch_emb = nn.Sequential(
            Patches(shape),
            nn.LayerNorm(shape.patch_voxels),
            nn.Linear(shape.patch_voxels, shape.dim),
            nn.LayerNorm(shape.dim),
        )
        self.enc_spatial_transformer = Transformer(shape)
        self.enc_temporal_transformer = Transformer(shape)
        self.vq = Quantizer(shape)

    def forward(self, volume: Float[Tensor, "b 1 z x y"]) -> Float[Tensor, "b t h w d"]:
        """Encode volumes of the shape's size, in [-1, 1]."""
        x = self.to_patch_emb(volume)
        b, t, h, w, _ = grid = x.shape
        x = x.flatten(0, 1).flatten(1, 2)  # (b t) (h w) d
        x = self.enc_spatial_transformer(x, tuple(grid[:4]), self.spatial_rel_pos_bias(h, w))
        x = x.reshape(b, t, h * w, -1).transpose(1, 2).flatten(0, 1)  # (b h w) t d
        x = self.enc_temporal_transformer(x.contiguous(), tuple(grid[:4]))
        x = x.reshape(b, h, w, t, -1).permute(0, 3, 1, 2, 4)
        return self.vq(x)


class CTTower(nn.Module):
    """From a volume to a unit vector. Always in evaluation: training would move the codebook."""

    def __init__(self, shape: CTShape | None = None) -> None:
        super().__init__()
        self.shape = shape or CTShape()
        _, h, w = self.shape.grid
        self.visual_transformer = CTViT(self.shape)
        self.to_visual_latent = nn.Linear(h * w * self.shape.dim, self.shape.latent, bias=False)
        self.requires_grad_(requires_grad=False)
        self.eval()

    def train(self, mode: bool = True) -> "CTTower":  # noqa: ARG002  torch's own
        """Stay in evaluation, whatever is asked."""
        return super().train(mode=False)

    @torch.no_grad()
    def forward(self, volume: Float[Tensor, "b 1 z x y"]) -> Float[Tensor, "b e"]:
        """Embed volumes.

        Args:
            volume: HU over 1000, in [-1, 1], see ``prepare_volume``.

        Raises:
            InputError: The volume is not of the size that the weights are for.
        """
        if tuple(volume.shape[2:]) != self.shape.volume:
            raise InputError(
                f"the CT encoder takes volumes of {self.shape.volume} voxels (z, x, y), got "
                f"{tuple(volume.shape[2:])}; make them with drrgen_training.ctclip.prepare"
            )
        tokens = self.visual_transformer(volume)
        pooled = tokens.mean(dim=1).flatten(1)
        return functional.normalize(self.to_visual_latent(pooled), dim=-1)
