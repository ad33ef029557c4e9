"""Every tensor of a CT-CLIP checkpoint: its name, its shape, and whether inference needs it.

Architecture after Hamamci et al. 2024 (CT-CLIP, arXiv 2403.17834); its video transformer is that
of Phenaki (Villegas et al. 2022). Written anew from published facts; the weights are the authors',
under CC-BY-NC-SA 4.0, and are not part of drrgen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

VISUAL, TEXT = "visual_transformer.", "text_transformer."
FIRST_FRAME = "to_patch_emb_first_frame."


@dataclass(frozen=True, slots=True, kw_only=True)
class CTShape:
    """Sizes of the CT tower; the defaults are those of CT-CLIP.

    Attributes:
        dim: Width of a token.
        heads: Heads of attention.
        head_dim: Width of a head.
        layers: Layers of the spatial and of the temporal transformer, each.
        codes: Rows of the codebook.
        patch: Height and width of a patch [voxels].
        patch_depth: Depth of a patch [voxels].
        grid: Patches along depth, height and width.
        latent: Width of the embedding.
    """

    dim: int = 512
    heads: int = 8
    head_dim: int = 32
    layers: int = 4
    codes: int = 8192
    patch: int = 20
    patch_depth: int = 10
    grid: tuple[int, int, int] = (24, 24, 24)
    latent: int = 512

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    @property
    def hidden(self) -> int:
        """Width inside the feed-forward layers."""
        return int(4 * 2 / 3 * self.dim)

    @property
    def patch_voxels(self) -> int:
        """Voxels of a patch."""
        return self.patch_depth * self.patch**2

    @property
    def volume(self) -> tuple[int, int, int]:
        """Voxels of the input along depth, height and width."""
        t, h, w = self.grid
        return t * self.patch_depth, h * self.patch, w * self.patch


@dataclass(frozen=True, slots=True, kw_only=True)
class TextShape:
    """Sizes of the report tower; the defaults are those of BERT base.

    Attributes:
        dim: Width of a token.
        heads: Heads of attention.
        layers: Layers.
        hidden: Width inside the feed-forward layers.
        tokens: The longest text.
        words: Rows of the vocabulary.
        latent: Width of the embedding.
    """

    dim: int = 768
    heads: int = 12
    layers: int = 12
    hidden: int = 3072
    tokens: int = 512
    words: int = 30522
    latent: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor of the file.

    Attributes:
        name: Its key.
        shape: Its size.
        is_used: Whether inference needs it; else it may be absent, and is not loaded.
    """

    name: str
    shape: tuple[int, ...]
    is_used: bool = True


def list_tensors(ct: CTShape | None = None, text: TextShape | None = None) -> list[TensorSpec]:
    """List every tensor of a checkpoint.

    Args:
        ct: Sizes of the CT tower; None takes those of CT-CLIP.
        text: Sizes of the report tower; likewise.

    Example:
        >>> len(list_tensors())
        362
    """
    ct, text = ct or CTShape(), text or TextShape()
    _, h, w = ct.grid
    pooled = h * w * ct.dim
    heads = [
        ("to_text_latent.weight", (text.latent, text.dim), True),
        ("to_visual_latent.weight", (ct.latent, pooled), True),
        ("to_text_latent_extra.weight", (text.latent, text.dim), False),
        ("to_visual_latent_extra.weight", (ct.latent, pooled), False),
        ("temperature", (), True),
    ]
    every = [*_list_ct(ct), *_list_text(text), *heads]
    return [TensorSpec(name=name, shape=shape, is_used=used) for name, shape, used in every]


_Line = tuple[str, tuple[int, ...], bool]


def _pair(name: str, weight: tuple[int, ...], *, used: bool = True) -> Iterator[_Line]:
    """Weight and bias of a layer."""
    yield f"{name}.weight", weight, used
    yield f"{name}.bias", weight[:1], used


def _list_ct(shape: CTShape) -> Iterator[_Line]:
    """List the CT tower."""
    d, voxels, flat = shape.dim, shape.patch_voxels, shape.patch**2
    bias = f"{VISUAL}spatial_rel_pos_bias.net."
    yield from _pair(f"{bias}0.0", (d, 2))
    yield from _pair(f"{bias}1.0", (d, d))
    yield from _pair(f"{bias}2", (shape.heads, d))
    for name, n, used in ((FIRST_FRAME, flat, False), ("to_patch_emb.", voxels, True)):
        yield from _pair(f"{VISUAL}{name}1", (n,), used=used)
        yield from _pair(f"{VISUAL}{name}2", (d, n), used=used)
        yield from _pair(f"{VISUAL}{name}3", (d,), used=used)
    for part in ("spatial", "temporal"):
        yield from _list_transformer(f"{VISUAL}enc_{part}_transformer.", shape)
    book = f"{VISUAL}vq._codebook."
    yield f"{book}initted", (1,), False
    yield f"{book}cluster_size", (1, shape.codes), False
    yield f"{book}embed", (1, shape.codes, d), True
    yield from _pair(f"{VISUAL}to_pixels_first_frame.0", (flat, d), used=False)
    yield from _pair(f"{VISUAL}to_pixels.0", (voxels, d), used=False)


def _list_transformer(prefix: str, shape: CTShape) -> Iterator[_Line]:
    """List one of the two transformers of the CT tower."""
    d = shape.dim
    for i in range(shape.layers):
        layer = f"{prefix}layers.{i}."
        yield from _pair(f"{layer}0.dsconv", (d, 1, 3, 3, 3))
        for norm, used in (("norm", True), ("context_norm", False)):
            yield f"{layer}1.{norm}.gamma", (d,), used
            yield f"{layer}1.{norm}.beta", (d,), used
        yield f"{layer}1.null_kv", (shape.heads, 0, shape.head_dim), False
        yield f"{layer}1.to_q.weight", (shape.inner, d), True
        yield f"{layer}1.to_kv.weight", (2 * shape.inner, d), True
        yield f"{layer}1.q_scale", (shape.head_dim,), True
        yield f"{layer}1.k_scale", (shape.head_dim,), True
        yield f"{layer}1.to_out.weight", (d, shape.inner), True
        yield from _pair(f"{layer}3.0", (d,))
        yield f"{layer}3.1.weight", (2 * shape.hidden, d), True
        yield f"{layer}3.4.weight", (d, shape.hidden), True
    yield f"{prefix}norm_out.gamma", (d,), True
    yield f"{prefix}norm_out.beta", (d,), True


def _list_text(shape: TextShape) -> Iterator[_Line]:
    """List the report tower: BERT."""
    d = shape.dim
    yield f"{TEXT}embeddings.position_ids", (1, shape.tokens), False
    for name, rows in (("word", shape.words), ("position", shape.tokens), ("token_type", 2)):
        yield f"{TEXT}embeddings.{name}_embeddings.weight", (rows, d), True
    yield from _pair(f"{TEXT}embeddings.LayerNorm", (d,))
    for i in range(shape.layers):
        layer = f"{TEXT}encoder.layer.{i}."
        for name in ("query", "key", "value"):
            yield from _pair(f"{layer}attention.self.{name}", (d, d))
        yield from _pair(f"{layer}attention.output.dense", (d, d))
        yield from _pair(f"{layer}attention.output.LayerNorm", (d,))
        yield from _pair(f"{layer}intermediate.dense", (shape.hidden, d))
        yield from _pair(f"{layer}output.dense", (d, shape.hidden))
        yield from _pair(f"{layer}output.LayerNorm", (d,))
    yield from _pair(f"{TEXT}pooler.dense", (d, d), used=False)
