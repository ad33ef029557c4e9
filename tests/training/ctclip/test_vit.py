"""The CT tower against a second derivation, and the quirks that its weights were trained with."""

import numpy as np
import pytest
import torch
from drrgen_training.ctclip.table import VISUAL, CTShape
from drrgen_training.ctclip.vit import Attention, CTTower, Peg
from scipy.special import erf
from torch import Tensor, nn
from weights import TINY_CT, make_state

from drrgen.errors import InputError

FLOAT_TOL = 1e-5  # float32 against float64
State = dict[str, np.ndarray]


def make_tower(shape: CTShape = TINY_CT, seed: int = 0) -> CTTower:
    tower = CTTower(shape)
    state = make_state(shape, seed=seed)
    tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    return tower


def make_volume(shape: CTShape = TINY_CT, b: int = 2) -> Tensor:
    return torch.randn(b, 1, *shape.volume, generator=torch.Generator().manual_seed(5))


# A second derivation, in numpy, float64 and loops; it shares no line with the module.


def norm(x: np.ndarray, gain: np.ndarray, offset: np.ndarray | float = 0.0) -> np.ndarray:
    middle = x - x.mean(-1, keepdims=True)
    return middle / np.sqrt((middle**2).mean(-1, keepdims=True) + 1e-5) * gain + offset


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def convolve_causal(x: np.ndarray, kernel: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Depthwise 3 x 3 x 3; along the first axis only what came before."""
    t, h, w, _ = x.shape
    out = np.zeros_like(x) + offset
    for i, j, k in np.ndindex(t, h, w):
        for a, b, c in np.ndindex(3, 3, 3):
            p, q, r = i + a - 2, j + b - 1, k + c - 1
            if p >= 0 and 0 <= q < h and 0 <= r < w:
                out[i, j, k] += kernel[:, 0, a, b, c] * x[p, q, r]
    return out


def attend(
    x: np.ndarray, s: State, name: str, shape: CTShape, bias: np.ndarray | None
) -> np.ndarray:
    """One sequence, one head at a time."""
    q = norm(x, s[f"{name}norm.gamma"]) @ s[f"{name}to_q.weight"].T
    kv = x @ s[f"{name}to_kv.weight"].T
    out = []
    for head in range(shape.heads):
        cut = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
        one = unit(q[:, cut]) * s[f"{name}q_scale"]
        two = unit(kv[:, : shape.inner][:, cut]) * s[f"{name}k_scale"]
        logits = 8 * one @ two.T + (0 if bias is None else bias[head])
        share = np.exp(logits - logits.max(-1, keepdims=True))
        out.append(share / share.sum(-1, keepdims=True) @ kv[:, shape.inner :][:, cut])
    return np.concatenate(out, axis=-1) @ s[f"{name}to_out.weight"].T


def transform(
    sequences: np.ndarray, s: State, name: str, shape: CTShape, bias: np.ndarray | None
) -> np.ndarray:
    """All sequences of one volume."""
    x, d = sequences, shape.dim
    for i in range(shape.layers):
        layer = f"{name}layers.{i}."
        laid = x.reshape(*shape.grid, d)
        seen = convolve_causal(laid, s[f"{layer}0.dsconv.weight"], s[f"{layer}0.dsconv.bias"])
        x = seen.reshape(x.shape) + x
        x = np.stack([attend(each, s, f"{layer}1.", shape, bias) for each in x]) + x
        wide = norm(x, s[f"{layer}3.0.weight"], s[f"{layer}3.0.bias"]) @ s[f"{layer}3.1.weight"].T
        value, gate = wide[..., : shape.hidden], wide[..., shape.hidden :]
        x = (gate * (1 + erf(gate / np.sqrt(2))) / 2 * value) @ s[f"{layer}3.4.weight"].T + x
    return norm(x, s[f"{name}norm_out.gamma"])


def find_bias(s: State, shape: CTShape) -> np.ndarray:
    _, h, w = shape.grid
    places = [(i, j) for i in range(h) for j in range(w)]
    out = np.zeros((shape.heads, h * w, h * w))
    for a, (i, j) in enumerate(places):
        for b, (k, m) in enumerate(places):
            way = np.array([i - k, j - m], float)
            x = np.sign(way) * np.log(np.abs(way) + 1)
            for n in ("0.0", "1.0", "2"):
                x = (
                    s[f"spatial_rel_pos_bias.net.{n}.weight"] @ x
                    + s[f"spatial_rel_pos_bias.net.{n}.bias"]
                )
                x = np.where(x > 0, x, 0.1 * x) if n != "2" else x
            out[:, a, b] = x
    return out


def derive(volume: np.ndarray, state: dict[str, Tensor], shape: CTShape) -> np.ndarray:
    """The embedding of one volume (z x y)."""
    s = {n.removeprefix(VISUAL): v.double().numpy() for n, v in state.items()}
    (t, h, w), pz, p = shape.grid, shape.patch_depth, shape.patch
    tokens = np.zeros((t, h, w, shape.patch_voxels))
    for i, j, k in np.ndindex(t, h, w):
        tokens[i, j, k] = volume[
            i * pz : (i + 1) * pz, j * p : (j + 1) * p, k * p : (k + 1) * p
        ].ravel()
    x = norm(tokens, s["to_patch_emb.1.weight"], s["to_patch_emb.1.bias"])
    x = x @ s["to_patch_emb.2.weight"].T + s["to_patch_emb.2.bias"]
    x = norm(x, s["to_patch_emb.3.weight"], s["to_patch_emb.3.bias"]).reshape(t, h * w, -1)
    x = transform(x, s, "enc_spatial_transformer.", shape, find_bias(s, shape))
    x = transform(x.transpose(1, 0, 2), s, "enc_temporal_transformer.", shape, None)  # (h w) t d
    book = s["vq._codebook.embed"][0]
    codes = (unit(x) @ unit(book).T).argmax(-1)
    pooled = book[codes].mean(axis=1).ravel()  # over t
    return unit(s["to_visual_latent.weight"] @ pooled)


def test_the_tower_is_what_a_second_derivation_makes_of_the_same_weights() -> None:
    volume = make_volume()
    found = make_tower()(volume)
    for one, made in zip(volume, found, strict=True):
        wanted = derive(one[0].double().numpy(), make_state(), TINY_CT)
        np.testing.assert_allclose(made.numpy(), wanted, atol=FLOAT_TOL)


def test_attention_scales_with_its_input() -> None:
    """So keys and values come from what is not normalised: else nothing would change."""
    torch.manual_seed(0)
    attention = Attention(TINY_CT).eval()
    x = torch.randn(3, 5, TINY_CT.dim)
    for c in (0.5, 3.0):
        torch.testing.assert_close(attention(c * x), c * attention(x), rtol=1e-4, atol=1e-4)


def test_the_temporal_position_code_is_a_relabelling_of_axes_on_equal_sides() -> None:
    """Reshaped tokens of order (h, w, t) are convolved as if h were depth; permuted, they agree."""
    torch.manual_seed(0)
    peg, d, n = Peg(6), 6, 4
    laid = torch.randn(2, n, n, n, d)  # b h w t
    literal = peg(laid.reshape(2 * n * n, n, d), (2, n, n, n)).reshape(laid.shape)
    padded = nn.functional.pad(laid.movedim(-1, 1), (1, 1, 1, 1, 2, 0))  # h looks back
    torch.testing.assert_close(literal, peg.dsconv(padded).movedim(1, -1))
    upright = peg(laid.permute(0, 3, 1, 2, 4).reshape(2 * n, n * n, d), (2, n, n, n))
    assert not torch.allclose(upright.reshape(2, n, n, n, d).permute(0, 2, 3, 1, 4), literal)


def test_quantising_twice_changes_nothing() -> None:
    vq = make_tower().visual_transformer.vq
    x = torch.randn(2, 3, TINY_CT.dim)
    once = vq(x)
    assert torch.equal(vq(once), once)
    rows = {tuple(row.tolist()) for row in vq._codebook.embed[0]}
    assert {tuple(row.tolist()) for row in once.flatten(0, 1)} <= rows


def test_quantising_in_chunks_finds_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    vq = make_tower().visual_transformer.vq
    x = torch.randn(50, TINY_CT.dim)
    whole = vq.find_codes(x)
    monkeypatch.setattr("drrgen_training.ctclip.vit.QUANTISE_TOKENS", 7)
    assert torch.equal(vq.find_codes(x), whole)


def test_train_is_refused_and_changes_no_buffer() -> None:
    tower = make_tower()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.train()
    assert not any(module.training for module in tower.modules())
    assert not any(p.requires_grad for p in tower.parameters())
    first = tower(make_volume())
    assert torch.equal(tower(make_volume()), first) and not first.requires_grad
    for name, value in tower.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_position_bias_is_computed_once_and_anew_for_other_weights() -> None:
    tower = make_tower()
    bias = tower.visual_transformer.spatial_rel_pos_bias
    first = bias(4, 4)
    assert bias(4, 4) is first
    state = make_state(seed=1)
    tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    assert not torch.equal(bias(4, 4), first)


def test_a_batch_is_its_volumes_one_by_one() -> None:
    tower, volume = make_tower(), make_volume(b=3)
    alone = torch.cat([tower(each[None]) for each in volume])
    torch.testing.assert_close(tower(volume), alone, rtol=1e-5, atol=1e-6)


def test_another_size_is_told() -> None:
    with pytest.raises(
        InputError, match=r"takes volumes of \(8, 16, 16\) voxels .* got \(8, 16, 8\)"
    ):
        make_tower()(torch.zeros(1, 1, 8, 16, 8))


@pytest.mark.slow
def test_the_published_size_runs_on_random_weights() -> None:
    tower = CTTower()
    embedding = tower(torch.rand(1, 1, 240, 480, 480) * 2 - 1)
    assert embedding.shape == (1, 512)
    assert embedding.norm().item() == pytest.approx(1, abs=1e-5)
